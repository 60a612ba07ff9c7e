"""The only module that uses the environment. Nothing here may decide a result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What libraries ask for the size of their thread pools."""


def cache_dir() -> Path:
    """Return the folder for downloaded weights: ``$XDG_CACHE_HOME/u2seg`` or ``~/.cache/u2seg``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "u2seg"


@contextlib.contextmanager
def inherited_threads(count: int) -> Iterator[None]:
    """Have processes started within the block begin with so many threads.

    Some libraries (OpenBLAS) make their pools when they are loaded and ask the environment.
    """
    saved = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
