"""The lattice filter in one call."""

from __future__ import annotations

import numpy as np

from u2seg.crf.parallel import Threads
from u2seg.crf.permutohedral import PermutohedralLattice


def filtered(positions: np.ndarray, columns: np.ndarray, threads: int = 1) -> np.ndarray:
    """Return the filtered (N, C) float32 columns of values at (d, N) positions."""
    with Threads(threads) as workers:
        return PermutohedralLattice(positions, workers).filter(columns.astype(np.float32), workers)
