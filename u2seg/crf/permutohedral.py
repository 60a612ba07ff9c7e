"""Gaussian filtering of many values at scattered positions: the permutohedral lattice.

A d-dimensional position falls into a simplex of d + 1 lattice vertices. ``splat`` spreads its
values over them with barycentric weights, ``blur`` convolves the lattice with (1/2, 1, 1/2)
along each of its d + 1 directions, ``slice`` reads the result back at the positions. The lattice
depends on the positions only; it is built once and filters any number of columns together.

Shapes: d dimensions, N positions, M lattice vertices, C columns of values.
Source: Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral
lattice", 2010. Conventions that the paper leaves open (blur weights and order, scale of the
result, only occupied vertices exist) are those of the lattice in Krähenbühl and Koltun's dense
CRF (pydensecrf commit 2723c7f), whose values this module matches to rounding.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from u2seg.crf.filtering import NARROW, add_slices, blur, scale_entries, splat
from u2seg.crf.parallel import Threads
from u2seg.crf.simplex import axis_factors
from u2seg.crf.vertices import (
    count_entries,
    find_extent,
    find_neighbors,
    list_entries,
    number_vertices,
    unite,
)
from u2seg.errors import UserError

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
MAX_EXTENT = 2.0**20
"""Beyond this float32 no longer tells the vertices of a simplex apart."""
TOO_NARROW = (
    "the image spans too many standard deviations of the CRF kernel: raise the kernel's "
    "widths (crf_..._sxy, crf_..._srgb) or make the image smaller"
)


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
            64 bits (about 6000 per dimension for d = 5), or their order is lost in rounding.

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
        extents = threads.run(find_extent, count, positions, factors)
        lowest, units = _key_layout(np.stack(extents))
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


def _key_layout(extents: Float) -> tuple[Int, Int]:
    """Return what ``simplex_keys`` needs: the (d,) lowest coordinates and (d + 1,) units.

    Args:
        extents: (ranges, 2, d + 1) float32, least and largest elevated coordinates.

    Raises:
        UserError: if they are too large.
    """
    if np.abs(extents).max() > MAX_EXTENT:
        raise UserError(TOO_NARROW)
    size = extents.shape[2]
    # A corner is less than d + 1 away, a vertex d more, its neighbour another d.
    lowest = np.floor(extents[:, 0, :-1].min(axis=0)).astype(np.int64) - 3 * size
    widths = np.ceil(extents[:, 1, :-1].max(axis=0)).astype(np.int64) + 3 * size + 1 - lowest
    if math.prod(map(int, widths)) >= 2**62:
        raise UserError(TOO_NARROW)
    units = np.concatenate([[1], np.cumprod(widths[:-1]), [0]])
    return lowest, units.astype(np.int64)
