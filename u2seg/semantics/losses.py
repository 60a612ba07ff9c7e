"""STEGO's correspondence loss: codes agree where features agree.

Shapes: B images, C channels, h x w grid, n x n sampled positions.
Source: Hamilton et al. 2022, equations 2 to 4; commit eb4d6b5, src/modules.py
(``ContrastiveCorrelationLoss``), whose values are matched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NORM_EPS = 1e-10
STABLE_MAX = 0.8
"""Code similarity above this earns nothing more when ``stabilize`` is on."""


@dataclass(frozen=True)
class Correspondence:
    """Variants of the loss.

    Args:
        pointwise: Centre the feature similarity of every position first.
        zero_clamp: Code similarities below 0 count as 0.
        stabilize: Code similarities above 0.8 count as 0.8.
    """

    pointwise: bool = True
    zero_clamp: bool = True
    stabilize: bool = False

    def __call__(
        self, pair_features: tuple[Tensor, Tensor], pair_codes: tuple[Tensor, Tensor], shift: float
    ) -> Tensor:
        """Return the loss of every pair of positions.

        Args:
            pair_features: Two (B, D, n, n) of unit length (``unit``); no gradient flows back.
            pair_codes: Two (B, K, n, n) of unit length, sampled at the same positions.
            shift: b; feature similarity above it attracts codes, below it repels.

        Returns:
            (B, n, n, n, n) float32: position in the first, position in the second.

        Examples:
            Equal features and equal codes give -(1 - b):

            >>> ones = unit(torch.ones(1, 3, 2, 2))
            >>> round(float(Correspondence()((ones, ones), (ones, ones), 0.25).mean()), 6)
            -0.75
        """
        with torch.no_grad():
            similarity = feature_similarity(*pair_features, self.pointwise)
        code_similarity = similarity_volume(*pair_codes)
        low = 0.0 if self.zero_clamp else None
        high = STABLE_MAX if self.stabilize else None
        if low is not None or high is not None:
            code_similarity = code_similarity.clamp(low, high)
        return -code_similarity * (similarity - shift)


def feature_similarity(first: Tensor, second: Tensor, pointwise: bool) -> Tensor:
    """Return the inner products of all positions of two (B, D, n, n), (B, n, n, n, n).

    ``pointwise`` subtracts from each position of the first its mean over the second's
    positions, and adds the mean of everything back: a position that resembles everything
    attracts nothing.
    """
    volume = similarity_volume(first, second)
    if not pointwise:
        return volume
    mean = volume.mean()
    centred = volume - volume.mean(dim=(3, 4), keepdim=True)
    return centred - centred.mean() + mean


def unit(vectors: Tensor) -> Tensor:
    """Return (B, C, h, w) scaled to unit length over C; zero vectors stay zero."""
    return functional.normalize(vectors, dim=1, eps=NORM_EPS)


def similarity_volume(first: Tensor, second: Tensor) -> Tensor:
    """Return (B, h, w, i, j): position (h, w) of first times (i, j) of second, summed over C."""
    return torch.einsum("bchw,bcij->bhwij", first, second)


def sample(grids: Tensor, coords: Tensor) -> Tensor:
    """Return grids read at given positions, bilinear, borders repeated.

    Args:
        grids: (B, C, h, w) float32.
        coords: (B, n, n, 2) float32, (x, y) in -1..1, where -1 and 1 are the centres of the
            outermost cells.

    Returns:
        (B, C, n, n); entry (i, j) is the value at ``coords[j, i]`` (upstream's order).

    Examples:
        >>> row = torch.tensor([[[[0.0, 10.0, 20.0]]]])
        >>> sample(row, torch.tensor([[[[-1.0, 0.0]], [[0.5, 0.0]]]])[:, :1]).flatten().tolist()
        [0.0]
        >>> sample(row, torch.tensor([[[[0.5, 0.0]]]])).flatten().tolist()
        [15.0]
    """
    return functional.grid_sample(
        grids,
        coords.permute(0, 2, 1, 3),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
