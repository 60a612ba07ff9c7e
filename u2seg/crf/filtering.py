"""The passes of lattice filtering and of the mean-field update: compiled loops.

Shapes: N positions, M lattice vertices, d dimensions, C columns of values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from u2seg.io.jit import compiled

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
NARROW = 3
"""Sums of so few columns stay in registers; more are added row by row, in vector code."""
TILE = 512
"""Points whose values stay in the cache."""
LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts (Cody and Waite); the first has so few bits that its products are exact.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
ROUNDING = np.float32(1.5 * 2**23)
LEAST, ZERO, HALF, ONE = np.float32(-87.0), np.float32(0.0), np.float32(0.5), np.float32(1.0)


@compiled
def splat(
    first: int, last: int, starts: Int, points: Int32, weights: Float, values: Float, out: Float
) -> None:
    """Gather at a range of vertices the weighted values of their points.

    Args:
        first: First vertex.
        last: One past the last vertex.
        starts: (M + 1,) int64: the entries of vertex v are ``starts[v]`` to ``starts[v + 1]``.
        points: (E,) int32, points of the entries.
        weights: (E,) float32, their weights.
        values: (N, C) float32.
        out: (M + 1, C) float32, rows of the range are written.
    """
    # No views of rows: views are counted, and threads would contend for the counters.
    if values.shape[1] == NARROW:
        for v in range(first, last):
            a0 = a1 = a2 = np.float32(0.0)
            for e in range(starts[v], starts[v + 1]):
                p, weight = points[e], weights[e]
                a0 += weight * values[p, 0]
                a1 += weight * values[p, 1]
                a2 += weight * values[p, 2]
            out[v, 0], out[v, 1], out[v, 2] = a0, a1, a2
    else:
        for v in range(first, last):
            for c in range(values.shape[1]):
                out[v, c] = 0.0
            for e in range(starts[v], starts[v + 1]):
                p, weight = points[e], weights[e]
                for c in range(values.shape[1]):
                    out[v, c] += weight * values[p, c]


@compiled
def blur(first: int, last: int, near: Int32, values: Float, out: Float) -> None:
    """Write a range of vertices plus half of their two neighbours along one direction.

    Args:
        first: First vertex.
        last: One past the last vertex.
        near: (M, 2) int32, M: no neighbour.
        values: (M + 1, C) float32, row M is 0.
        out: (M + 1, C) float32, rows of the range are written.
    """
    columns = values.shape[1]
    for v in range(first, last):
        u, w = near[v, 0], near[v, 1]
        if columns == NARROW:
            for c in range(NARROW):
                out[v, c] = values[v, c] + HALF * (values[u, c] + values[w, c])
        else:
            for c in range(columns):
                out[v, c] = values[v, c] + HALF * (values[u, c] + values[w, c])


@compiled
def add_slices(
    first: int,
    last: int,
    ids: Int32,
    weights: Float,
    gain: Float,
    lattice: Float,
    base: Float,
    out: Float,
) -> None:
    """Write for a range of points ``base`` plus ``gain`` times the lattice read there.

    Args:
        first: First point.
        last: One past the last point.
        ids: (N, d + 1) int32, vertices of the points.
        weights: (N, d + 1) float32, barycentric weights.
        gain: (N,) float32.
        lattice: (M + 1, C) float32.
        base: (N, C) float32.
        out: (N, C) float32, rows of the range are written; may be ``base``.
    """
    if base.shape[1] == NARROW:
        for p in range(first, last):
            a0 = a1 = a2 = np.float32(0.0)
            for k in range(ids.shape[1]):
                v, weight = ids[p, k], weights[p, k]
                a0 += weight * lattice[v, 0]
                a1 += weight * lattice[v, 1]
                a2 += weight * lattice[v, 2]
            out[p, 0] = base[p, 0] + gain[p] * a0
            out[p, 1] = base[p, 1] + gain[p] * a1
            out[p, 2] = base[p, 2] + gain[p] * a2
    else:
        for p in range(first, last):
            for c in range(base.shape[1]):
                out[p, c] = base[p, c]
            for k in range(ids.shape[1]):
                v, weight = ids[p, k], gain[p] * weights[p, k]
                for c in range(base.shape[1]):
                    out[p, c] += weight * lattice[v, c]


@compiled
def scale_entries(first: int, last: int, points: Int32, scale: Float, weights: Float) -> None:
    """Multiply the weights of a range of entries by the (N,) ``scale`` of their points."""
    for e in range(first, last):
        weights[e] *= scale[points[e]]


@compiled
def exp_of_negative(x: np.float32) -> np.float32:
    """Return e^x of a float32 x <= 0, to 2e-7 of the result; e^-87 for smaller x.

    The system's exponential differs between machines in the last bit; this one does not.

    Examples:
        >>> [float(exp_of_negative(np.float32(x))) for x in (0.0, -1.0, -1e9)]
        [1.0, 0.3678794503211975, 1.6458114537543937e-38]
    """
    clipped = x if x > LEAST else LEAST
    whole = (clipped * LOG2_E + ROUNDING) - ROUNDING
    r = (clipped - whole * LN2_HIGH) - whole * LN2_LOW
    # Taylor series to r^7, |r| <= ln 2 / 2.
    series = np.float32(1 / 5040)
    series = series * r + np.float32(1 / 720)
    series = series * r + np.float32(1 / 120)
    series = series * r + np.float32(1 / 24)
    series = series * r + np.float32(1 / 6)
    series = series * r + HALF
    series = series * r + ONE
    series = series * r + ONE
    power = (np.int32(whole) + np.int32(127)) << np.int32(23)
    return series * np.int32(power).view(np.float32)


@compiled
def half_tanh(first: int, last: int, values: Float) -> None:
    """Replace x in a range of points by tanh(x / 2) = 2 sigmoid(x) - 1.

    Args:
        first: First point.
        last: One past the last point.
        values: (N, C) float32.
    """
    flat = values[first:last].reshape(-1)
    for i in range(len(flat)):
        small = exp_of_negative(-abs(flat[i]))
        size = (ONE - small) / (ONE + small)
        flat[i] = size if flat[i] > 0 else -size


@compiled
def softmax(first: int, last: int, labels: int, values: Float) -> None:
    """Replace the first ``labels`` columns in a range of points by their softmax.

    Args:
        first: First point.
        last: One past the last point.
        labels: L, 1..C; later columns become 0.
        values: (N, C) float32.
    """
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for p in range(start, stop):
            largest = values[p, 0]
            for c in range(1, labels):
                largest = max(largest, values[p, c])
            for c in range(values.shape[1]):
                values[p, c] = min(values[p, c] - largest, ZERO)
        flat = values[start:stop].reshape(-1)
        for i in range(len(flat)):
            flat[i] = exp_of_negative(flat[i])
        for p in range(start, stop):
            total = ZERO
            for c in range(labels):
                total += values[p, c]
            for c in range(labels):
                values[p, c] /= total
            for c in range(labels, values.shape[1]):
                values[p, c] = ZERO
