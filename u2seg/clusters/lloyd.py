"""Lloyd's iterations that skip what cannot have changed, block by block, in bounded memory.

Every row keeps a bound on the distance to its centre and, for every group of centres, on the
distance to the nearest other one. A group is looked at only if the bounds allow a nearer centre in
it. The result is that of Lloyd's iterations up to rounding; most rows of the later iterations cost
nothing. ``minibatch`` is the other way to move centres.

Shapes: n rows, m of a block, D dimensions, K centres in G groups; the centres of group g are
columns ``edges[g]`` to ``edges[g + 1]``. ``labels`` (m,) int32: the centre of every row (-1 = none
yet), ``upper`` (m,) float32 at least the distance to it, ``lower`` (m, G) float32 at most the
distance to the nearest other centre of every group. Compiled loops write these in place.
Source: Ding et al., "Yinyang K-Means", ICML 2015; Hamerly, "Making k-means even faster", 2010.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.clusters.rows import BLOCK_ROWS, Rows, Table, as_rows, one_blas_thread_each
from u2seg.errors import UserError
from u2seg.io.jit import compiled, njit
from u2seg.io.progress import Bar

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
ROUNDING = 4e-6
"""Error of a squared distance from single-precision products, relative to |x|^2 + |c|^2."""
BLOCK_BYTES = 16 << 20
"""Bound on the (block, K) table of products of a thread."""
GROUPS = 8
"""Groups of centres, at most; every row keeps 4 bytes for each, and 12 more."""
GROUP_SIZE = 20
"""Fewer centres in a group than this save less than they cost."""
DENSE = 0.4
"""From this share of open (row, group) pairs on, all products are computed at once."""
DENSE_ROWS = 512
"""Rows of such a table of products: it stays in the processor's cache."""

_log = logging.getLogger(__name__)
Changed = tuple[Table, npt.NDArray[np.int32], npt.NDArray[np.int32]]


def lloyd(rows: Rows, initial: Table, iterations: int, tolerance: float) -> tuple[Table, int]:
    """Return (K, D) float32 centres, finite, and the number of iterations made.

    Blocks are shared out among threads, and their results are added up in the order of the table.

    Args:
        rows: (n, D), finite, n >= K.
        initial: (K, D) float32 start.
        iterations: At most so many, >= 1.
        tolerance: Stop once the squared shifts of all centres add up to no more than this.
    """
    bar = Bar(total=iterations, desc="K-means", delay=5, leave=False)
    with one_blas_thread_each() as in_order, bar:
        groups = center_groups(initial, max(1, min(GROUPS, len(initial) // GROUP_SIZE)))
        order = np.argsort(groups, kind="stable")
        state = _State(rows, np.ascontiguousarray(initial[order]), groups[order])
        for done in range(1, iterations + 1):
            changed = 0
            for moved in in_order(state.step, rows.starts()):
                changed += len(moved[0])
                move(state.sums, state.counts, *moved)
            bar.update()
            if changed == 0 and done > 1:
                break
            if state.update(rows) <= tolerance:
                break
    _log.debug("K-means stopped after %d of %d iterations", done, iterations)
    centers = np.empty_like(state.centers)
    centers[order] = state.centers
    return centers, done


def center_groups(centers: Table, count: int) -> npt.NDArray[np.int64]:
    """Return a group 0..count-1 for every centre: a few iterations of K-means over centres.

    No group is empty. The first ``count`` centres start the groups, and keep theirs alive.
    """
    heart = centers[:count].astype(np.float64)
    wide = centers.astype(np.float64)
    for _ in range(5):
        groups = np.argmin(np.einsum("gd,gd->g", heart, heart) - 2 * wide @ heart.T, axis=1)
        groups[:count] = np.arange(count)
        for group in range(count):
            heart[group] = wide[groups == group].mean(axis=0)
    found: npt.NDArray[np.int64] = groups.astype(np.int64)
    return found


class _State:
    """Centres (sorted by group), sums and bounds between passes; threads may share ``step``."""

    def __init__(self, rows: Rows, centers: Table, group_of: npt.NDArray[np.int64]) -> None:
        count, clusters = len(rows), len(centers)
        self.rows = rows
        self.group_of = group_of
        groups = int(group_of[-1]) + 1
        self.edges = np.searchsorted(group_of, np.arange(groups + 1)).astype(np.int64)
        self.labels = np.full(count, -1, dtype=np.int32)
        self.upper = np.full(count, np.inf, dtype=np.float32)
        self.lower = np.zeros((count, groups), dtype=np.float32)
        self.lengths = np.empty(count, dtype=np.float32)
        self.sums = np.zeros((clusters, rows.dim), dtype=np.float64)
        self.counts = np.zeros(clusters, dtype=np.int64)
        self.shift = np.zeros(clusters, dtype=np.float32)
        self.first = True
        self._set(centers)

    def _set(self, centers: Table) -> None:
        self.centers = centers
        self.squares = np.einsum("kd,kd->k", centers, centers)
        self.group_shift = np.maximum.reduceat(self.shift, self.edges[:-1])

    def step(self, start: int) -> Changed:
        """Assign one block; return the rows that changed, their old and their new centres."""
        stop = min(len(self.rows), start + BLOCK_ROWS)
        labels, upper = self.labels[start:stop], self.upper[start:stop]
        lower = self.lower[start:stop]
        old = labels.copy()
        if self.first:
            block = self.rows.block(start)
            np.einsum("md,md->m", block, block, out=self.lengths[start:stop])
            todo = np.arange(stop - start)
        else:
            todo = relax(labels, upper, lower, self.shift, self.group_shift)
            if len(todo) == 0:
                return np.empty((0, self.rows.dim), np.float32), old[:0], old[:0]
            block = self.rows.block(start)
            todo = tighten(block, todo, labels, upper, lower, self.centers)
        self._search(block, todo, labels, upper, lower, self.lengths[start:stop])
        moved = np.flatnonzero(labels != old)
        return block[moved], old[moved], labels[moved]

    def _search(self, block: Table, todo: Any, *bounds_of_block: Any) -> None:
        _, upper, lower, _ = bounds_of_block
        if len(todo) == 0:
            return
        groups = range(len(self.edges) - 1)
        if np.mean(lower[todo] < upper[todo, None]) > DENSE:
            for first in range(0, len(todo), DENSE_ROWS):
                part = todo[first : first + DENSE_ROWS]
                self._products(block, part, groups, *bounds_of_block)
            return
        for group in groups:
            wanted = open_rows(todo, group, upper, lower)
            if len(wanted):
                self._products(block, wanted, range(group, group + 1), *bounds_of_block)

    def _products(self, block: Table, wanted: Any, groups: range, *bounds_of_block: Any) -> None:
        """Multiply some rows with the centres of neighbouring groups, and look at the results."""
        labels, upper, lower, lengths = bounds_of_block
        first, last = self.edges[groups.start], self.edges[groups.stop]
        whole = len(wanted) == len(block)
        products = (block if whole else block[wanted]) @ self.centers[first:last].T
        for group in groups:
            search(
                block, wanted, products, first, group, self.edges, self.group_of,
                self.centers, self.squares, lengths, labels, upper, lower,
            )  # fmt: skip

    def update(self, rows: Rows) -> float:
        """Move the centres; return the sum of their squared shifts."""
        fresh, squared = updated_centers(self.centers, self.sums, self.counts, self.upper, rows)
        # Rounded up: a bound that shrank too little would hide a nearer centre.
        self.shift = np.nextafter(np.sqrt(squared).astype(np.float32), np.float32(np.inf))
        self.first = False
        self._set(fresh)
        return float(squared.sum())


def updated_centers(
    centers: Table,
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    distances: npt.NDArray[np.float32],
    rows: Rows,
) -> tuple[Table, npt.NDArray[np.float64]]:
    """Return the mean of every centre's rows, and the (K,) float64 squared shifts.

    A centre without rows moves to the row farthest from its own centre.
    """
    held = counts > 0
    fresh = centers.copy()
    fresh[held] = sums[held] / counts[held, None]
    empty = np.flatnonzero(~held)
    if empty.size:
        far = farthest(distances, empty.size)
        fresh[empty[: far.size]] = rows.take(np.sort(far))
    gap = fresh.astype(np.float64) - centers
    return fresh, np.einsum("kd,kd->k", gap, gap)


def farthest(distances: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return at most ``count`` indices of the largest distances above 0, ties by index.

    Examples:
        >>> farthest(np.array([0.0, 3.0, 1.0, 3.0]), 2).tolist()
        [1, 3]
    """
    if count < len(distances):
        limit = np.partition(distances, len(distances) - count)[len(distances) - count]
        chosen = np.flatnonzero(distances >= limit)
    else:
        chosen = np.arange(len(distances))
    chosen = chosen[np.argsort(-distances[chosen], kind="stable")][:count]
    return chosen[distances[chosen] > 0].astype(np.int64)


def minibatch(
    rows: Rows, initial: Table, iterations: int, tolerance: float, seed: int, batch_size: int
) -> tuple[Table, int]:
    """Return centres and the number of passes: they follow the running mean of their rows.

    Faster per pass than Lloyd's iterations and worse in the end (published comparisons: inertia
    up to 29 % higher). Source: Sculley, "Web-scale k-means clustering", WWW 2010.

    Args:
        rows: (n, D).
        initial: (K, D).
        iterations: Passes over all rows at most, each in a new order.
        tolerance: Stop once the squared shifts over a pass add up to no more than this.
        seed: Of the order.
        batch_size: Rows of a batch, >= 1.
    """
    rng = np.random.default_rng(seed)
    centers = initial.astype(np.float64)
    counts = np.zeros(len(initial), dtype=np.int64)
    done = 0
    for _ in Bar(range(iterations), desc="mini-batch K-means", delay=5, leave=False):
        done += 1
        before = centers.copy()
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), batch_size):
            batch = rows.take(np.sort(order[start : start + batch_size]))
            labels, _ = assign(batch, centers.astype(np.float32))
            held, inverse, found = np.unique(labels, return_inverse=True, return_counts=True)
            sums = np.zeros((len(held), rows.dim))
            np.add.at(sums, inverse, batch)
            counts[held] += found
            centers[held] += (sums - found[:, None] * centers[held]) / counts[held, None]
        if np.sum((centers - before) ** 2) <= tolerance:
            break
    return centers.astype(np.float32), done


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
    """Widen the bounds by how far centres moved; return the rows (m',) that may have changed."""
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
    """Give rows ``todo`` of a block the nearest centre of one group if it is nearer than theirs.

    ``products`` (m', K') are rows times the centres from ``offset`` on, and are changed;
    ``squares`` (K,) and ``lengths`` (m,) are the squared lengths of centres and rows.
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
    """Take rows out of the sums and counts of their old centres (-1: none), add them to the new."""
    for i in range(len(rows)):
        if old[i] >= 0:
            counts[old[i]] -= 1
            for d in range(rows.shape[1]):
                sums[old[i], d] -= rows[i, d]
        counts[new[i]] += 1
        for d in range(rows.shape[1]):
            sums[new[i], d] += rows[i, d]


def assign(
    descriptors: npt.ArrayLike | Rows, centroids: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the nearest centroid of every descriptor and its distance.

    Args:
        descriptors: (n, D) finite, an array or a table on disk; n = 0 is allowed. Scaled like
            those the centroids are of.
        centroids: (K, D) finite, K >= 1.

    Returns:
        labels (n,) int64 in 0..K-1, the smallest index among equally near ones, and Euclidean
        distances (n,) float64. Inputs are not modified.

    Raises:
        ValueError: if an array is not 2-D or there is no centroid.
        UserError: if the dimensions differ (the centroids are of another extractor).

    Examples:
        >>> labels, distances = assign(
        ...     np.array([[0, 3], [9, 0]], dtype=np.float32),
        ...     np.array([[10, 0], [0, 0]], dtype=np.float32),
        ... )
        >>> labels.tolist(), distances.tolist()
        ([1, 0], [3.0, 1.0])

    Notes:
        Products are taken in double precision, so the block a descriptor falls into does not
        decide its label. Extra memory: about 64 MiB for each thread and a copy of the centroids.
    """
    rows = as_rows(descriptors)
    if centroids.ndim != 2 or len(centroids) == 0:
        raise ValueError(f"centroids must be (K, D) with K >= 1, got {centroids.shape}")
    if rows.dim != centroids.shape[1]:
        raise UserError(
            f"descriptors have {rows.dim} dimensions, the centroids {centroids.shape[1]}: they "
            "come from different feature extractors. Use the extractor the centroids were made "
            "with (U2SEG.FEATURES.NAME) or fit new ones."
        )
    wide = centroids.astype(np.float64)
    half_norms = 0.5 * np.einsum("kd,kd->k", wide, wide)
    labels = np.empty(len(rows), dtype=np.int64)
    distances = np.empty(len(rows), dtype=np.float64)
    block = max(1, BLOCK_BYTES // (8 * (len(wide) + wide.shape[1] * 2)))

    def nearest(start: int) -> None:
        part = slice(start, min(start + block, len(rows)))
        points = rows.read(part.start, part.stop).astype(np.float64)
        # |x - c|^2 / 2 without |x|^2 / 2, which is the same for every c.
        labels[part] = np.argmin(half_norms - points @ wide.T, axis=1)
        distances[part] = np.linalg.norm(points - wide[labels[part]], axis=1)

    with one_blas_thread_each() as in_order:
        for _ in in_order(nearest, range(0, len(rows), block)):
            pass
    return labels, distances
