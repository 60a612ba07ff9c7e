"""Find the photographs of WebDataset tar shards, to be read later by offset.

Nothing is ever extracted: links, devices and sparse files are passed over, and a shard that
cannot be read to its end mark is refused instead of losing what lies behind the damage.
"""

from __future__ import annotations

import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.paths import check_name

logger = logging.getLogger(__name__)
Entry = dict[str, Any]

BLOCK = 512
MAX_HEADER = 1 << 20
"""Bytes of a long name or extended header; tarfile would read any number into memory."""
MAX_SHARDS = 1_000_000
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


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
    if start.startswith(_COMPRESSED):
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
