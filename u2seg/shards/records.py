"""Records of all shards in one file, a line of JSON each, of which a process reads what it needs.

With a million images the list takes a gigabyte in memory; a worker looks at 64 of them at a time.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from u2seg.errors import UserError
from u2seg.io.atomic import atomic_file, json_bytes

Record = dict[str, Any]


def write_shards(path: Path, records: Sequence[Record], size: int) -> None:
    """Cut records into shards of ``size`` and write them; UserError if that cannot be done."""
    with atomic_file(path) as file:
        file.write(json_bytes({"images": len(records), "shard_size": size}))
        for start in range(0, len(records), size):
            file.write(json_bytes(records[start : start + size]))


class ShardFile(Sequence[list[Record]]):
    """The shards of a file that ``write_shards`` wrote; each is read when it is asked for.

    Raises:
        UserError: on first use, if the file is missing or damaged.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "shards.jsonl"
        >>> write_shards(path, [{"id": 1}, {"id": 2}, {"id": 3}], 2)
        >>> shards = ShardFile(path)
        >>> len(shards), shards[1], shards.sizes
        (2, [{'id': 3}], [2, 1])
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def _starts(self) -> list[int]:
        """Where the lines begin; the first is the header."""
        try:
            with open(self.path, "rb") as file:
                return [0, *itertools.accumulate(len(line) for line in file)]
        except OSError as error:
            raise self._damaged() from error

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Number of images of every shard, from the first line alone."""
        try:
            header = self._line(0)
            total, size = int(header["images"]), int(header["shard_size"])
            return [min(size, total - start) for start in range(0, total, size)]
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged() from error

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> list[Record]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[Record]]: ...

    def __getitem__(self, index: int | slice) -> list[Record] | list[list[Record]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends iteration by index
        if len(self._starts) != len(self) + 2:
            raise self._damaged()
        records: list[Record] = self._line(self._starts[index + 1])
        if len(records) != self.sizes[index]:
            raise self._damaged()
        return records

    @property
    def records(self) -> Iterable[Record]:
        """The records of all shards, read anew each time they are gone through."""
        return _Chained(self)

    def _line(self, start: int) -> Any:
        try:
            with open(self.path, "rb") as file:
                file.seek(start)
                return json.loads(file.readline().decode("utf-8", "surrogateescape"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged() from error

    def _damaged(self) -> UserError:
        return UserError(
            f"{self.path} is damaged: remove manifest.json beside it and run the same command "
            "again, which makes it anew"
        )


class _Chained(Iterable[Record]):
    def __init__(self, shards: ShardFile) -> None:
        self._shards = shards

    def __iter__(self) -> Iterator[Record]:
        return itertools.chain.from_iterable(self._shards)
