"""Lloyd's iterations that skip what cannot have changed, block by block, in bounded memory.

Every row keeps a bound on the distance to its centre and, for every group of centres, on the
distance to the nearest other one. A group is looked at only if the bounds allow a nearer centre in
it. The result is that of Lloyd's iterations up to rounding; most rows of the later iterations cost
nothing.

Source: Ding et al., "Yinyang K-Means", ICML 2015.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.clusters import bounds
from u2seg.clusters.base import CLUSTERERS
from u2seg.clusters.parallel import one_blas_thread_each
from u2seg.clusters.rows import BLOCK_ROWS, Rows, Table
from u2seg.io.progress import Bar

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


@CLUSTERERS.register("blocks")
def lloyd_blocks(
    rows: Rows, initial: Table, iterations: int, tolerance: float, seed: int
) -> tuple[Table, int]:
    """Return centres and the number of iterations; see ``Lloyd`` for the arguments.

    Blocks are shared out among threads, and their results are added up in the order of the table.
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
                bounds.move(state.sums, state.counts, *moved)
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
    """Centres, sums and bounds between two passes; ``step`` may run in several threads.

    Args:
        rows: The table.
        centers: (K, D), sorted by group.
        group_of: (K,), ascending.
    """

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
            todo = bounds.relax(labels, upper, lower, self.shift, self.group_shift)
            if len(todo) == 0:
                return np.empty((0, self.rows.dim), np.float32), old[:0], old[:0]
            block = self.rows.block(start)
            todo = bounds.tighten(block, todo, labels, upper, lower, self.centers)
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
            wanted = bounds.open_rows(todo, group, upper, lower)
            if len(wanted):
                self._products(block, wanted, range(group, group + 1), *bounds_of_block)

    def _products(self, block: Table, wanted: Any, groups: range, *bounds_of_block: Any) -> None:
        """Multiply some rows with the centres of neighbouring groups, and look at the results."""
        labels, upper, lower, lengths = bounds_of_block
        first, last = self.edges[groups.start], self.edges[groups.stop]
        whole = len(wanted) == len(block)
        products = (block if whole else block[wanted]) @ self.centers[first:last].T
        for group in groups:
            bounds.search(
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

    Args:
        centers: (K, D).
        sums: (K, D) of the rows of every centre.
        counts: (K,) of them.
        distances: (n,) of every row to its centre, or anything that grows with it.
        rows: (n, D).
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
