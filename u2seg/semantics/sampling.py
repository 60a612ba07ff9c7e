"""Positions drawn from all images, and K-means of what is found there.

Shapes: n images, D feature channels, m positions, S clusters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from u2seg.errors import UserError
from u2seg.semantics.base import FeatureSource
from u2seg.semantics.head import grid_tensor
from u2seg.semantics.losses import sample

POSITIONS = 20_000
"""Positions drawn evenly from up to ``IMAGES`` images."""
IMAGES = 500
RESTARTS = 3
ITERATIONS = 50


@torch.no_grad()
def sample_rows(
    source: FeatureSource, encode: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Tensor:
    """Return what ``encode`` makes of features at random positions of evenly spaced images.

    Args:
        source: Features of n >= 1 images.
        encode: (1, D, m, 1) float32 features -> (1, K, m, 1) float32.
        generator: Draws the positions.

    Returns:
        (m, K) float32; an image gives no more positions than it has patches.
    """
    count = min(len(source), IMAGES)
    each = max(1, POSITIONS // count)
    rows = []
    for index in np.linspace(0, len(source) - 1, count).round().astype(int).tolist():
        grid = grid_tensor(source[index])
        taken = min(each, grid.shape[2] * grid.shape[3])
        coords = torch.rand((1, taken, 1, 2), generator=generator) * 2 - 1
        rows.append(encode(sample(grid, coords))[0, :, 0].T)
    return torch.cat(rows)


def unit_centers(rows: Tensor, count: int, seed: int) -> npt.NDArray[np.float32] | None:
    """Return the K-means centres of rows scaled to unit length.

    Args:
        rows: (m, K) float32.
        count: S.
        seed: Of the K-means++ starts.

    Returns:
        (S, K) float32, best of ``RESTARTS``; None if fewer than S rows differ.

    Raises:
        UserError: if there are fewer rows than clusters; says both numbers.

    Examples:
        >>> rows = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 3.0]])
        >>> sorted(unit_centers(rows, 2, seed=0).tolist())
        [[0.0, 1.0], [1.0, 0.0]]
        >>> unit_centers(rows[:2], 2, seed=0) is None
        True
    """
    from sklearn.cluster import KMeans

    if len(rows) < count:
        raise UserError(
            f"{len(rows)} patches cannot make {count} stuff clusters: lower "
            "U2SEG.SEMANTICS.NUM_CLASSES or give more images"
        )
    unit = functional.normalize(rows, dim=1).numpy()
    if len(np.unique(unit, axis=0)) < count:
        return None
    model = KMeans(count, n_init=RESTARTS, max_iter=ITERATIONS, random_state=seed).fit(unit)
    centers: npt.NDArray[np.float32] = model.cluster_centers_.astype(np.float32)
    return centers
