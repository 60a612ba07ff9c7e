"""Compiled loops of the pruned K-means: what the triangle inequality says about every row.

Shapes: m rows of a block, D dimensions, K centres in G groups; the centres of group g are columns
``edges[g]`` to ``edges[g + 1]``. ``labels`` (m,) int32 is the centre of every row, -1 = none yet;
``upper`` (m,) float32 is at least the distance to it; ``lower`` (m, G) float32 is at most the
distance to the nearest other centre of every group. Loops write these in place.

Source: Ding et al., "Yinyang K-Means", ICML 2015; Hamerly, "Making k-means even faster", 2010.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.io.jit import compiled, njit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
ROUNDING = 4e-6
"""Error of a squared distance from single-precision products, relative to |x|^2 + |c|^2."""


@njit(fastmath={"reassoc", "contract"})
def _squared(row: Any, center: Any) -> Any:
    total = np.float32(0)
    for d in range(row.shape[0]):
        gap = row[d] - center[d]
        total += gap * gap
    return total


@njit(fastmath={"reassoc", "contract", "nnan", "nsz"})
def _least(products: Any, squares: Any, first: int, last: int, offset: int) -> Any:
    least = np.float32(np.inf)
    for c in range(first, last):
        least = min(least, squares[c] - np.float32(2) * products[c - offset])
    return least


@compiled
def relax(labels: Ints, upper: Floats, lower: Floats, shift: Floats, group_shift: Floats) -> Any:
    """Widen the bounds by how far centres moved; return the rows (m',) that may have changed.

    Args:
        labels: (m,) current centres.
        upper: (m,) bounds, grow by the shift of the own centre.
        lower: (m, G) bounds, shrink by the largest shift in the group.
        shift: (K,) distance every centre moved.
        group_shift: (G,) largest of each group.
    """
    todo = np.empty(len(labels), np.int64)
    count = 0
    for i in range(len(labels)):
        upper[i] += shift[labels[i]]
        open_ = False
        for g in range(lower.shape[1]):
            lower[i, g] -= group_shift[g]
            open_ = open_ or lower[i, g] < upper[i]
        if open_:
            todo[count] = i
            count += 1
    return todo[:count]


@compiled
def tighten(
    block: Floats, todo: Any, labels: Ints, upper: Floats, lower: Floats, centers: Floats
) -> Any:
    """Compute the distance of some rows to their centres; return the rows still open."""
    left = np.empty(len(todo), np.int64)
    count = 0
    for k in range(len(todo)):
        i = todo[k]
        upper[i] = np.sqrt(_squared(block[i], centers[labels[i]]))
        for g in range(lower.shape[1]):
            if lower[i, g] < upper[i]:
                left[count] = i
                count += 1
                break
    return left[:count]


@compiled
def open_rows(todo: Any, group: int, upper: Floats, lower: Floats) -> Any:
    """Return those of some rows that a group may hold a nearer centre for."""
    left = np.empty(len(todo), np.int64)
    count = 0
    for k in range(len(todo)):
        if lower[todo[k], group] < upper[todo[k]]:
            left[count] = todo[k]
            count += 1
    return left[:count]


@compiled
def search(  # noqa: PLR0913 - a compiled loop takes its state piece by piece
    block: Floats,
    todo: Any,
    products: Floats,
    offset: int,
    group: int,
    edges: Any,
    group_of: Any,
    centers: Floats,
    squares: Floats,
    lengths: Floats,
    labels: Ints,
    upper: Floats,
    lower: Floats,
) -> None:
    """Give rows the nearest centre of one group if it is nearer than theirs.

    Args:
        block: (m, D) rows.
        todo: (m',) rows to look at.
        products: (m', K') row times centre, for centres from ``offset`` on; changed.
        offset: The first centre of ``products``.
        group: g.
        edges: (G + 1,) int64.
        group_of: (K,) int64.
        centers: (K, D).
        squares: (K,) squared lengths of the centres.
        lengths: (m,) squared lengths of the rows.
        labels: (m,), changed.
        upper: (m,), changed.
        lower: (m, G), changed.
    """
    first, last = edges[group], edges[group + 1]
    largest = squares[first:last].max()
    for k in range(len(todo)):
        i = todo[k]
        old = labels[i]
        length = lengths[i]
        row = products[k]
        if first <= old < last:
            row[old - offset] = -np.inf
        slack = np.float32(ROUNDING) * (length + largest)
        best = _least(row, squares, first, last, offset)
        low = np.sqrt(max(best + length - slack, np.float32(0)))
        if low < upper[i]:
            nearest = first
            # Doubling is exact, so the same number is found again.
            while (
                nearest < last - 1
                and squares[nearest] - np.float32(2) * row[nearest - offset] != best
            ):
                nearest += 1
            distance = np.sqrt(_squared(block[i], centers[nearest]))
            if distance < upper[i]:
                row[nearest - offset] = -np.inf
                second = _least(row, squares, first, last, offset)
                low = np.sqrt(max(second + length - slack, np.float32(0)))
                if old >= 0:
                    mine = group_of[old]
                    lower[i, mine] = min(lower[i, mine], upper[i])
                    if mine == group:
                        low = min(low, upper[i])
                labels[i] = nearest
                upper[i] = distance
        lower[i, group] = low


@compiled
def move(sums: Any, counts: Any, rows: Floats, old: Ints, new: Ints) -> None:
    """Take rows out of the sums of their old centres and add them to their new ones.

    Args:
        sums: (K, D) float64, changed.
        counts: (K,) int64, changed.
        rows: (m', D).
        old: (m',) centres, -1 = none.
        new: (m',) centres.
    """
    for i in range(len(rows)):
        if old[i] >= 0:
            counts[old[i]] -= 1
            for d in range(rows.shape[1]):
                sums[old[i], d] -= rows[i, d]
        counts[new[i]] += 1
        for d in range(rows.shape[1]):
            sums[new[i], d] += rows[i, d]
