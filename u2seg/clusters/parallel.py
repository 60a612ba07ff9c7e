"""Blocks shared out among threads so that the number of threads changes no digit.

Every call multiplies with one BLAS thread, and results are used in the order of the blocks.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from u2seg.crf.parallel import default_threads

A = TypeVar("A")
B = TypeVar("B")
InOrder = Callable[[Callable[[A], B], Iterable[A]], Iterator[B]]


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
