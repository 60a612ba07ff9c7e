"""Write a JSON object with one very long array without holding the array in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from u2seg.io.atomic import atomic_file, json_bytes


@contextlib.contextmanager
def stream_json(
    path: Path | str, content: Mapping[str, Any], array: str
) -> Iterator[Callable[[Any], None]]:
    """Write ``{**content, array: [...]}`` atomically, the items of the array one by one.

    The bytes are those ``write_json`` would write for the whole object.

    Args:
        path: Final name; it appears when the block ends without an error.
        content: The other keys, written whole.
        array: Key of the array; must not be in ``content``.

    Yields:
        A function that appends one item.

    Raises:
        ValueError: if ``array`` is a key of ``content``, or an item holds NaN or infinity.
        UserError: if the file cannot be written.
    """
    if array in content:
        raise ValueError(f"{array!r} is both the streamed array and a plain key")
    keys = sorted([*content, array])
    position = keys.index(array)
    with atomic_file(path) as file:
        file.write(b"{")
        for key in keys[:position]:
            file.write(_member(key, content[key]) + b",")
        file.write(json_bytes(array).rstrip(b"\n") + b":[")
        separator = b""

        def append(item: Any) -> None:
            nonlocal separator
            file.write(separator + json_bytes(item).rstrip(b"\n"))
            separator = b","

        yield append
        file.write(b"]")
        for key in keys[position + 1 :]:
            file.write(b"," + _member(key, content[key]))
        file.write(b"}\n")


def _member(key: str, value: Any) -> bytes:
    return json_bytes(key).rstrip(b"\n") + b":" + json_bytes(value).rstrip(b"\n")
