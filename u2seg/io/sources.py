"""Where photographs come from: a folder, a list file, or WebDataset tar shards.

Each source gives the same records, sorted by name, so equal photographs get equal labels
whichever way they come. Of a tar shard nothing is ever extracted: links, devices and sparse files
are passed over, and a shard that cannot be read to its end mark is refused instead of losing what
lies behind the damage.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from u2seg.errors import UserError
from u2seg.io.images import readable_here, reads_heic
from u2seg.io.paths import check_name
from u2seg.io.progress import Bar

logger = logging.getLogger(__name__)
Entry = dict[str, Any]
SHARD = ".tar"
PHOTOGRAPHIC = (
    "", ".avif", ".heic", ".heif", ".jfif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw",
)  # fmt: skip
"""Endings, or none, of files that may be photographs although they are passed over."""
RESULTS = ("labelspace.json", "train_config.yaml")
"""What a folder of label maps or predictions, and of a training, holds beside its pictures."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
BLOCK = 512
MAX_HEADER = 1 << 20
"""Bytes of a long name or extended header; tarfile would read any number into memory."""
MAX_SHARDS = 1_000_000
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class ImageSource(Protocol):
    """Photographs to label.

    Attributes:
        root: Folder the names are relative to; ``image_root`` of ``images.json``.
        searched: Whether whatever lies below ``root`` belongs to the photographs.
        passed_over: Lower-case ending -> files found there that are not taken for photographs.
    """

    root: Path
    searched: bool
    passed_over: dict[str, int]

    def entries(self, progress: bool = False) -> list[Entry]:
        """Return one record per photograph, sorted by ``file_name``, no name twice.

        Each has ``file_name``, relative to ``root`` with forward slashes; in a shard also
        ``shard``, ``offset`` and ``size`` (see ``u2seg.io.paths``); ``reason`` if it is known
        not to be usable.
        """

    def folders(self) -> set[Path]:
        """Return the folders that hold the photographs, or the shards."""


def open_source(images: Path, extensions: Sequence[str]) -> ImageSource:
    """Return the photographs that ``--images`` names.

    Args:
        images: A folder (of photographs, or of ``.tar`` shards), a shard, a pattern of shards
            such as ``shards-{000000..000009}.tar``, or a text file that lists photographs.
        extensions: Lower-case endings that count, with the dot; those that no installed library
            reads (HEIC, AVIF) do not.

    Raises:
        UserError: if there is nothing of that name or no photograph in it, or a list or shard
            cannot be read.
    """
    extensions = tuple(ending for ending in extensions if readable_here(ending))
    if images.is_dir():
        return _open_folder(images, extensions)
    name = images.name.lower()
    if images.is_file():
        if name.endswith(COMPRESSED):
            raise UserError(f"shard {images} is compressed: decompress it first (--images)")
        if name.endswith(SHARD):
            return ShardSource(images.parent, [images.name], extensions)
        if name.endswith(extensions):
            raise UserError(f"{images} is one photograph, expected its folder or a list (--images)")
        return ListSource(images)
    pattern = str(images)
    paths = expand_braces(pattern)
    if len(paths) > 1 or paths[0] != pattern:
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of the {len(paths)} shards of {pattern} do not exist, the first "
                f"is {missing[0]} (--images)"
            )
        root = Path(os.path.commonpath([os.path.dirname(path) or "." for path in paths]))
        return ShardSource(root, [os.path.relpath(path, root) for path in paths], extensions)
    raise UserError(
        f"{images} does not exist: expected a folder, a list file, a .tar shard or a pattern of "
        "shards (--images)"
    )


def _open_folder(root: Path, extensions: tuple[str, ...]) -> ImageSource:
    names = list(_files_below(root))
    found = [name for name in names if name.lower().endswith((*extensions, SHARD))]
    shards = [name for name in found if name.lower().endswith(SHARD)]
    others = Counter(PurePosixPath(name).suffix.lower() for name in {*names}.difference(found))
    if not found:
        raise UserError(
            f"no image found below {root}: looked for {', '.join(extensions)} "
            f"(U2SEG.IMAGES.EXTENSIONS) and .tar shards{_told(': ', others)}"
        )
    if len(shards) == len(found):
        return ShardSource(root, shards, extensions, searched=True)
    if shards:
        logger.warning(
            "%s holds photographs and %d shards; only the photographs are used. For the shards, "
            "give their pattern", root, len(shards),
        )  # fmt: skip
    return FolderSource(root, extensions, dict(others))


def tell_passed_over(source: ImageSource) -> None:
    """Log in one line how many files of which ending are not taken for photographs."""
    if source.passed_over:
        suspect = any(ending in PHOTOGRAPHIC for ending in source.passed_over)
        level = logging.WARNING if suspect else logging.INFO
        logger.log(level, "%s", _told(f"below {source.root} ", source.passed_over))


def _told(start: str, passed_over: Mapping[str, int]) -> str:
    """Return in words what was passed over; nothing for nothing.

    Examples:
        >>> _told("", {".heic": 20, ".txt": 1, "": 2})  # doctest: +ELLIPSIS
        '20 files ended in .heic, 2 in nothing, 1 in .txt and were passed over (...'
    """
    if not passed_over:
        return ""
    ordered = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count} in {ending or 'nothing'}" for ending, count in ordered[:8]]
    words[0] = words[0].replace(" in", " files ended in", 1)
    words += ["others"] if len(ordered) > 8 else []
    heic = any(ending in (".heic", ".heif") for ending in passed_over) and not reads_heic()
    cure = "; for HEIC: pip install pillow-heif" if heic else ""
    return f"{start}{', '.join(words)} and were passed over (U2SEG.IMAGES.EXTENSIONS{cure})"


def find_files(root: Path, endings: tuple[str, ...]) -> list[str]:
    """Return the relative names (forward slashes) of files below a folder, sorted.

    Args:
        root: Sub-folders are searched, hidden files and folders are not, links to folders are
            not followed (they may form loops), folders of this package's results or that cannot
            be listed are left out with a warning.
        endings: Lower-case endings that count; upper case in file names counts too.
    """
    return sorted(name for name in _files_below(root) if name.lower().endswith(endings))


def _files_below(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, onerror=_warn_unlisted):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        below = os.path.relpath(folder, root)
        if below != "." and not {*RESULTS}.isdisjoint(files):
            logger.warning("%s holds results of u2seg: no photographs are looked for there", folder)
            folders[:] = []
            continue
        for file in files:
            if not file.startswith("."):
                yield file if below == "." else f"{below}/{file}"


def _warn_unlisted(error: OSError) -> None:
    logger.warning("cannot list %s: %s; its images are left out", error.filename, error.strerror)


class FolderSource:
    """All photographs below a folder; see ``ImageSource``."""

    searched = True

    def __init__(
        self,
        root: Path,
        extensions: tuple[str, ...],
        passed_over: dict[str, int] | None = None,
    ) -> None:
        self.root = root
        self.extensions = extensions
        self.passed_over = passed_over or {}

    def entries(self, progress: bool = False) -> list[Entry]:
        """Return one record per photograph."""
        return [{"file_name": name} for name in find_files(self.root, self.extensions)]

    def folders(self) -> set[Path]:
        """Return the folder."""
        return {self.root}


class ListSource:
    """The photographs a text file names; see ``ImageSource``.

    One path a line; blank lines and lines that begin with ``#`` are ignored. In a ``.jsonl`` file
    each line is a JSON string, or an object with ``file_name``. A relative path starts at the
    folder of the list and stays in it; an absolute one may lie anywhere.

    Args:
        path: The list.

    Raises:
        UserError: if it cannot be read, is no text, names nothing, or a line of a ``.jsonl`` file
            is not as expected.
    """

    searched = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed_over: dict[str, int] = {}
        self.home = os.path.abspath(path.parent)
        self._read()

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes get a list of millions of lines only if they ask for it.
        return {**self.__dict__, "_entries": None}

    def _read(self) -> None:
        path = self.path
        lines = _read_lines(path)
        if not lines:
            raise UserError(f"list {path} names no photograph: expected one path a line")
        places = [self._place(line) for line in lines]
        good = [place for place, reason in places if not reason]
        outside = [place for place in good if not _inside(place, self.home)]
        root = self.home
        if outside:
            root = os.path.commonpath([os.path.dirname(place) for place in good])
        self.root = Path(root)
        self._folders = {Path(self.home), *(Path(os.path.dirname(place)) for place in good)}
        found: dict[str, Entry] = {}
        for place, reason in places:
            name = place if reason else os.path.relpath(place, root)
            found.setdefault(name, {"file_name": name, **({"reason": reason} if reason else {})})
        self._entries: list[Entry] | None = [found[name] for name in sorted(found)]
        if len(found) < len(lines):
            logger.warning(
                "%s: %d lines name a photograph again; each is used once",
                path, len(lines) - len(found),
            )  # fmt: skip

    def _place(self, line: str) -> tuple[str, str]:
        """Return the absolute path of a line and no reason, or the line and why not."""
        if posixpath.isabs(line) and "\0" not in line:
            return os.path.normpath(line), ""
        name = posixpath.normpath(line)
        try:
            check_name(name, self.home)
        except UserError as error:
            return line, f"{error} of {self.path}; an absolute path may lie anywhere"
        return os.path.join(self.home, name), ""

    def entries(self, progress: bool = False) -> list[Entry]:
        """Return one record per photograph."""
        if self._entries is None:
            self._read()
        return [dict(entry) for entry in self._entries or ()]

    def folders(self) -> set[Path]:
        """Return the folders of the list and of its photographs."""
        return self._folders


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _read_lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read list {path}: {error.strerror}") from error
    if b"\0" in content:
        raise UserError(
            f"{path} is no text file: expected a folder, a list of photographs or a .tar shard"
        )
    # Names need not be UTF-8; splitlines would also cut at characters that names may hold.
    lines = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    if path.suffix.lower() == ".jsonl":
        return [
            _json_name(line, f"{path}:{number}")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    stripped = [line.strip(" \t\r") for line in lines]
    return [line for line in stripped if line and not line.startswith("#")]


def _json_name(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {error}") from error
    name = value.get("file_name") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name:
        raise UserError(f'{where}: expected "a/b.jpg" or {{"file_name": "a/b.jpg"}}')
    return name


class ShardSource:
    """The photographs in tar shards, read by offset; see ``ImageSource``.

    Where two shards use a member's name both, all names are preceded by that of their shard:
    ``train-0007/a.jpg``.

    Args:
        root: Folder the shards lie below.
        shards: Their names relative to it.
        extensions: Lower-case endings of the members that count.
        searched: Whether the shards were found by searching ``root``.
    """

    def __init__(
        self, root: Path, shards: list[str], extensions: tuple[str, ...], searched: bool = False
    ) -> None:
        self.root = root
        self.shards = shards
        self.passed_over: dict[str, int] = {}
        self.extensions = extensions
        self.searched = searched

    def entries(self, progress: bool = False) -> list[Entry]:
        """Return one record per photograph; reads the headers of all shards."""
        found = []
        for shard in Bar(self.shards, desc="index", unit="shard", disable=not progress):
            for entry in index_shard(self.root / shard, self.extensions):
                found.append({**entry, "shard": shard})
        if not found:
            raise UserError(
                f"no image found in the {len(self.shards)} shards of {self.root}: looked for "
                f"{', '.join(self.extensions)} (U2SEG.IMAGES.EXTENSIONS)"
            )
        if _in_two_shards(found):
            for entry in found:
                stem = entry["shard"][: -len(SHARD)]
                entry["file_name"] = f"{stem}/{entry['file_name']}"
        return sorted(found, key=lambda entry: (entry["file_name"], entry["offset"]))

    def folders(self) -> set[Path]:
        """Return the folders of the shards."""
        return {(self.root / shard).parent for shard in self.shards}


def _in_two_shards(entries: list[Entry]) -> bool:
    seen: dict[str, str] = {}
    return any(seen.setdefault(e["file_name"], e["shard"]) != e["shard"] for e in entries)


def expand_braces(pattern: str) -> list[str]:
    """Return the names a WebDataset pattern stands for, numbers with their leading zeros.

    Raises:
        UserError: if it stands for more than a million names, or a range runs backwards.

    Examples:
        >>> expand_braces("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']
        >>> expand_braces("plain.tar")
        ['plain.tar']
    """
    names = [""]
    position = 0
    for match in _RANGE.finditer(pattern):
        first, last = int(match[1]), int(match[2])
        count = last - first + 1
        if count < 1 or count * len(names) > MAX_SHARDS:
            raise UserError(
                f"{match[0]} in {pattern} stands for {max(count, 0)} shards, expected 1 to "
                f"{MAX_SHARDS}"
            )
        width = len(match[1]) if match[1].startswith("0") else 0
        before = pattern[position : match.start()]
        numbers = [f"{number:0{width}d}" for number in range(first, last + 1)]
        names = [name + before + number for name in names for number in numbers]
        position = match.end()
    return [name + pattern[position:] for name in names]


def index_shard(path: Path, extensions: Sequence[str]) -> list[Entry]:
    """Return the photographs of an uncompressed tar archive, in its order.

    As in WebDataset, the extension of a member is all that follows the first dot of its last
    name: ``a.seg.png`` is an annotation of sample ``a``, no photograph, unless ``extensions`` has
    ``.seg.png``. Hidden members, links, devices and sparse files are left out.

    Args:
        path: The shard.
        extensions: Lower-case endings that count, with the dot.

    Returns:
        ``file_name`` (the member's name without a leading ``./``), ``offset`` and ``size`` in
        bytes of each; ``reason`` if its name cannot be used.

    Raises:
        UserError: if the shard cannot be read, is compressed, damaged or cut short, or holds
            bytes after its end mark.
    """
    entries = []
    passed: list[str] = []
    for member in _members(path):
        name = re.sub(r"^(\./+)+", "", member.name)
        base = name.rpartition("/")[2]
        hidden = any(part.startswith(".") and part != ".." for part in name.split("/"))
        if member.isdir() or hidden or not base.lower().endswith(tuple(extensions)):
            continue
        if "." + base.lower().partition(".")[2] not in extensions:
            passed.append(name)
            continue
        entry: Entry = {"file_name": name, "offset": member.offset_data, "size": member.size}
        try:
            if not member.isreg() or member.issparse():
                raise UserError("is a link, a device or a sparse file in its shard")
            check_name(name, path)
        except UserError as error:
            entry["reason"] = str(error)
        entries.append(entry)
    if passed:
        logger.warning(
            "%s: %d members such as %s are taken for annotations, not photographs: their "
            "extension has several parts (add it to U2SEG.IMAGES.EXTENSIONS to use them)",
            path, len(passed), passed[0],
        )  # fmt: skip
    return entries


class _BoundedInfo(tarfile.TarInfo):
    """Refuses headers that would need unbounded memory or send the reader backwards."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _BoundedInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _EXTENDED and info.size > MAX_HEADER):
            raise tarfile.ReadError(f"a header claims {info.size} bytes")
        return info


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            _refuse_compressed(path, file.read(8))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_BoundedInfo) as archive:
                last = -1
                while (member := archive.next()) is not None:
                    end = member.offset_data + member.size
                    if member.offset <= last or member.size < 0 or end > total:
                        raise tarfile.ReadError(f"member {member.name!r} reaches beyond its end")
                    last = member.offset
                    yield member
                    archive.members = []  # type: ignore[attr-defined]  # or it would keep every header
                _check_end(file, archive.offset)
    except tarfile.TarError as error:
        raise UserError(
            f"shard {path} is damaged: {error}. Copy it again, or leave it out"
        ) from error
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"cannot read shard {path}: {error}") from error


def _refuse_compressed(path: Path, start: bytes) -> None:
    if start.startswith(_PACKED):
        raise UserError(
            f"shard {path} is compressed, so its photographs cannot be read by offset: "
            "decompress it first (they hardly shrink anyway)"
        )


def _check_end(file: Any, offset: int) -> None:
    """Raise ReadError unless zeros, and nothing else, follow the last member.

    tarfile takes a damaged header for the end of the archive.
    """
    file.seek(offset)
    block = file.read(BLOCK)
    if not block:
        raise tarfile.ReadError(f"its end mark is missing at byte {offset}: it was cut short")
    position = offset
    while block:
        if block.count(0) != len(block):
            what = "the header is garbled" if position == offset else "data follows the end mark"
            raise tarfile.ReadError(f"{what} at byte {position}")
        position += len(block)
        block = file.read(1 << 20)
