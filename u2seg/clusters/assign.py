"""Nearest centroid of every descriptor, block by block.

Shapes: n descriptors, K centroids, D dimensions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from u2seg.clusters.rows import Rows, as_rows, one_blas_thread_each
from u2seg.errors import UserError

BLOCK_BYTES = 16 << 20
"""Bound on the (block, K) table of products of a thread."""


def assign(
    descriptors: npt.ArrayLike | Rows, centroids: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the nearest centroid of every descriptor and its distance.

    Args:
        descriptors: (n, D) finite, an array or a table on disk; n = 0 is allowed. Scaled like
            those the centroids are of.
        centroids: (K, D) finite, K >= 1.

    Returns:
        labels (n,) int64 in 0..K-1, the smallest index among equally near ones, and Euclidean
        distances (n,) float64. Inputs are not modified.

    Raises:
        ValueError: if an array is not 2-D or there is no centroid.
        UserError: if the dimensions differ (the centroids are of another extractor).

    Examples:
        >>> labels, distances = assign(
        ...     np.array([[0, 3], [9, 0]], dtype=np.float32),
        ...     np.array([[10, 0], [0, 0]], dtype=np.float32),
        ... )
        >>> labels.tolist(), distances.tolist()
        ([1, 0], [3.0, 1.0])

    Notes:
        Products are taken in double precision, so the block a descriptor falls into does not
        decide its label. Extra memory: about 64 MiB for each thread and a copy of the centroids.
    """
    rows = as_rows(descriptors)
    if centroids.ndim != 2 or len(centroids) == 0:
        raise ValueError(f"centroids must be (K, D) with K >= 1, got {centroids.shape}")
    if rows.dim != centroids.shape[1]:
        raise UserError(
            f"descriptors have {rows.dim} dimensions, the centroids {centroids.shape[1]}: they "
            "come from different feature extractors. Use the extractor the centroids were made "
            "with (U2SEG.FEATURES.NAME) or fit new ones."
        )
    wide = centroids.astype(np.float64)
    half_norms = 0.5 * np.einsum("kd,kd->k", wide, wide)
    labels = np.empty(len(rows), dtype=np.int64)
    distances = np.empty(len(rows), dtype=np.float64)
    block = max(1, BLOCK_BYTES // (8 * (len(wide) + wide.shape[1] * 2)))

    def nearest(start: int) -> None:
        part = slice(start, min(start + block, len(rows)))
        points = rows.read(part.start, part.stop).astype(np.float64)
        # |x - c|^2 / 2 without |x|^2 / 2, which is the same for every c.
        labels[part] = np.argmin(half_norms - points @ wide.T, axis=1)
        distances[part] = np.linalg.norm(points - wide[labels[part]], axis=1)

    with one_blas_thread_each() as in_order:
        for _ in in_order(nearest, range(0, len(rows), block)):
            pass
    return labels, distances
