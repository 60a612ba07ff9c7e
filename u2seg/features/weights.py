"""Find pretrained weights: a local file, a URL, or (elsewhere) the hub; checked by SHA-256."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

from tqdm import tqdm

from u2seg.config.env import cache_dir
from u2seg.errors import UserError
from u2seg.io.atomic import atomic_file, sha256_file

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0
PIECE = 1 << 20


def local_weights(weights: str, sha256: str = "", folder: Path | None = None) -> Path:
    """Return a local file for ``weights``, downloading it once if it is a URL.

    Args:
        weights: Path, or ``http(s)://`` / ``file://`` URL.
        sha256: Expected hexadecimal digest; empty = unchecked.
        folder: Where downloads are kept; the user's cache folder by default.

    Raises:
        UserError: if the file is missing, the download fails, or the digest differs (a damaged
            download is not kept).
    """
    if "://" not in weights:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"weight file {weights} does not exist (U2SEG.FEATURES.WEIGHTS). Give a local "
                "file or a URL, or use U2SEG.FEATURES.NAME filter_bank, which needs no weights"
            )
        return path
    parsed = urlparse(weights)
    if parsed.scheme not in ("http", "https", "file"):
        raise UserError(f"weights {weights!r}: scheme must be http, https or file")
    # The URL's digest keeps two files of the same name on two hosts apart.
    tag = hashlib.sha256(weights.encode()).hexdigest()[:12]
    name = f"{tag}-{Path(parsed.path).name or 'weights'}"
    target = (folder or cache_dir()) / "weights" / name
    if not target.is_file():
        _download(weights, target, sha256)
    return target


def _download(url: str, target: Path, sha256: str) -> None:
    logger.info("downloading %s to %s", url, target)
    try:
        with (
            atomic_file(target) as file,
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as response,  # noqa: S310
        ):
            size = int(response.headers.get("Content-Length") or 0) or None
            digest = hashlib.sha256()
            with tqdm(total=size, unit="B", unit_scale=True, desc=target.name) as bar:
                while piece := response.read(PIECE):
                    file.write(piece)
                    digest.update(piece)
                    bar.update(len(piece))
            if sha256 and digest.hexdigest() != sha256.lower():
                raise UserError(
                    f"{url} has sha256 {digest.hexdigest()}, expected {sha256}; not kept"
                )
    except UserError as error:
        if "cannot write" in str(error) and isinstance(error.__cause__, urllib.error.URLError):
            raise UserError(_no_download(url, error.__cause__)) from error
        raise
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise UserError(_no_download(url, error)) from error


def _no_download(url: str, error: Exception) -> str:
    return (
        f"cannot download {url}: {error}. Download it elsewhere and set U2SEG.FEATURES.WEIGHTS "
        "to the file"
    )


def check_sha256(path: Path, sha256: str) -> None:
    """Raise UserError if ``path`` does not have the expected digest (empty = unchecked)."""
    if sha256 and sha256_file(path) != sha256.lower():
        raise UserError(f"{path} has sha256 {sha256_file(path)}, expected {sha256}")
