"""The only module that reads the environment. Nothing here may decide a result."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for downloaded weights: ``$XDG_CACHE_HOME/u2seg`` or ``~/.cache/u2seg``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "u2seg"
