"""K-means over all descriptors of a data set.

Shapes: n descriptors, K clusters, D dimensions; of the start m sampled rows, T trials.
Source: Lloyd, "Least squares quantization in PCM", 1982; Arthur and Vassilvitskii, "k-means++: the
advantages of careful seeding", SODA 2007, greedy with 2 + ln K trials as in scikit-learn.
Deviation from U2Seg (commit 8e9c709, USL copy): it lets empty clusters become NaN; here they are
seeded again.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from u2seg.clusters.lloyd import assign, farthest, lloyd, minibatch
from u2seg.clusters.rows import ArrayRows, Rows, Table, one_blas_thread_each
from u2seg.config.schema import ClusterSettings
from u2seg.errors import UserError

RESEED_ROUNDS = 10
START_POINTS = 64
"""k-means++ looks at no more than so many rows per cluster, drawn at random."""
START_LEAST = 20_000
"""It looks at this many in any case, if there are so many."""
CHUNK = 8192
"""Rows of a thread's product."""

_log = logging.getLogger(__name__)


class KMeans(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """K-means with scikit-learn's contract, for tables of any size.

    Tables on disk (``FileRows``) are read in blocks; see ``rows`` for how much is in memory.

    Args:
        n_clusters: K >= 1.
        init: ``k-means++`` (greedy, on a bounded sample) or ``random``.
        n_init: Starts of which the one with the lowest inertia is kept, >= 1.
        max_iter: Lloyd iterations at most, >= 1; with ``batch_size`` passes over the data.
        tol: Stop once the squared shifts of all centres add up to no more than this share of the
            mean variance of a dimension, >= 0.
        batch_size: Rows of a mini-batch; 0 = Lloyd's iterations over all rows.
        random_state: A number: same number, same data, same result.

    Attributes:
        cluster_centers_: (K, D) float32, finite.
        labels_: (n,) int64, the nearest centre of every descriptor given to ``fit``.
        inertia_: Sum of squared distances to the nearest centre.
        n_iter_: Iterations of the start that was kept.
        n_features_in_: D.

    Examples:
        >>> points = np.array([[0, 0], [0, 1], [9, 9], [9, 8]], dtype=np.float32)
        >>> model = KMeans(2).fit(points)
        >>> sorted(model.cluster_centers_.tolist()), model.inertia_
        ([[0.0, 0.5], [9.0, 8.5]], 1.0)
    """

    cluster_centers_: Table
    labels_: npt.NDArray[np.int64]
    inertia_: float
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str = "k-means++",
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        batch_size: int = 0,
        random_state: int | None = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.random_state = random_state

    @classmethod
    def from_settings(cls, settings: ClusterSettings) -> KMeans:
        """Build from the ``CLUSTERS`` section."""
        return cls(
            settings.num_clusters,
            init=settings.kmeans.init,
            n_init=settings.kmeans.restarts,
            max_iter=settings.kmeans.iterations,
            batch_size=settings.kmeans.batch_size,
            random_state=settings.seed,
        )

    def fit(self, X: npt.ArrayLike | Rows, y: Any = None) -> KMeans:  # noqa: N803
        """Find the centres.

        Args:
            X: (n, D) descriptors, finite, n >= K; an array or a table on disk. Not modified.
            y: Ignored; scikit-learn's pipelines pass it.

        Raises:
            UserError: if n < K.
            ValueError: if ``X`` is empty, not 2-D or not finite, ``init`` is unknown, or a count
                is below 1.
        """
        for name in ("n_clusters", "n_init", "max_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        rows = _checked(X).resident()
        if len(rows) < self.n_clusters:
            raise UserError(
                f"U2SEG.CLUSTERS.NUM_CLUSTERS is {self.n_clusters}, but there are only "
                f"{len(rows)} masks to cluster: lower it, or label more images"
            )
        tolerance = self.tol * mean_variance(rows)
        draws = check_random_state(self.random_state)
        best = np.inf
        for seed in draws.randint(2**31 - 1, size=self.n_init):
            centers, done = self._once(rows, tolerance, int(seed))
            centers, labels, inertia = _fill_empty(rows, centers)
            if inertia < best:
                best, self.inertia_, self.n_iter_ = inertia, inertia, done
                self.cluster_centers_, self.labels_ = centers, labels
        self.n_features_in_ = rows.dim
        _warn_if_empty(self.labels_, self.n_clusters, rows)
        return self

    def _once(self, rows: Rows, tolerance: float, seed: int) -> tuple[Table, int]:
        start = start_centers(rows, self.n_clusters, self.init, seed)
        if self.batch_size:
            return minibatch(rows, start, self.max_iter, tolerance, seed, self.batch_size)
        return lloyd(rows, start, self.max_iter, tolerance)

    def predict(self, X: npt.ArrayLike | Rows) -> npt.NDArray[np.int64]:  # noqa: N803
        """Return the nearest centre (n,) int64 of every descriptor.

        Raises:
            UserError: if D is not that of ``fit``.
            sklearn.exceptions.NotFittedError: before ``fit``; a ``ValueError``.
            ValueError: if ``X`` is not 2-D or not finite.
        """
        check_is_fitted(self)
        rows = _checked(X)
        if rows.dim != self.n_features_in_:
            raise UserError(
                f"X has {rows.dim} features, but KMeans is expecting {self.n_features_in_} "
                "features as input: these descriptors come from another feature extractor"
            )
        mean_variance(rows)
        return assign(rows, self.cluster_centers_)[0]


def _checked(X: npt.ArrayLike | Rows) -> Rows:  # noqa: N803
    """Return a table as it is, anything else as scikit-learn checks arrays."""
    return X if isinstance(X, Rows) else ArrayRows(check_array(X, dtype=np.float32))


def mean_variance(rows: Rows) -> float:
    """Return the mean over dimensions of the variance of a table.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    total, squared = np.zeros(rows.dim), np.zeros(rows.dim)
    origin = rows.read(0, min(1, len(rows))).astype(np.float64).sum(axis=0)
    for _, block in rows.blocks():
        if not np.isfinite(block).all():
            raise ValueError("descriptors hold NaN or infinity")
        gap = block - origin
        total += gap.sum(axis=0)
        squared += np.einsum("md,md->d", gap, gap)
    count = max(1, len(rows))
    return float(np.mean(np.maximum(squared / count - (total / count) ** 2, 0)))


def _fill_empty(rows: Rows, centers: Table) -> tuple[Table, npt.NDArray[np.int64], float]:
    """Return centres, labels and inertia after seeding empty clusters at the farthest points.

    A cluster stays empty only if every point lies on a centre already.
    """
    centers = centers.copy()
    labels, distances = assign(rows, centers)
    for _ in range(RESEED_ROUNDS):
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centers)) == 0)
        if empty.size == 0 or distances.max() == 0:
            break
        _log.warning(
            "%d of %d clusters were empty; seeded again at the descriptors farthest from "
            "their centre",
            empty.size,
            len(centers),
        )
        far = farthest(distances, empty.size)
        centers[empty[: far.size]] = rows.take(np.sort(far))
        labels, distances = assign(rows, centers)
    return centers, labels, float(np.sum(distances**2))


def _warn_if_empty(labels: npt.NDArray[np.int64], clusters: int, rows: Rows) -> None:
    used = len(np.unique(labels))
    if used < clusters:
        _log.warning(
            "only %d of %d clusters have members: the %d masks have fewer distinct descriptors",
            used,
            clusters,
            len(rows),
        )


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
