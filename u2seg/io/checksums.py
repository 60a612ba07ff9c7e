"""Checkpoints that tell whether they are what was written: a SHA-256 beside each file.

``model_0000099.pth.sha256`` has the format of ``sha256sum``. It is there before its file is, so a
file of this package without one was never finished here; files from elsewhere need none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from u2seg.errors import UserError
from u2seg.io.atomic import TEMPORARY, atomic_file, sha256_file, write_text

logger = logging.getLogger(__name__)
LAST = "last_checkpoint"
"""Note that names the newest checkpoint of its folder."""
SIDECAR = ".sha256"
_NUMBERED = re.compile(r"model_\d{7,}\.pth")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class _Hashing:
    """The part of a binary file that ``torch.save`` needs; knows the digest of what it wrote."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()


def sidecar(path: Path) -> Path:
    """Return where the checksum of a file is.

    Examples:
        >>> sidecar(Path("a/model_final.pth")).name
        'model_final.pth.sha256'
    """
    return path.with_name(path.name + SIDECAR)


def save_checked(path: Path, writer: Callable[[Any], object]) -> None:
    """Write a file and its checksum; whenever this is interrupted, the two belong together.

    While an older file of the same name is replaced, the checksum names both.

    Args:
        path: Final name.
        writer: Called with a writable binary file, which cannot seek.

    Raises:
        UserError: if the folder cannot be written or the disk is full; the older file stays.
    """
    older = [sha256_file(path)] if path.is_file() else []
    with atomic_file(path) as file:
        hashing = _Hashing(file)
        try:
            writer(hashing)
        except Exception as error:
            # torch tells of a full disk as of an unexpected position
            raise (hashing.failure or error) from error
        newer = hashing.digest.hexdigest()
        _write_sidecar(path, [*older, newer])
    if older:
        _write_sidecar(path, [newer])


def _write_sidecar(path: Path, digests: Iterable[str]) -> None:
    write_text(sidecar(path), "".join(f"{digest}  {path.name}\n" for digest in digests))


def verify(path: Path) -> bool:
    """Compare a file with its checksum.

    Returns:
        False if there is no checksum, as beside published files.

    Raises:
        UserError: if the file is not what was written, or the checksum is garbled; names an
            intact file beside it.
    """
    note = sidecar(path)
    if not note.is_file():
        logger.debug("%s has no checksum beside it, it is taken as it is", path)
        return False
    found = sha256_file(path)
    known = _digests(note, path.name)
    if found not in known:
        reason = f"its SHA-256 is {found[:16]}..., {note.name} says {known[-1][:16]}..."
        raise UserError(f"{path} is damaged: {reason}. {_advice(path)}")
    return True


def _digests(note: Path, name: str) -> list[str]:
    known = _known(note, name)
    if not known:
        raise UserError(
            f"{note} is damaged: expected a SHA-256 and {name}. Remove it to load {name} "
            f"unchecked. {_advice(note)}"
        )
    return known


def _known(note: Path, name: str) -> list[str]:
    """Return the one or two digests of a checksum file; none if it is garbled."""
    try:
        lines = note.read_bytes().decode("ascii").split("\n")
    except (OSError, UnicodeDecodeError):
        return []
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    good = [m[1] for m in matches if m and m[2] == name]
    return good if 1 <= len(good) == len(matches) <= 2 and not lines[-1] else []


def _advice(bad: Path) -> str:
    names = intact(bad.parent, without=bad.name.removesuffix(SIDECAR))
    return f"Intact beside it: {names[-1]}" if names else "No other checkpoint is beside it"


def intact(folder: Path, without: str = "") -> list[str]:
    """Return the names of the ``.pth`` files of a folder that can be read, the newest last.

    Those without a checksum are judged by the sums that their zip format holds.

    Args:
        folder: May be missing.
        without: A name to leave out.
    """
    found = []
    for path in sorted(folder.glob("*.pth")) if folder.is_dir() else []:
        if path.name == without:
            continue
        if _is_intact(path):
            found.append(path.name)
    return found


def _is_intact(path: Path) -> bool:
    try:
        if sidecar(path).is_file():
            return sha256_file(path) in _known(sidecar(path), path.name)
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False


def save_checkpoint(
    folder: Path, name: str, writer: Callable[[Any], object], *, keep: int = 0
) -> None:
    """Write a checkpoint, then the note that it is the newest, then remove old ones.

    Killed at any moment, the note names a whole file.

    Args:
        folder: Output folder of the training.
        name: File name, e.g. ``model_0000099.pth``.
        writer: As in ``save_checked``.
        keep: Numbered checkpoints to keep, this one included; 0 = all.

    Raises:
        UserError: if the folder cannot be written or the disk is full; the checkpoints written
            before stay as they are.
    """
    save_checked(folder / name, writer)
    write_text(folder / LAST, name)
    if keep:
        files = (p for p in folder.glob("model_*.pth") if _NUMBERED.fullmatch(p.name))
        numbered = sorted(files, key=lambda p: (len(p.name), p.name))
        for path in [p for p in numbered if p.name != name][: max(0, len(numbered) - keep)]:
            for part in (path, sidecar(path)):
                part.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what killed writers of checkpoints left; no training may be at work there.

    Returns:
        The names of the files removed: unfinished ones, and checksums without a file.
    """
    patterns = (f".model_*{TEMPORARY}", f".{LAST}*{TEMPORARY}")
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    notes = folder.glob(f"model_*.pth{SIDECAR}")
    found += [note for note in notes if not note.with_suffix("").exists()]
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()
            logger.info("removed %s, left by a killed training", path)
    return sorted(path.name for path in found)
