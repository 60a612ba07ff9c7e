"""The one way this package writes a file: temporary name, flush, fsync, rename, fsync folder.

A reader therefore sees the old file or the new one, never a half of either.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = ".tmp"
"""Ending of unfinished files; their names start with a dot."""


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left below a folder; no writer may be at work there."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink()


def remove_file(path: Path) -> None:
    """Remove a file that an earlier run left, if it is there; UserError if that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot remove {path}, left by an earlier run: {error.strerror}. Remove it, or choose "
            "another output folder"
        ) from error


@contextlib.contextmanager
def atomic_file(path: Path | str, size: int = 0) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under ``path`` only if the block ends without an error.

    Args:
        path: Final name; missing parent folders are made.
        size: Bytes that will be written, if that is known, for the message on a full disk.

    Yields:
        A writable, seekable binary file.

    Raises:
        UserError: as ``cannot_write``, if the folder or file cannot be written (permissions, full
            disk, a file where a folder should be).
    """
    path = Path(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=TEMPORARY, dir=path.parent
        )
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error, size, _size(temporary)) from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def cannot_write(path: Path, error: OSError, size: int = 0, reached: int = 0) -> UserError:
    """Return the error that tells why a file cannot be written and what to do.

    Args:
        path: The file.
        error: What went wrong.
        size: Bytes it needs; 0 = not known.
        reached: Bytes that could be written.
    """
    reason = f"cannot write {path}: {error.strerror or error}"
    if error.errno not in _FULL:
        advice = "Check permissions and free space, or choose another output folder."
        return UserError(f"{reason}. {advice}")
    needs = f"needs {size} bytes" if size else f"needs more than {reached} bytes"
    return UserError(
        f"{reason}. The file {needs}, the free space there is {_free_space(path)} bytes: make room "
        "and run the same command again, or choose another output folder."
    )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _free_space(path: Path) -> int:
    folder = path
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _umask() -> int:
    # mkstemp makes files private (0600); results are for sharing, so apply the user's umask.
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically; UserError if that cannot be done."""
    with atomic_file(path, len(content)) as file:
        file.write(content)


def write_text(path: Path | str, content: str) -> None:
    """Write UTF-8 text to ``path`` atomically; UserError if that cannot be done."""
    write_bytes(path, content.encode("utf-8"))


def json_bytes(content: Any, *, indent: int | None = None) -> bytes:
    r"""Return canonical UTF-8 JSON: the same content always gives the same bytes.

    Raises:
        ValueError: for NaN or infinity, which JSON has no word for.

    Examples:
        >>> json_bytes({"b": 1, "a": [1.5]})
        b'{"a":[1.5],"b":1}\n'
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        content,
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        indent=indent,
        separators=separators,
    )
    # surrogateescape: POSIX file names need not be UTF-8; they must still round-trip.
    return (text + "\n").encode("utf-8", "surrogateescape")


def append_text(path: Path | str, content: str) -> None:
    """Add UTF-8 text at the end of a file, which is made if it is missing, and flush it to disk.

    Not atomic: whoever is killed here leaves a part of ``content`` behind. For logs whose lines
    are read one by one.

    Raises:
        UserError: as ``cannot_write``.
    """
    path = Path(path)
    data = content.encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error, len(content)) from error


def write_json(path: Path | str, content: Any, *, indent: int | None = None) -> None:
    """Write canonical JSON to ``path`` atomically; UserError if that cannot be done."""
    write_bytes(path, json_bytes(content, indent=indent))


def write_npy(path: Path | str, array: npt.NDArray[Any]) -> None:
    """Write an array as ``.npy`` (no pickle) to ``path`` atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_with(path: Path | str, writer: Callable[[IO[bytes]], None]) -> None:
    """Call ``writer(file)`` on a temporary file and rename it to ``path``."""
    with atomic_file(path) as file:
        writer(file)


def sha256_bytes(content: bytes) -> str:
    """Return the hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Return the hexadecimal SHA-256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
