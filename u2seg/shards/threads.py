"""Threads of a worker: its share of the cores, so that workers do not fight over them.

Labels must not depend on how many threads that is. PyTorch's forward passes do not: threads share
out the rows of a result, and each is summed in the same order. OpenBLAS, which NumPy calls, cuts
the sums of a matrix product itself by the number of threads; so it gets one while shards are made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Limit the thread pools of the libraries in this process."""
    import faiss
    import numba
    import torch

    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    faiss.omp_set_num_threads(count)


def steady_blas() -> contextlib.AbstractContextManager[object]:
    """Give the matrix products of NumPy and SciPy one thread within the block."""
    from threadpoolctl import threadpool_limits

    limits: contextlib.AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


@contextlib.contextmanager
def exactly(count: int) -> Iterator[None]:
    """Have the thread pools of this process hold so many threads within the block.

    For sums that depend on the number of threads: what the environment or an earlier step left
    must not decide a result.

    Examples:
        >>> import torch
        >>> with exactly(1):
        ...     torch.get_num_threads()
        1
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
