"""Where K-means begins: greedy k-means++ or random rows.

Shapes: n descriptors, K clusters, D dimensions, m sampled rows, T trials.
Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007; greedy
variant with 2 + ln K trials as in scikit-learn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.clusters.parallel import one_blas_thread_each
from u2seg.clusters.rows import Rows, Table

START_POINTS = 64
"""k-means++ looks at no more than so many rows per cluster, drawn at random."""
START_LEAST = 20_000
"""It looks at this many in any case, if there are so many."""
CHUNK = 8192
"""Rows of a thread's product."""


def start_centers(rows: Rows, clusters: int, init: str, seed: int) -> Table:
    """Return (K, D) start centres, rows of the table.

    Args:
        rows: (n, D), n >= K.
        clusters: K.
        init: ``k-means++`` or ``random`` (K different rows; the published U2Seg).
        seed: Same seed, same centres.

    Raises:
        ValueError: for another ``init``.
    """
    rng = np.random.default_rng(seed)
    if init == "random":
        return rows.take(_draw(rng, len(rows), clusters))
    if init != "k-means++":
        raise ValueError(f"init must be 'k-means++' or 'random', got {init!r}")
    sample = rows.take(_draw(rng, len(rows), max(START_POINTS * clusters, START_LEAST)))
    return sample[plus_plus(sample, clusters, rng)]


def plus_plus(points: Table, clusters: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the indices (K,) of greedy k-means++ centres among some points.

    Every further centre is drawn with a probability in proportion to the squared distance to the
    nearest centre so far; of ``2 + ln K`` draws the one that lowers the sum of these distances
    most is taken. Once every point lies on a centre, the remaining ones are drawn evenly from the
    points not yet taken.

    Args:
        points: (m, D), m >= K.
        clusters: K.
        rng: Source of the draws.
    """
    # Around their mean, squared distances lose fewest digits to cancellation.
    centred = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("md,md->m", centred, centred)
    trials = 2 + int(np.log(clusters))
    chosen = np.empty(clusters, dtype=np.int64)
    chosen[0] = rng.integers(len(points))
    with one_blas_thread_each() as in_order:
        distances = functools.partial(_squared_distances, in_order, centred, squares)
        _draw_others(chosen, distances, trials, rng)
    return chosen


def _draw_others(
    chosen: npt.NDArray[np.int64],
    distances: Callable[[npt.NDArray[np.int64]], Table],
    trials: int,
    rng: np.random.Generator,
) -> None:
    """Fill ``chosen`` from its second entry on."""
    clusters = len(chosen)
    nearest = distances(chosen[:1])[0]
    for k in range(1, clusters):
        sums = np.cumsum(nearest, dtype=np.float64)
        if sums[-1] <= 0:
            left = np.setdiff1d(np.arange(len(nearest)), chosen[:k])
            chosen[k:] = rng.choice(left, clusters - k, replace=False)
            break
        drawn = np.searchsorted(sums, rng.random(trials) * sums[-1], side="right")
        drawn = np.minimum(drawn, len(nearest) - 1)
        table = np.minimum(distances(drawn), nearest)
        best = int(np.argmin(table.sum(axis=1, dtype=np.float64)))
        chosen[k], nearest = drawn[best], table[best]


def _squared_distances(
    in_order: Any, points: Table, squares: Table, drawn: npt.NDArray[np.int64]
) -> Table:
    """Return (T, m) squared distances of some of the points to all, exactly 0 to themselves."""
    table = np.empty((len(drawn), len(points)), dtype=np.float32)
    some, own = points[drawn], squares[drawn, None]

    def fill(start: int) -> None:
        part = slice(start, start + CHUNK)
        both = own + squares[part]
        found = both - 2 * (some @ points[part].T)
        # Below rounding, it is the same point: noise must not be drawn.
        found[found < 1e-6 * both] = 0
        table[:, part] = found

    for _ in in_order(fill, range(0, len(points), CHUNK)):
        pass
    table[np.arange(len(drawn)), drawn] = 0
    return table


def _draw(rng: np.random.Generator, total: int, count: int) -> npt.NDArray[np.int64]:
    if count >= total:
        return np.arange(total)
    return np.sort(rng.choice(total, count, replace=False, shuffle=False))
