"""Compiled loops over ranges, shared out among threads.

Every compiled loop writes only the rows of its range, so its result is the same for any number
of threads. Plain threads run them, each without Python's lock: numba's own thread layers abort
after a fork or when two Python threads use them at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numba

SMALLEST_RANGE = 16384
"""Handing out fewer rows costs more than it saves."""


def default_threads() -> int:
    """Return how many threads to use: the cores of this process, or ``NUMBA_NUM_THREADS``."""
    return int(numba.config.NUMBA_NUM_THREADS)


class Threads:
    """Threads that live for one ``with`` block; the calling thread is one of them.

    Args:
        count: How many, >= 1.

    Raises:
        ValueError: if ``count`` is below 1.

    Examples:
        >>> with Threads(2) as threads:
        ...     threads.run(lambda first, last, unit: (last - first) / unit, 40_000, 1000)
        [20.0, 20.0]
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"the number of threads must be at least 1, got {count}")
        self._count = count
        self._pool = ThreadPoolExecutor(count - 1) if count > 1 else None

    def __enter__(self) -> Threads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool:
            self._pool.shutdown()

    def run(self, loop: Callable[..., Any], rows: int, *args: Any) -> list[Any]:
        """Call ``loop(first, last, *args)`` for ranges that cover 0..rows; return the results."""
        return self.run_each(loop, [(*bounds, *args) for bounds in self.ranges(rows)])

    def ranges(self, rows: int) -> list[tuple[int, int]]:
        """Return (first, one past the last) of at most one range per thread.

        Examples:
            >>> Threads(2).ranges(40_000), Threads(2).ranges(10)
            ([(0, 20000), (20000, 40000)], [(0, 10)])
        """
        parts = max(1, min(self._count, rows // SMALLEST_RANGE))
        bounds = [rows * i // parts for i in range(parts + 1)]
        return list(itertools.pairwise(bounds))

    def run_each(self, loop: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call ``loop(*job)`` for every job, the first one in this thread; return the results.

        Args:
            loop: Compiled, so that it runs without Python's lock.
            jobs: At least one, at most one per thread to run all at once.
        """
        if self._pool is None:
            return [loop(*job) for job in jobs]
        waiting = [self._pool.submit(loop, *job) for job in jobs[1:]]
        own = loop(*jobs[0])
        return [own, *(future.result() for future in waiting)]
