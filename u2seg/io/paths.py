"""Join untrusted relative file names to a root without leaving it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
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
    return Folder(Path(root)).join(name)


@dataclass(frozen=True)
class Folder:
    """A trusted folder that many names are joined to; it is resolved once.

    Args:
        root: The folder.
    """

    root: Path

    @cached_property
    def _base(self) -> str:
        return os.path.realpath(self.root)

    def join(self, name: str) -> Path:
        """Return ``root / name``; UserError as ``safe_join``."""
        check_name(name, self.root)
        if self._holds_link(name):
            target = os.path.realpath(os.path.join(self._base, name))
            if os.path.commonpath([self._base, target]) != self._base:
                raise UserError(f"file name {name[:200]!r} leaves its root {self.root}")
        return self.root / name

    def _holds_link(self, name: str) -> bool:
        """Return whether a part of ``name`` below the root is a symbolic link."""
        path = self._base
        for part in name.split("/"):
            path = os.path.join(path, part)
            if os.path.islink(path):
                return True
        return False


def check_name(name: str, root: Path | str) -> None:
    """Raise UserError if the spelling of ``name`` leads out of any folder, as ``safe_join``."""
    if not name or "\0" in name or len(name) > MAX_NAME:
        raise UserError(f"file name {name[:80]!r} is empty, too long or holds a NUL")
    windows_drive = len(name) > 1 and name[1] == ":"
    backslash_up = ".." in name.replace("\\", "/").split("/")
    if PurePosixPath(name).is_absolute() or windows_drive or backslash_up:
        raise UserError(f"file name {name[:200]!r} leaves its root {root}")


def expand_home(text: str) -> str:
    """Return text with ``~`` or ``~user`` in front of a path expanded, as a shell does.

    Shells leave it in ``--output-dir=~/labels`` and in files.

    Examples:
        >>> os.path.isabs(expand_home("~/labels")), expand_home("a~/b"), expand_home("~")
        (True, 'a~/b', '~')
    """
    return os.path.expanduser(text) if text.startswith("~") and "/" in text else text


def expand_option(word: str) -> str:
    """Return a word of a command line with the path in it expanded, behind ``--option=`` too.

    Examples:
        >>> expand_option("--output=~/out") == "--output=" + expand_home("~/out")
        True
    """
    option, equals, value = word.partition("=")
    if word.startswith("--") and equals:
        return option + equals + expand_home(value)
    return expand_home(word)


def stem_of(file_name: str) -> str:
    """Return a relative file name without its suffix, sub-folders kept.

    Examples:
        >>> stem_of("a/b.c/photo.tar.jpg")
        'a/b.c/photo.tar'
    """
    return str(PurePosixPath(file_name).with_suffix(""))
