"""The machine: its name, its threads pinned, and how fast it multiplies and moves memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2seg.errors import UserError

PACKAGES = ("numpy", "scipy", "numba", "torch", "timm", "pydensecrf2", "u2seg")


@dataclass(frozen=True)
class Rates:
    """Best rates seen in this run, from which floors are counted.

    Args:
        flops: Single-precision matrix product, FLOP/s.
        bytes: Copy of a large array, bytes read and written per second.
    """

    flops: float
    bytes: float


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pin_threads(count: int) -> None:
    """Make torch, numba, BLAS and OpenMP use ``count`` threads in this process.

    Raises:
        UserError: if a package of the extras ``labels`` or ``bench`` is missing.
    """
    require("threadpoolctl", "scipy.linalg", "numba", "torch")
    import numba
    import scipy.linalg  # noqa: F401 - a library can be limited only once it is loaded
    import threadpoolctl
    import torch

    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    threadpoolctl.threadpool_limits(count)


def require(*modules: str) -> None:
    """Import modules; UserError that names the extra if one is missing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"the benchmark needs {module}, which cannot be imported ({error}): "
                "pip install -e '.[labels,bench]' (peers alone: pip install -e '.[bench]')"
            ) from error


def measure_rates(side: int = 2048, megabytes: int = 256) -> Rates:
    """Return the best of 20 products of two (side, side) matrices and of 20 copies."""
    import torch

    a = torch.rand(side, side)
    source = torch.rand(megabytes << 18)
    target = torch.empty_like(source)
    product = _best(lambda: torch.mm(a, a))
    copy = _best(lambda: target.copy_(source))
    return Rates(2.0 * side**3 / product, 2.0 * (megabytes << 20) / copy)


def _best(call: Callable[[], Any], repeats: int = 20) -> float:
    call()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return min(spent)


def describe(threads: int, rates: Rates) -> dict[str, Any]:
    """Return what a reader of the numbers must know of the machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": threads,
        "gpu": gpu,
        "sgemm_gflops": round(rates.flops / 1e9, 1),
        "copy_gb_per_s": round(rates.bytes / 1e9, 1),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
