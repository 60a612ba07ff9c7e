"""Numbering the occupied vertices of a permutohedral lattice: compiled loops.

A vertex has one 64-bit key, linear in its coordinates, so a step to a neighbour adds a constant.
Keys are found in hash tables with open addressing that hold vertex numbers (-1: free).

Shapes: d dimensions, N positions, M vertices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from u2seg.crf.simplex import barycentric, elevate, enclosing_simplex
from u2seg.io.jit import compiled

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
# 2^64 over the golden ratio: its products spread over the high bits (Knuth, volume 3, 6.4).
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
FIRST_BITS = 14


@compiled
def find_extent(first: int, last: int, positions: Float, factors: Float) -> Float:
    """Return (2, d + 1) float32: least and largest elevated coordinates of a range of points.

    Args:
        first: First point.
        last: One past the last point.
        positions: (d, N) float32.
        factors: ``axis_factors(d)``.
    """
    dims = len(positions)
    elevated = np.empty(dims + 1, np.float32)
    extent = np.empty((2, dims + 1), np.float32)
    extent[0], extent[1] = np.inf, -np.inf
    for p in range(first, last):
        elevate(positions[:, p], factors, elevated)
        for i in range(dims + 1):
            extent[0, i] = min(extent[0, i], elevated[i])
            extent[1, i] = max(extent[1, i], elevated[i])
    return extent


@compiled
def slot_of(key: int, keys: Int, table: Int32, bits: int) -> int:
    """Return the slot of a table of 2^bits slots that holds ``key``, or where it belongs."""
    slot = np.int64((np.uint64(key) * MULTIPLIER) >> np.uint64(64 - bits))
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & (len(table) - 1)
    return int(slot)


@compiled
def fill_table(keys: Int, count: int, bits: int) -> Int32:
    """Return a table of 2^bits slots of the first ``count`` keys, which differ."""
    table = np.full(1 << bits, -1, np.int32)
    for v in range(count):
        table[slot_of(keys[v], keys, table, bits)] = v
    return table


@compiled
def simplex_keys(corner: Int, rank: Int, lowest: Int, units: Int, keys: Int) -> None:
    """Find the keys of a simplex' vertices; entry k is the vertex of remainder k.

    Args:
        corner: (d + 1,) int64, see ``enclosing_simplex``.
        rank: (d + 1,) int64, likewise.
        lowest: (d,) int64, subtracted from the coordinates.
        units: (d + 1,) int64, what one step of a coordinate adds to a key; the last coordinate
            follows from the others, so its unit is 0.
        keys: (d + 1,) int64, written.

    Examples:
        d = 1, corner 2, the second coordinate has rank 0: the vertices are 2 and 2 - 1.

        >>> keys = np.empty(2, np.int64)
        >>> args = np.array([2, -2]), np.array([1, 0]), np.array([0]), np.array([1, 0])
        >>> simplex_keys(*args, keys)
        >>> keys.tolist()
        [2, 1]
    """
    size = len(corner)
    everywhere = 0
    keys[0] = 0
    for i in range(size - 1):
        keys[0] += (corner[i] - lowest[i]) * units[i]
        everywhere += units[i]
    # One remainder up, every coordinate rises by 1, and the one of rank d + 1 - k falls by d + 1.
    for k in range(1, size):
        keys[k] = everywhere
    for i in range(size):
        if rank[i] > 0:
            keys[size - rank[i]] -= size * units[i]
    for k in range(1, size):
        keys[k] += keys[k - 1]


@compiled
def number_vertices(
    first: int,
    last: int,
    positions: Float,
    factors: Float,
    lowest: Int,
    units: Int,
    ids: Int32,
    weights: Float,
) -> Int:
    """Number the vertices of a range of points from 0 on, in the order they are met.

    Args:
        first: First point.
        last: One past the last point.
        positions: (d, N) float32.
        factors: ``axis_factors(d)``.
        lowest: See ``simplex_keys``.
        units: Likewise.
        ids: (N, d + 1) int32, rows of the range are written: the vertices' numbers.
        weights: (N, d + 1) float32, likewise: barycentric weights.

    Returns:
        (m,) int64, the keys by number.
    """
    size = len(positions) + 1
    point, elevated = np.empty(size - 1, np.float32), np.empty(size, np.float32)
    bary = np.empty(size, np.float32)
    corner = np.empty(size, np.int64)
    rank = np.empty(size, np.int64)
    wanted = np.empty(size, np.int64)
    bits, count = FIRST_BITS, 0
    table = np.full(1 << bits, -1, np.int32)
    keys = np.empty(len(table) // 2 + size, np.int64)
    for p in range(first, last):
        for i in range(size - 1):
            point[i] = positions[i, p]
        elevate(point, factors, elevated)
        enclosing_simplex(elevated, corner, rank)
        barycentric(elevated, corner, rank, bary)
        simplex_keys(corner, rank, lowest, units, wanted)
        for k in range(size):
            slot = slot_of(wanted[k], keys, table, bits)
            if table[slot] < 0:
                table[slot] = count
                keys[count] = wanted[k]
                count += 1
            ids[p, k] = table[slot]
            weights[p, k] = bary[k]
        if count > len(table) // 2:
            bits += 1
            table = fill_table(keys, count, bits)
            larger = np.empty(len(table) // 2 + size, np.int64)
            larger[:count] = keys[:count]
            keys = larger
    return keys[:count].copy()


@compiled
def unite(found: Int, bits: int) -> tuple[Int, Int32, Int32]:
    """Number the different keys among those of several ranges, in the order they are met.

    Args:
        found: (n,) int64 keys, n <= 2^bits / 2.
        bits: Logarithm of the table's size.

    Returns:
        ``keys`` (M,) int64 by number, the ``table`` of them, and ``numbers`` (n,) int32: the
        number of each key given.
    """
    table = np.full(1 << bits, -1, np.int32)
    keys = np.empty(len(found), np.int64)
    numbers = np.empty(len(found), np.int32)
    count = 0
    for i in range(len(found)):
        slot = slot_of(found[i], keys, table, bits)
        if table[slot] < 0:
            table[slot] = count
            keys[count] = found[i]
            count += 1
        numbers[i] = table[slot]
    return keys[:count].copy(), table, numbers


@compiled
def find_neighbors(
    first: int, last: int, keys: Int, table: Int32, bits: int, steps: Int, near: Int32
) -> None:
    """Look up the neighbours of a range of vertices along every direction.

    Args:
        first: First vertex.
        last: One past the last vertex.
        keys: (M,) int64 by number.
        table: Their hash table of 2^bits slots.
        bits: Logarithm of its size.
        steps: (d + 1,) int64, what a step along each direction adds to a key.
        near: (d + 1, M, 2) int32, M everywhere (no neighbour); written: the vertex one step
            forward, and backward.
    """
    for j in range(len(steps)):
        for v in range(first, last):
            u = table[slot_of(keys[v] + steps[j], keys, table, bits)]
            if u >= 0:
                near[j, v, 0] = u
                near[j, u, 1] = v


@compiled
def count_entries(first: int, last: int, ids: Int32, numbers: Int32, counts: Int32) -> None:
    """Renumber the vertices of a range of points, and count the entries of each vertex.

    Args:
        first: First point.
        last: One past the last point.
        ids: (N, d + 1) int32, rows of the range: old numbers in, new ones out.
        numbers: New numbers by old ones.
        counts: (M,) int32, added to.
    """
    for p in range(first, last):
        for k in range(ids.shape[1]):
            ids[p, k] = numbers[ids[p, k]]
            counts[ids[p, k]] += 1


@compiled
def list_entries(
    first: int, last: int, ids: Int32, weights: Float, free: Int, points: Int32, values: Float
) -> None:
    """Enter a range of points, in their order, into the lists of their vertices.

    Args:
        first: First point.
        last: One past the last point.
        ids: (N, d + 1) int32.
        weights: (N, d + 1) float32.
        free: (M,) int64: where each vertex's next entry of this range belongs; moves on.
        points: (N (d + 1),) int32, written: points of the entries.
        values: (N (d + 1),) float32, written: their weights.
    """
    for p in range(first, last):
        for k in range(ids.shape[1]):
            v = ids[p, k]
            points[free[v]] = p
            values[free[v]] = weights[p, k]
            free[v] += 1
