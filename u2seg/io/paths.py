"""Names of files: joined to a root without leaving it, made distinct, found in tar shards."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from u2seg.errors import UserError

MAX_NAME = 4096
SHARD_KEYS = ("shard", "offset", "size")
"""What a record of ``images.json`` says of a photograph in a tar shard besides its name."""


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


def distinct_stems(file_names: Iterable[str]) -> list[str]:
    """Return a stem for each file name, no two of which are one on any file system.

    A label map, an id map or a picture bears its photograph's name without suffix. Where that
    would give two photographs one file (``a.jpg`` and ``a.png``; ``a.jpg`` and ``A.jpg`` where
    cases are not told apart), the later one gets its suffix, then a number, into the name.

    Args:
        file_names: Relative names with forward slashes, in an order that does not change.

    Examples:
        >>> distinct_stems(["a.jpg", "a.png", "A.png", "b/a.jpg"])
        ['a', 'a_png', 'A_2', 'b/a']
    """
    taken: set[str] = set()
    stems = []
    for name in file_names:
        stem, suffix = stem_of(name), PurePosixPath(name).suffix[1:]
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        candidates = itertools.chain((stem, f"{stem}_{suffix}"), numbered)
        stem = next(c for c in candidates if _folded(c) not in taken)
        taken.add(_folded(stem))
        stems.append(stem)
    return stems


def _folded(name: str) -> str:
    """Return a name as file systems see it that fold case or accents."""
    return unicodedata.normalize("NFC", name).casefold()


def label_stem(record: Mapping[str, Any]) -> str:
    """Return how the label files of a record of ``images.json`` are called, without suffix.

    Examples:
        >>> label_stem({"file_name": "a.jpg"}), label_stem({"file_name": "a.png", "stem": "a_png"})
        ('a', 'a_png')
    """
    return str(record.get("stem") or stem_of(record["file_name"]))


@dataclass(frozen=True)
class ImageFile:
    """A photograph on disk, not opened yet.

    Args:
        path: The file.
        offset: First byte of the photograph in it.
        size: Bytes of the photograph; None = up to the end of the file.
        name: Name of the photograph inside a shard, for messages.
        sha256: Of the photograph that was labelled; empty = not known. Reading compares.

    Examples:
        >>> print(ImageFile(Path("photos/a.jpg")))
        photos/a.jpg
        >>> print(ImageFile(Path("s-0.tar"), offset=512, size=99, name="a.jpg"))
        s-0.tar/a.jpg
    """

    path: Path
    offset: int = 0
    size: int | None = None
    name: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        return str(self.path / self.name) if self.name else str(self.path)


def image_file(root: Path | str, record: Mapping[str, Any]) -> ImageFile:
    """Return where a record of ``images.json`` has its photograph.

    Args:
        root: ``info.image_root`` of the file, or the folder the photographs lie in now.
        record: ``file_name``; for a photograph in a tar shard also ``shard`` (the shard's name
            relative to ``root``), ``offset`` and ``size`` in bytes; perhaps ``sha256``.

    Raises:
        UserError: if a name leaves ``root``, or offset and size are no numbers >= 0.

    Examples:
        >>> print(image_file("/data", {"file_name": "a/b.jpg"}))
        /data/a/b.jpg
        >>> record = {"file_name": "b.jpg", "shard": "s/0.tar", "offset": 512, "size": 99}
        >>> image_file("/data", record).path.as_posix()
        '/data/s/0.tar'
    """
    name, known = record["file_name"], str(record.get("sha256") or "")
    if "shard" not in record:
        return ImageFile(safe_join(root, name), sha256=known)
    shard, offset, size = (record.get(key) for key in SHARD_KEYS)
    if not isinstance(shard, str) or not _is_count(offset) or not _is_count(size):
        raise UserError(
            f"{name} lies in shard {shard!r} at byte {offset!r}, {size!r} bytes long: expected a "
            "name and two numbers >= 0"
        )
    return ImageFile(safe_join(root, shard), offset, size, name, known)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0
