"""Find pretrained weights: a local file, a URL, a library's cache, the hub; checked by SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from u2seg.config.env import cache_dir, offline
from u2seg.errors import UserError
from u2seg.io.atomic import atomic_file, sha256_file
from u2seg.io.checkpoints import refuse_other_kinds
from u2seg.io.progress import Bar

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""For a connection, and for each piece that is read from it."""
PIECE = 1 << 20
_RELEASES = "https://dl.fbaipublicfiles.com"
RELEASED = {
    "dino_vitb8": f"{_RELEASES}/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth",
    "dino_vits8": f"{_RELEASES}/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth",
    "dino_vitb16": f"{_RELEASES}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    "dino_vits16": f"{_RELEASES}/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    "dinov2_vitb14": f"{_RELEASES}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
    "dinov2_vits14": f"{_RELEASES}/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
}
"""Extractor -> its authors' file (hubconf.py of facebookresearch/dino and dinov2), best first."""
HUB_FILE = "model.safetensors"


def at_hand(name: str, hub_id: str) -> Path | None:
    """Return the weights of an extractor, such as ``dino_vitb8``, if they are on this machine.

    Looked for in the caches of the Hugging Face hub, of torch's hub, and of this package.
    """
    import torch
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, HUB_FILE) if hub_id else None
    places = [Path(found)] if isinstance(found, str) else []
    if url := RELEASED.get(name):
        places.append(Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2]))
        places.append(_kept(url, cache_dir()))
    return next((path for path in places if path.is_file()), None)


def fetch(name: str, hub_id: str) -> Path:
    """Return the weights from the hub, or else from their authors; UserError if from neither."""
    if offline():
        raise UserError(f"the weights of {name} are not on this machine, and --offline was given")
    from huggingface_hub import constants, hf_hub_download

    try:
        _ask(constants.ENDPOINT)  # the hub's own client would try again for minutes
        return Path(hf_hub_download(hub_id, HUB_FILE, etag_timeout=TIMEOUT_S))
    except Exception as error:
        if name not in RELEASED:
            raise UserError(
                f"cannot get the weights of {name} ({hub_id}) from the hub: {error}"
            ) from error
        logger.warning("%s: not from the hub (%s), trying its authors", name, type(error).__name__)
    return local_weights(RELEASED[name])


def _ask(url: str) -> None:
    """Raise OSError if a server does not answer in time; any answer will do."""
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(url, timeout=TIMEOUT_S).close()  # noqa: S310 - the hub's


def local_weights(weights: str, sha256: str = "", folder: Path | None = None) -> Path:
    """Return a local file for a path or a URL (http, https, file), which is downloaded once.

    Raises:
        UserError: if the file is missing, the download fails, or it has not the SHA-256 asked for
            (a damaged download is not kept).
    """
    if "://" not in weights:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"weight file {weights} does not exist (U2SEG.FEATURES.VIT.WEIGHTS). Give a local "
                "file or a URL, or use U2SEG.FEATURES.NAME filter_bank, which needs no weights"
            )
        return path
    parsed = urlparse(weights)
    if parsed.scheme not in ("http", "https", "file"):
        raise UserError(f"weights {weights!r}: scheme must be http, https or file")
    target = _kept(weights, folder or cache_dir())
    if not target.is_file():
        if offline() and parsed.scheme != "file":
            raise UserError(f"{weights} was never downloaded here, and --offline was given")
        _download(weights, target, sha256)
    return target


def _kept(url: str, folder: Path) -> Path:
    """Return where a download lies; the URL's digest keeps equal names of two hosts apart."""
    tag = hashlib.sha256(url.encode()).hexdigest()[:12]
    return folder / "weights" / f"{tag}-{Path(urlparse(url).path).name or 'weights'}"


def _download(url: str, target: Path, sha256: str) -> None:
    logger.info("downloading %s to %s", url, target)
    digest, count = hashlib.sha256(), 0
    with atomic_file(target) as file:
        for piece in _pieces(url, target.name):
            file.write(piece)
            digest.update(piece)
            if not count:
                refuse_other_kinds(piece, url)
            count += len(piece)
        if sha256 and digest.hexdigest() != sha256.lower():
            raise UserError(f"{url} has sha256 {digest.hexdigest()}, expected {sha256}; not kept")


def _pieces(url: str, name: str) -> Iterator[bytes]:
    """Yield what an address holds; UserError if it cannot be had, or not all of it."""
    count = 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310
            size = int(response.headers.get("Content-Length") or 0)
            with Bar(total=size or None, unit="B", unit_scale=True, desc=name) as bar:
                while piece := response.read(PIECE):
                    yield piece
                    count += len(piece)
                    bar.update(len(piece))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(_no_download(url, error)) from error
    if count < size:
        raise UserError(_no_download(url, f"it broke off after {count} of {size} bytes"))


def _no_download(url: str, error: Exception | str) -> str:
    return (
        f"cannot download {url}: {error}. Download it elsewhere and set U2SEG.FEATURES.VIT.WEIGHTS "
        "to the file"
    )


def check_sha256(path: Path, sha256: str) -> None:
    """Raise UserError if ``path`` does not have the expected digest (empty = unchecked)."""
    if sha256 and sha256_file(path) != sha256.lower():
        raise UserError(f"{path} has sha256 {sha256_file(path)}, expected {sha256}")
