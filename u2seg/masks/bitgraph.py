"""The affinity graph as a bit matrix, and its product with a vector.

A binary matrix B of 3,600 x 3,600 patches takes 1.6 MB as bits (52 MB as float32), so it stays in
the cache. The product B x follows the method of the four Russians: for every group of eight
patches the 256 possible partial sums of x are tabulated once, then each row adds one table entry
per byte. One product takes a third of a millisecond on one core; threads would cost more in waking
than they save, and one core gives the same bytes always.

Shapes: n patches, g = ceil(n / 8) groups.
Source: Arlazarov et al., 1970; the bit-packed affinity from this project's measurements.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.io.jit import njit
from u2seg.structures.features import PatchFeatures

Bits = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float64]
BLOCK = 480
"""Rows of X'X computed at a time; a multiple of 8."""


@dataclass(frozen=True)
class BitGraph:
    """A symmetric graph on n patches.

    Args:
        bits: (g, n) uint8: bit b of ``bits[k, i]`` says whether patches i and 8 k + b are alike.
    """

    bits: Bits

    @property
    def size(self) -> int:
        """n, the number of patches."""
        return int(self.bits.shape[1])

    @classmethod
    def from_edges(cls, edges: npt.NDArray[np.bool_]) -> BitGraph:
        """Build from a symmetric (n, n) bool matrix.

        Raises:
            ValueError: if it is not square.
        """
        if edges.ndim != 2 or edges.shape[0] != edges.shape[1]:
            raise ValueError(f"edges must be (n, n), got {edges.shape}")
        packed = np.packbits(edges, axis=0, bitorder="little")
        return cls(np.ascontiguousarray(packed))

    @classmethod
    def from_features(cls, features: PatchFeatures, tau: float) -> BitGraph:
        """Build from the cosine similarities of patches: an edge where they exceed ``tau``.

        Args:
            features: Patch features; a patch of zero length is similar to nothing (cosine 0).
            tau: Threshold, -1..1; the comparison is strict.
        """
        flat = features.grid.reshape(features.grid.shape[0], -1)
        length = np.linalg.norm(flat, axis=0)
        unit = np.asarray(flat / np.where(length > 0, length, 1), dtype=np.float32)
        return cls(_pack_blocks(unit, np.float32(tau)))

    def edges(self) -> npt.NDArray[np.bool_]:
        """Return the graph as an (n, n) bool matrix."""
        return np.unpackbits(self.bits, axis=0, count=self.size, bitorder="little").astype(bool)

    @functools.cached_property
    def degrees(self) -> npt.NDArray[np.int64]:
        """Return (n,) int64, the number of edges of every patch, itself included.

        Examples:
            >>> BitGraph.from_edges(np.array([[1, 1], [1, 0]], dtype=bool)).degrees.tolist()
            [2, 1]
        """
        counts: npt.NDArray[np.int64] = np.bitwise_count(self.bits).sum(axis=0, dtype=np.int64)
        return counts

    def multiply(self, vector: Vector) -> Vector:
        """Return B x for an (n,) float64 vector x.

        Examples:
            >>> graph = BitGraph.from_edges(np.array([[1, 1], [1, 0]], dtype=bool))
            >>> graph.multiply(np.array([2.0, 5.0])).tolist()
            [7.0, 2.0]
        """
        padded = np.zeros(8 * self.bits.shape[0])
        padded[: self.size] = vector
        product: Vector = _multiply(self.bits, padded)
        return product

    def without(self, painted: npt.NDArray[np.bool_]) -> BitGraph:
        """Return the graph with all edges of some patches cleared, their own included.

        For ``tau >= 0`` that is what setting their features to zero does: a zero feature is
        similar to nothing (facts sheet: 36 of 36 rounds bit-identical).

        Args:
            painted: (n,) bool.
        """
        live = np.packbits(~painted, bitorder="little")
        return BitGraph(self.bits & live[:, None] & (~painted).astype(np.uint8)[None] * 255)


def _pack_blocks(unit: npt.NDArray[np.float32], tau: np.float32) -> Bits:
    """Return the packed graph of (D, n) unit features, from one triangle of X'X.

    Block by block into one buffer: the whole matrix (52 MB for 3,600 patches) would cost more
    in fresh memory than half of its arithmetic.
    """
    count = unit.shape[1]
    bits = np.zeros((-(-count // 8), count), dtype=np.uint8)
    buffer = np.empty(BLOCK * count, dtype=np.float32)
    for start in range(0, count, BLOCK):
        rows = unit[:, start : start + BLOCK]
        shape = (rows.shape[1], count - start)
        block = buffer[: shape[0] * shape[1]].reshape(shape)
        np.matmul(rows.T, unit[:, start:], out=block)
        _pack_rows(block, tau, start, bits)
        _pack_columns(block, tau, start, bits)
    return bits


@njit()
def _pack_rows(block: Any, tau: Any, start: Any, bits: Any) -> None:
    """Set the bits of patches start.. (rows of the block) against the columns from start on."""
    rows, columns = block.shape
    for k in range((rows + 7) // 8):
        packed = bits[start // 8 + k, start:]
        for b in range(min(8, rows - 8 * k)):
            row = block[8 * k + b]
            bit = np.uint8(1 << b)
            for i in range(columns):
                packed[i] |= np.uint8(bit if row[i] > tau else 0)


@njit()
def _pack_columns(block: Any, tau: Any, start: Any, bits: Any) -> None:
    """Set the mirror image: the columns beyond the block against its rows."""
    rows, columns = block.shape
    for i in range(rows):
        row = block[i]
        for k in range((rows + 7) // 8, (columns + 7) // 8):
            byte = 0
            for b in range(min(8, columns - 8 * k)):
                byte |= (1 << b) if row[8 * k + b] > tau else 0
            bits[start // 8 + k, start + i] = byte


@njit(inline="always")
def _tabulate(table: Any, vector: Any, first: Any) -> None:
    """Write all 256 sums of subsets of vector[first : first + 8]; table[0] is 0."""
    for b in range(8):
        value = vector[first + b]
        for m in range(1 << b):
            table[(1 << b) + m] = table[m] + value


@njit()
def _multiply(bits: Any, vector: Any) -> Any:
    """Sum table entries, eight groups at a time; see the module's docstring."""
    groups, n = bits.shape
    result = np.zeros(n, dtype=np.float64)
    t = np.zeros((8, 256), dtype=np.float64)
    whole = groups - groups % 8
    for k in range(0, whole, 8):
        for j in range(8):
            _tabulate(t[j], vector, 8 * (k + j))
        t0, t1, t2, t3, t4, t5, t6, t7 = t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]
        b0, b1, b2, b3 = bits[k], bits[k + 1], bits[k + 2], bits[k + 3]
        b4, b5, b6, b7 = bits[k + 4], bits[k + 5], bits[k + 6], bits[k + 7]
        for i in range(n):
            low = (t0[b0[i]] + t1[b1[i]]) + (t2[b2[i]] + t3[b3[i]])
            high = (t4[b4[i]] + t5[b5[i]]) + (t6[b6[i]] + t7[b7[i]])
            result[i] += low + high
    for k in range(whole, groups):
        _tabulate(t[0], vector, 8 * k)
        for i in range(n):
            result[i] += t[0, bits[k, i]]
    return result
