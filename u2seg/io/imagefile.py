"""Where the bytes of a photograph lie: a file of its own, or a stretch of a tar shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from u2seg.errors import UserError
from u2seg.io.paths import safe_join

SHARD_KEYS = ("shard", "offset", "size")
"""What a record of ``images.json`` says of a photograph in a tar shard besides its name."""


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
