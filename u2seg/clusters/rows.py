"""A table of descriptors that need not fit into memory: read in blocks, from arrays or files.

Blocks start at fixed rows of the whole table, wherever one file ends and the next begins, so what
is computed block by block does not depend on how the table is cut into files. Blocks are shared out
among threads, each with one BLAS thread, and their results used in order: the number of threads
changes no digit.

Shapes: n rows (descriptors), D columns (dimensions).
"""

from __future__ import annotations

import functools
import io
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from u2seg.crf.parallel import default_threads
from u2seg.errors import UserError

BLOCK_ROWS = 4096
"""Rows of a block."""
RESIDENT_BYTES = 1 << 30
"""A table up to this size is kept in memory; a larger one is read again in every pass."""
_DTYPE = np.dtype(np.float32)

Table = npt.NDArray[np.float32]
RowMap = Callable[[Table], Table]
A = TypeVar("A")
B = TypeVar("B")


class Rows(ABC):
    """(n, D) float32 rows, read piece by piece. Several threads may read at once."""

    def __init__(self, count: int, dim: int) -> None:
        self.count = count
        self.dim = dim

    def __len__(self) -> int:
        return self.count

    @abstractmethod
    def read(self, start: int, stop: int) -> Table:
        """Return rows ``start`` to ``stop`` (excluded), C-contiguous; not to be written to."""

    @abstractmethod
    def take(self, indices: npt.NDArray[np.int64]) -> Table:
        """Return a copy of some rows; ``indices`` must be sorted."""

    def starts(self) -> range:
        """Return the first row of every block."""
        return range(0, self.count, BLOCK_ROWS)

    def block(self, start: int) -> Table:
        """Return the block that begins at a row of ``starts``."""
        return self.read(start, min(start + BLOCK_ROWS, self.count))

    def blocks(self) -> Iterator[tuple[int, Table]]:
        """Yield (first row, block) in order."""
        for start in self.starts():
            yield start, self.block(start)

    def resident(self, limit: int = RESIDENT_BYTES) -> Rows:
        """Return the table in memory if it has at most ``limit`` bytes, else itself."""
        if self.count * self.dim * _DTYPE.itemsize > limit:
            return self
        whole = np.empty((self.count, self.dim), dtype=np.float32)
        for start, block in self.blocks():
            whole[start : start + len(block)] = block
        return ArrayRows(whole)


class ArrayRows(Rows):
    """Rows of an array in memory.

    Raises:
        ValueError: if the array is not (n, D).
    """

    def __init__(self, array: npt.ArrayLike) -> None:
        self._array = np.ascontiguousarray(array, dtype=np.float32)
        if self._array.ndim != 2:
            raise ValueError(f"descriptors must be (n, D), got shape {self._array.shape}")
        super().__init__(*self._array.shape)

    def read(self, start: int, stop: int) -> Table:
        """Return a view."""
        return self._array[start:stop]

    def take(self, indices: npt.NDArray[np.int64]) -> Table:
        """Return a copy of some rows."""
        return self._array[indices]

    def resident(self, limit: int = RESIDENT_BYTES) -> Rows:
        """Return itself."""
        return self


@dataclass(frozen=True)
class _Part:
    path: Path
    offset: int  # of the first number in the file, bytes
    rows: int
    dim: int


class FileRows(Rows):
    """Rows of several ``.npy`` files, one after another, read when they are asked for.

    Files are read, not mapped: pages of a mapped file count as this process's memory.

    Args:
        paths: ``.npy`` files of (n_i, D) float32; files without rows are passed over, whatever
            their D.

    Raises:
        UserError: if a file is missing, is no such array, is shorter than it says, or has
            another D than the file before.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [Path(folder) / name for name in ("a.npy", "b.npy")]
        ...     np.save(paths[0], np.float32([[1], [2]]))
        ...     np.save(paths[1], np.float32([[3]]))
        ...     FileRows(paths).read(1, 3).tolist()
        [[2.0], [3.0]]
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts = [part for path in paths if (part := _read_header(path)).rows]
        for part in self._parts:
            if part.dim != self._parts[0].dim:
                raise UserError(
                    f"{part.path} has descriptors of {part.dim} dimensions, "
                    f"{self._parts[0].path} of {self._parts[0].dim}: they come from different "
                    "extractors; run the clusters stage anew (--overwrite)"
                )
        self._ends = np.cumsum([part.rows for part in self._parts], dtype=np.int64)
        count = int(self._ends[-1]) if self._parts else 0
        super().__init__(count, self._parts[0].dim if self._parts else 1)

    def read(self, start: int, stop: int) -> Table:
        """Return a new array."""
        result = np.empty((max(0, stop - start), self.dim), dtype=np.float32)
        done = 0
        while done < len(result):
            index = int(np.searchsorted(self._ends, start + done, side="right"))
            part = self._parts[index]
            first = start + done - (int(self._ends[index]) - part.rows)
            count = min(part.rows - first, len(result) - done)
            with open(part.path, "rb", buffering=0) as file:
                _fill(file, part, first, result[done : done + count])
            done += count
        return result

    def take(self, indices: npt.NDArray[np.int64]) -> Table:
        """Return a copy of some rows, one read each."""
        result = np.empty((len(indices), self.dim), dtype=np.float32)
        owner = np.searchsorted(self._ends, indices, side="right")
        for index in np.unique(owner):
            part = self._parts[index]
            begin = int(self._ends[index]) - part.rows
            with open(part.path, "rb", buffering=0) as file:
                for place in np.flatnonzero(owner == index):
                    row = int(indices[place]) - begin
                    _fill(file, part, row, result[place : place + 1])
        return result


class MappedRows(Rows):
    """Rows of a table after a function that treats every row by itself.

    Args:
        source: The table.
        function: (m, D) -> (m, ``dim``) float32, C-contiguous; must not change its argument.
        dim: Columns of the result.
    """

    def __init__(self, source: Rows, function: RowMap, dim: int) -> None:
        super().__init__(len(source), dim)
        self._source, self._function = source, function

    def read(self, start: int, stop: int) -> Table:
        """Return a new array."""
        with one_blas_thread():
            return self._function(self._source.read(start, stop))

    def take(self, indices: npt.NDArray[np.int64]) -> Table:
        """Return a copy of some rows."""
        with one_blas_thread():
            return self._function(self._source.take(indices))


def as_rows(descriptors: npt.ArrayLike | Rows) -> Rows:
    """Return a table as it is, anything else as an array; ValueError if that is not (n, D)."""
    return descriptors if isinstance(descriptors, Rows) else ArrayRows(descriptors)


def _read_header(path: Path) -> _Part:
    hint = "run the clusters stage anew (--overwrite)"
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
            offset = file.tell()
            size = file.seek(0, io.SEEK_END) - offset
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable .npy array ({error}): {hint}") from error
    if len(shape) != 2 or fortran or dtype != _DTYPE:
        raise UserError(f"{path} must hold (n, D) float32, got {dtype} {shape}: {hint}")
    if size != shape[0] * shape[1] * _DTYPE.itemsize:
        raise UserError(f"{path} holds {size} bytes of numbers, not {shape} float32: {hint}")
    return _Part(path, offset, shape[0], shape[1])


def _fill(file: io.FileIO, part: _Part, row: int, target: Table) -> None:
    file.seek(part.offset + row * part.dim * _DTYPE.itemsize)
    view = target.data.cast("B")
    done = 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise UserError(f"{part.path} became shorter while it was read")
        done += got


def one_blas_thread() -> Any:
    """Return a context in which products use one BLAS thread."""
    return _blas().limit(limits=1, user_api="blas")


@contextmanager
def one_blas_thread_each() -> Iterator[Any]:
    """Yield a ``map`` whose calls run in threads; only a few are begun ahead of the results.

    Examples:
        >>> with one_blas_thread_each() as in_order:
        ...     list(in_order(lambda x: x * x, range(5)))
        [0, 1, 4, 9, 16]
    """
    threads = default_threads()
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        yield functools.partial(ordered, pool, 2 * threads)


def ordered(
    pool: ThreadPoolExecutor, ahead: int, function: Callable[[A], B], arguments: Iterable[A]
) -> Iterator[B]:
    """Yield ``function(argument)`` in order, with at most ``ahead`` calls begun beforehand."""
    waiting: deque[Future[B]] = deque()
    for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@functools.cache
def _blas() -> Any:
    """Return what limits BLAS; finding the libraries takes longer than many a product."""
    import numpy.linalg  # noqa: F401 - a library can be limited only once it is loaded
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
