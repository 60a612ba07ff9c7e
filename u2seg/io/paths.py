"""Join untrusted relative file names to a root without leaving it."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from u2seg.errors import UserError

MAX_NAME = 4096


def safe_join(root: Path | str, name: str) -> Path:
    """Return ``root / name`` if that stays inside ``root``.

    Args:
        root: Trusted folder.
        name: Untrusted relative name with forward slashes, e.g. ``file_name`` of a COCO JSON.

    Returns:
        The joined path; it need not exist.

    Raises:
        UserError: if ``name`` is empty, absolute, longer than 4096 characters, holds a NUL or a
            backslash-separated ``..``, or leads out of ``root`` (also through a symbolic link).

    Examples:
        >>> safe_join("/data", "a/b.jpg").as_posix()
        '/data/a/b.jpg'
        >>> safe_join("/data", "../etc/passwd")
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: file name '../etc/passwd' leaves its root /data
    """
    check_name(name, root)
    base = os.path.realpath(root)
    target = os.path.realpath(os.path.join(base, name))
    if os.path.commonpath([base, target]) != base:
        raise UserError(f"file name {name[:200]!r} leaves its root {root}")
    return Path(root) / name


def check_name(name: str, root: Path | str) -> None:
    """Raise UserError if the spelling of ``name`` leads out of any folder, as ``safe_join``."""
    if not name or "\0" in name or len(name) > MAX_NAME:
        raise UserError(f"file name {name[:80]!r} is empty, too long or holds a NUL")
    windows_drive = len(name) > 1 and name[1] == ":"
    backslash_up = ".." in name.replace("\\", "/").split("/")
    if PurePosixPath(name).is_absolute() or windows_drive or backslash_up:
        raise UserError(f"file name {name[:200]!r} leaves its root {root}")


def stem_of(file_name: str) -> str:
    """Return a relative file name without its suffix, sub-folders kept.

    Examples:
        >>> stem_of("a/b.c/photo.tar.jpg")
        'a/b.c/photo.tar'
    """
    return str(PurePosixPath(file_name).with_suffix(""))
