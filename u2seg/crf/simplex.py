"""Where positions lie in the permutohedral lattice, and how its occupied vertices are numbered.

Geometry is compiled functions of one point each, which write into their last arguments. A vertex
has one 64-bit key, linear in its coordinates, so a step to a neighbour adds a constant. Keys are
found in hash tables of 2^bits slots with open addressing that hold vertex numbers (-1: free).
Loops over ranges take the first point (or vertex) and one past the last.

Shapes: d dimensions, N positions, M vertices; ``positions`` (d, N), ``ids`` and ``weights``
(N, d + 1), ``corner`` and ``rank`` (d + 1,), ``lowest`` (d,) and ``units`` (d + 1,).
Source: Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral
lattice", 2010, section 3; ties as in pydensecrf (commit 2723c7f), in float32 as there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.jit import compiled

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Range = tuple[float, float]
MAX_EXTENT = 2.0**20
"""Beyond this float32 no longer tells the vertices of a simplex apart."""
TOO_NARROW = (
    "the image spans too many standard deviations of the CRF kernel: raise the kernel's "
    "widths (crf_..._sxy, crf_..._srgb) or make the image smaller"
)
# 2^64 over the golden ratio: its products spread over the high bits (Knuth, volume 3, 6.4).
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
FIRST_BITS = 14


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

    ``corner`` gets multiples of d + 1 that sum to 0; ``rank`` how many coordinates of
    ``elevated - corner`` are larger than coordinate i; of equal ones the lower index comes first.

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

    They sum to 1; entry k belongs to the vertex of remainder k.

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


def key_layout(ranges: Sequence[Range], groups: int = 1) -> tuple[list[int], list[int]]:
    """Return the lowest coordinates (d) and what one step of each adds to a key (d + 2).

    The unit of the last coordinate, which follows from the others, is 0; the last unit of all is
    that of a group.

    Args:
        ranges: Least and largest value of each dimension of the positions.
        groups: How many groups of positions do not mix.

    Raises:
        UserError: if the ranges are so wide that vertices cannot be numbered in 62 bits.
    """
    factors = [float(f) for f in axis_factors(len(ranges))]
    size = len(ranges) + 1
    low, high = 0.0, 0.0  # of the sum of scaled coordinates so far
    extents: list[Range] = []
    for j in range(len(ranges), 0, -1):
        first, last = (v * factors[j - 1] for v in ranges[j - 1])
        extents.append((low - j * last, high - j * first))
        low, high = low + first, high + last
    extents = [(low, high), *reversed(extents)]
    if max(abs(v) for extent in extents for v in extent) > MAX_EXTENT:
        raise UserError(TOO_NARROW)
    # A corner is less than d + 1 away, a vertex d more, its neighbour another d; 1 for rounding.
    lowest = [math.floor(low) - 3 * size - 1 for low, _ in extents[:-1]]
    widths = [
        math.ceil(high) + 3 * size + 2 - first
        for (_, high), first in zip(extents[:-1], lowest, strict=True)
    ]
    units = list(itertools.accumulate(widths, lambda a, b: a * b, initial=1))
    if units[-1] * (groups + 1) >= 2**62:
        raise UserError(TOO_NARROW)
    return lowest, [*units[:-1], 0, units[-1]]


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

    Rows of ``ids`` and ``weights`` get the numbers and the barycentric weights. Returns the keys by
    number, (m,) int64.
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
    """Number the different ones among (n,) keys of several ranges, in the order they are met.

    Returns:
        ``keys`` (M,) int64 by number, the ``table`` of 2^bits >= 2 n slots of them, and ``numbers``
        (n,) int32: the number of each key given.
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

    ``steps`` (d + 1,) is what a step along each direction adds to a key; ``near`` (d + 1, M, 2), M
    everywhere (no neighbour), gets the vertex one step forward, and backward.
    """
    for j in range(len(steps)):
        for v in range(first, last):
            u = table[slot_of(keys[v] + steps[j], keys, table, bits)]
            if u >= 0:
                near[j, v, 0] = u
                near[j, u, 1] = v


@compiled
def count_entries(first: int, last: int, ids: Int32, numbers: Int32, counts: Int32) -> None:
    """Renumber the vertices of a range of points, and add their entries to the (M,) counts."""
    for p in range(first, last):
        for k in range(ids.shape[1]):
            ids[p, k] = numbers[ids[p, k]]
            counts[ids[p, k]] += 1


@compiled
def list_entries(
    first: int, last: int, ids: Int32, weights: Float, free: Int, points: Int32, values: Float
) -> None:
    """Enter a range of points, in their order, into the lists of their vertices.

    ``free`` (M,) int64 says where each vertex's next entry of this range belongs, and moves on;
    ``points`` and ``values`` (N (d + 1),) get the points of the entries and their weights.
    """
    for p in range(first, last):
        for k in range(ids.shape[1]):
            v = ids[p, k]
            points[free[v]] = p
            values[free[v]] = weights[p, k]
            free[v] += 1
