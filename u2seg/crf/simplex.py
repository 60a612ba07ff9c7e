"""Where a position lies in the permutohedral lattice: compiled functions of one point each.

Shapes: d dimensions. All arrays belong to one point; results are written into the last ones.
Source: Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral
lattice", 2010, section 3; ties as in pydensecrf (commit 2723c7f), in float32 as there.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from u2seg.io.jit import compiled

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]


def axis_factors(dims: int) -> Float:
    """Return (d,) float32, what ``elevate`` multiplies each coordinate by.

    One standard deviation of the input becomes sqrt(2 / 3) (d + 1), the standard deviation of
    splat, blur and slice together; axis j is a vector of length sqrt(j (j + 1)).

    Examples:
        >>> [round(float(v), 4) for v in axis_factors(2)]  # sqrt(2 / 3) * 3 / sqrt(2 or 6)
        [1.7321, 1.0]
    """
    deviation = math.sqrt(2.0 / 3.0) * (dims + 1)
    return np.array([deviation / math.sqrt(j * (j + 1)) for j in range(1, dims + 1)], np.float32)


@compiled
def elevate(point: Float, factors: Float, elevated: Float) -> None:
    """Rotate a point into the hyperplane sum(x) = 0 of d + 1 dimensions, and scale it.

    Args:
        point: (d,) float32.
        factors: (d,) float32, ``axis_factors(d)``.
        elevated: (d + 1,) float32, written.

    Examples:
        d = 1: the only axis is (1, -1) / sqrt(2), so 1 becomes 2 sqrt(2 / 3) / sqrt(2):

        >>> elevated = np.empty(2, np.float32)
        >>> elevate(np.ones(1, np.float32), axis_factors(1), elevated)
        >>> [round(float(v), 4) for v in elevated]
        [1.1547, -1.1547]
    """
    total = np.float32(0.0)
    for j in range(len(point), 0, -1):
        scaled = point[j - 1] * factors[j - 1]
        elevated[j] = total - np.float32(j) * scaled
        total += scaled
    elevated[0] = total


@compiled
def enclosing_simplex(elevated: Float, corner: Int, rank: Int) -> None:
    """Find the remainder-0 vertex of a point's simplex and the order of the coordinates.

    Args:
        elevated: (d + 1,) float32, sums to 0.
        corner: (d + 1,) int64, written: multiples of d + 1 that sum to 0.
        rank: (d + 1,) int64, written: how many coordinates of ``elevated - corner`` are larger
            than coordinate i; of equal ones the lower index comes first. A permutation of 0..d.

    Examples:
        >>> corner, rank = np.empty((2, 2), np.int64)
        >>> enclosing_simplex(np.array([1.5, -1.5], np.float32), corner, rank)
        >>> corner.tolist(), rank.tolist()
        ([2, -2], [1, 0])
    """
    size = len(elevated)
    inverse = np.float32(1.0) / np.float32(size)
    excess = 0
    for i in range(size):
        nearest = int(np.rint(elevated[i] * inverse))
        corner[i] = nearest * size
        excess += nearest
        rank[i] = 0
    for i in range(size):
        rest = elevated[i] - np.float32(corner[i])
        for j in range(i + 1, size):
            smaller = int(rest < elevated[j] - np.float32(corner[j]))
            rank[i] += smaller
            rank[j] += 1 - smaller
    # Rounding may leave the hyperplane; the coordinates that were rounded furthest step back.
    for i in range(size):
        rank[i] += excess
        if rank[i] < 0:
            rank[i] += size
            corner[i] += size
        elif rank[i] >= size:
            rank[i] -= size
            corner[i] -= size


@compiled
def barycentric(elevated: Float, corner: Int, rank: Int, weights: Float) -> None:
    """Find the weight of each vertex of a point's simplex.

    Args:
        elevated: (d + 1,) float32.
        corner: (d + 1,) int64, see ``enclosing_simplex``.
        rank: (d + 1,) int64, likewise.
        weights: (d + 1,) float32, written; sums to 1. Entry k belongs to the vertex of
            remainder k.

    Examples:
        d = 1: vertices are the whole numbers, even ones of remainder 0. 1.5 lies half-way
        between 1 and 2:

        >>> weights = np.empty(2, np.float32)
        >>> barycentric(
        ...     np.array([1.5, -1.5], np.float32), np.array([2, -2]), np.array([1, 0]), weights
        ... )
        >>> weights.tolist()
        [0.5, 0.5]
    """
    size = len(elevated)
    inverse = np.float32(1.0) / np.float32(size)
    weights[:] = 0.0
    weights[0] = 1.0
    # The coordinate of rank r separates the vertices of remainder d - r and d + 1 - r; d + 1 is 0.
    for i in range(size):
        rest = (elevated[i] - np.float32(corner[i])) * inverse
        weights[size - 1 - rank[i]] += rest
        weights[size - rank[i] if rank[i] > 0 else 0] -= rest
