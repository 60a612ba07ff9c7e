"""Gaussian filtering of many values at scattered positions: the permutohedral lattice.

A d-dimensional position falls into a simplex of d + 1 lattice vertices. ``splat`` spreads its
values over them with barycentric weights, ``blur`` convolves the lattice with (1/2, 1, 1/2)
along each of its d + 1 directions, ``slice`` reads the result back at the positions. The lattice
depends on the positions only; it is built once and filters any number of columns together.

Compiled passes write rows ``first`` to ``last`` (excluded) of their last argument; row M of values
on the lattice is 0, the neighbour that is not there.

Shapes: d dimensions, N positions, M lattice vertices, C columns of values.
Source: Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral
lattice", 2010. Conventions that the paper leaves open (blur weights and order, scale of the
result, only occupied vertices exist) are those of the lattice in Krähenbühl and Koltun's dense
CRF (pydensecrf commit 2723c7f), whose values this module matches to rounding.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from u2seg.crf.parallel import Threads
from u2seg.crf.simplex import (
    axis_factors,
    count_entries,
    find_neighbors,
    key_layout,
    list_entries,
    number_vertices,
    unite,
)
from u2seg.io.jit import compiled

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
NARROW = 3
"""Sums of so few columns stay in registers; more are added row by row, in vector code."""
HALF = np.float32(0.5)


class PermutohedralLattice:
    """A Gaussian filter of standard deviation 1 in the space of ``positions``.

    Args:
        positions: (d, N) float32, finite, in units of the kernel's standard deviation; d >= 1,
            N >= 1.
        threads: Used while building only.

    Attributes:
        num_vertices: M, the occupied vertices; at most N (d + 1).

    Raises:
        ValueError: if ``positions`` has another shape or is not finite.
        UserError: if they span so many standard deviations that vertices cannot be numbered in
            62 bits (thousands per dimension for d = 5), or their order is lost in rounding.

    Examples:
        Equal positions share their values, a distant one sees nothing. By hand, for d = 1 both
        directions are the one axis: 1 at a vertex becomes (1/2, 1) on it and its neighbour,
        then 1 + 1/4, scaled by 1 / (1 + 2^-1).

        >>> values = np.array([[1], [0], [0]], dtype=np.float32)
        >>> with Threads(1) as threads:
        ...     lattice = PermutohedralLattice(np.array([[0, 0, 50]], np.float32), threads)
        ...     result = lattice.filter(values, threads)
        >>> [round(float(v), 4) for v in result[:, 0]]
        [0.8333, 0.8333, 0.0]

    Notes:
        Memory about 16 N (d + 1) + 8 M (d + 1) bytes, plus 8 M C while filtering. Time
        O(N d^2) to build and O((N + M) d C) per filter. The same bytes for any number of
        threads.
    """

    def __init__(self, positions: Float, threads: Threads) -> None:
        if positions.ndim != 2 or 0 in positions.shape:
            raise ValueError(f"positions must be (d, N), d, N >= 1, got {positions.shape}")
        if not np.isfinite(positions).all():
            raise ValueError("positions hold NaN or infinity")
        dims, count = positions.shape
        positions = np.ascontiguousarray(positions, dtype=np.float32)
        factors = axis_factors(dims)
        least, largest = positions.min(axis=1).tolist(), positions.max(axis=1).tolist()
        layout_of_keys = key_layout(list(zip(least, largest, strict=True)))
        lowest, units = (np.array(part, np.int64) for part in layout_of_keys)
        units = units[:-1]  # there are no groups
        self._ids = np.empty((count, dims + 1), dtype=np.int32)
        self._weights = np.empty((count, dims + 1), dtype=np.float32)
        layout = (positions, factors, lowest, units, self._ids, self._weights)
        found: list[Int] = threads.run(number_vertices, count, *layout)
        total = sum(map(len, found))
        bits = max(4, (2 * total - 1).bit_length())
        keys, table, numbers = unite(np.concatenate(found), bits)
        self.num_vertices = len(keys)
        self._near = np.full((dims + 1, len(keys), 2), len(keys), dtype=np.int32)
        steps = (dims + 1) * units - units.sum()
        threads.run(find_neighbors, len(keys), keys, table, bits, steps, self._near)
        ends = list(itertools.accumulate(map(len, found)))
        self._list_entries(np.split(numbers, ends[:-1]), threads)
        self._gain = np.full(count, 1.0 / (1.0 + 2.0**-dims), dtype=np.float32)

    def _list_entries(self, numbers: list[npt.NDArray[np.int32]], threads: Threads) -> None:
        """Sort the entries of all points by vertex; ``numbers`` renumber each range's vertices."""
        ranges = threads.ranges(len(self._ids))
        counts = np.zeros((len(ranges), self.num_vertices), dtype=np.int32)
        threads.run_each(
            count_entries,
            [(*bounds, self._ids, new, n) for bounds, new, n in zip(ranges, numbers, counts)],
        )
        self._starts = np.zeros(self.num_vertices + 1, dtype=np.int64)
        np.cumsum(counts.sum(axis=0), out=self._starts[1:])
        free = self._starts[:-1] + np.cumsum(counts, axis=0, dtype=np.int64) - counts
        self._points = np.empty(self._ids.size, dtype=np.int32)
        self._entries = np.empty(self._ids.size, dtype=np.float32)
        shared = (self._ids, self._weights)
        threads.run_each(
            list_entries,
            [
                (*bounds, *shared, start, self._points, self._entries)
                for bounds, start in zip(ranges, free)
            ],
        )

    def normalize(self, weight: float, threads: Threads) -> None:
        """Turn the filter K, once, into ``weight`` D K D with D = diag(K 1)^(-1/2)."""
        ones = np.ones((len(self._ids), NARROW), dtype=np.float32)
        norm = self.filter(ones, threads)[:, 0]
        scale: Float = np.float32(1.0) / np.sqrt(norm + np.float32(1e-20))
        self._gain *= np.float32(weight) * scale
        threads.run(scale_entries, len(self._entries), self._points, scale, self._entries)

    def filter(self, values: Float, threads: Threads) -> Float:
        """Return the filtered values; see ``add_filtered``."""
        zeros = np.zeros_like(values)
        self.add_filtered(values, threads, zeros, zeros)
        return zeros

    def add_filtered(self, values: Float, threads: Threads, base: Float, out: Float) -> None:
        """Write to ``out`` the sum of ``base`` and the filtered values.

        At each position the filtered value is the sum over all positions of Gaussian weight
        times value.

        Args:
            values: (N, C) float32.
            threads: They share the work.
            base: (N, C) float32: the result is added to it.
            out: (N, C) float32 for the sum, may be ``base``.
        """
        lattice = np.empty((self.num_vertices + 1, values.shape[1]), dtype=np.float32)
        other = np.empty_like(lattice)
        lattice[-1] = other[-1] = 0.0
        entries = (self._starts, self._points, self._entries)
        threads.run(splat, self.num_vertices, *entries, values, lattice)
        for near in self._near:
            threads.run(blur, self.num_vertices, near, lattice, other)
            lattice, other = other, lattice
        slices = (self._ids, self._weights, self._gain)
        threads.run(add_slices, len(self._ids), *slices, lattice, base, out)


@compiled
def splat(
    first: int, last: int, starts: Int, points: Int32, weights: Float, values: Float, out: Float
) -> None:
    """Gather at a range of vertices the weighted values of their points.

    The entries of vertex v are ``starts[v]`` to ``starts[v + 1]``: ``points`` and ``weights``.
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
    """Write a range of vertices plus half of their two neighbours ``near`` along a direction."""
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
    """Write for a range of points ``base`` plus ``gain`` times the lattice read there."""
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
