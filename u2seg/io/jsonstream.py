"""Write a JSON object with very long arrays without holding the arrays in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from u2seg.io.atomic import atomic_file, json_bytes

PIECE = 1 << 20
"""Bytes that are gathered before they are written."""


@contextlib.contextmanager
def stream_json(
    path: Path | str, content: Mapping[str, Any], array: str
) -> Iterator[Callable[[Any], None]]:
    """Write ``{**content, array: [...]}`` atomically, the items of the array one by one.

    The bytes are those ``write_json`` would write for the whole object.

    Args:
        path: Final name; it appears when the block ends without an error.
        content: The other keys. A value that is an iterator is streamed as an array, after the
            block where its key comes after ``array``; the others are written whole.
        array: Key of the array; must not be in ``content``.

    Yields:
        A function that appends one item, see ``item_bytes``.

    Raises:
        ValueError: if ``array`` is a key of ``content``, or an item holds NaN or infinity.
        UserError: if the file cannot be written.
    """
    if array in content:
        raise ValueError(f"{array!r} is both the streamed array and a plain key")
    keys = sorted([*content, array])
    position = keys.index(array)
    with atomic_file(path) as file:
        out = _Pieces(file)
        out.add(b"{")
        for key in keys[:position]:
            _write_member(out, key, content[key])
            out.add(b",")
        items = _Items(out, array)
        yield items.add
        items.end()
        for key in keys[position + 1 :]:
            out.add(b",")
            _write_member(out, key, content[key])
        out.add(b"}\n")
        out.flush()


def item_bytes(item: Any) -> bytes:
    """Return JSON as ``json_bytes`` does, without the line end.

    Args:
        item: Anything JSON has a word for; bytes are taken for JSON that is encoded already.

    Raises:
        ValueError: for NaN or infinity.

    Examples:
        >>> item_bytes({"b": [1.5, None], "a": "ü"}).decode()
        '{"a":"ü","b":[1.5,null]}'
        >>> item_bytes(b"[1, 2]")
        b'[1, 2]'
    """
    return item if isinstance(item, bytes) else json_bytes(item).rstrip(b"\n")


class _Pieces:
    """Gathers short texts into writes of about ``PIECE`` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.waiting: list[bytes] = []
        self.size = 0

    def add(self, text: bytes) -> None:
        self.waiting.append(text)
        self.size += len(text)
        if self.size >= PIECE:
            self.flush()

    def flush(self) -> None:
        self.file.write(b"".join(self.waiting))
        self.waiting, self.size = [], 0


class _Items:
    """One array that is being written."""

    def __init__(self, out: _Pieces, key: str) -> None:
        self.out = out
        self.separator = item_bytes(key) + b":["

    def add(self, item: Any) -> None:
        self.out.add(self.separator + item_bytes(item))
        self.separator = b","

    def end(self) -> None:
        if self.separator != b",":  # no item came
            self.out.add(self.separator)
        self.out.add(b"]")


def _write_member(out: _Pieces, key: str, value: Any) -> None:
    if not isinstance(value, Iterator):
        out.add(item_bytes(key) + b":" + item_bytes(value))
        return
    items = _Items(out, key)
    for item in value:
        items.add(item)
    items.end()
