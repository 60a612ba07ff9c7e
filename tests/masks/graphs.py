"""Graphs whose second and third eigenvalue are nearly equal, and the right eigenvector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

EPS = 1e-5


def near_degenerate_graphs() -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]]:
    """Yield (n, n) edges and D v, v the second generalised eigenvector by a dense solver.

    Three flat bands of a square grid; ``moved`` patches of the second belong to the first. The
    gap of the eigenvalues is 1e-7 to 3e-6, their distance to the others 1.
    """
    for widths, moved in (((10, 10, 10), 1), ((6, 7, 7), 3), ((9, 10, 11), 10)):
        side = sum(widths)
        region = np.repeat([0, 1, 2], widths)[None].repeat(side, 0)
        region[:moved, widths[0]] = 0
        edges = region.ravel()[:, None] == region.ravel()
        affinity = np.where(edges, 1.0, EPS)
        degree = affinity.sum(axis=1)
        _, vectors = eigh(np.diag(degree) - affinity, np.diag(degree), subset_by_index=[1, 1])
        yield edges, degree * vectors[:, 0]
