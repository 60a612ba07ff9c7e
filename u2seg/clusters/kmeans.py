"""K-means over all descriptors of a data set.

Shapes: n descriptors, K clusters, D dimensions.
Source: Lloyd, "Least squares quantization in PCM", 1982; k-means++ start (Arthur and
Vassilvitskii, 2007) by scikit-learn. Deviation from U2Seg (commit 8e9c709, USL copy): it starts
from random samples and lets empty clusters become NaN; here they are seeded again.
"""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import numpy.typing as npt

from u2seg.clusters.assign import assign
from u2seg.clusters.base import CLUSTERERS, Lloyd
from u2seg.clusters.descriptors import normalize_rows
from u2seg.config.schema import ClusterSettings
from u2seg.errors import UserError

START_POINTS = 256
"""k-means++ looks at no more than so many points per cluster, drawn at random."""
RESEED_ROUNDS = 10

_log = logging.getLogger(__name__)


class KMeans:
    """K-means with scikit-learn's contract.

    Args:
        num_clusters: K >= 1.
        iterations: Lloyd iterations at most, >= 1.
        restarts: Starts of which the one with the lowest inertia is kept, >= 1.
        seed: Same seed, same data, same backend: same result.
        normalize: Scale descriptors to unit length first, in ``fit`` and ``predict``.
        backend: ``auto`` (faiss if installed), or a name in ``CLUSTERERS``.

    Attributes:
        cluster_centers_: (K, D) float32, finite.
        labels_: (n,) int64, the nearest centre of every descriptor given to ``fit``.
        inertia_: Sum of squared distances to the nearest centre.

    Raises:
        UserError: for an unknown or missing backend.

    Examples:
        >>> points = np.array([[0, 0], [0, 1], [9, 9], [9, 8]], dtype=np.float32)
        >>> model = KMeans(2, normalize=False, backend="sklearn").fit(points)
        >>> sorted(model.cluster_centers_.tolist()), model.inertia_
        ([[0.0, 0.5], [9.0, 8.5]], 1.0)
    """

    cluster_centers_: npt.NDArray[np.float32]
    labels_: npt.NDArray[np.int64]
    inertia_: float

    def __init__(
        self,
        num_clusters: int,
        *,
        iterations: int = 100,
        restarts: int = 1,
        seed: int = 0,
        normalize: bool = True,
        backend: str = "auto",
    ) -> None:
        self.num_clusters = num_clusters
        self.iterations = iterations
        self.restarts = restarts
        self.seed = seed
        self.normalize = normalize
        self.backend = resolve_backend(backend)

    @classmethod
    def from_settings(cls, settings: ClusterSettings) -> KMeans:
        """Build from the ``CLUSTERS`` section."""
        return cls(
            settings.num_clusters,
            iterations=settings.iterations,
            restarts=settings.restarts,
            seed=settings.seed,
            normalize=settings.normalize,
            backend=settings.backend,
        )

    def fit(self, descriptors: npt.NDArray[np.float32]) -> KMeans:
        """Find the centres.

        Args:
            descriptors: (n, D), finite, n >= K. Not modified.

        Raises:
            UserError: if n < K.
            ValueError: if it is not 2-D or not finite.
        """
        points = self._prepare(descriptors)
        if len(points) < self.num_clusters:
            raise UserError(
                f"U2SEG.CLUSTERS.NUM_CLUSTERS is {self.num_clusters}, but there are only "
                f"{len(points)} masks to cluster: lower it, or label more images"
            )
        lloyd: Lloyd = CLUSTERERS.get(self.backend)
        best = np.inf
        for seed in np.random.SeedSequence(self.seed).generate_state(self.restarts):
            start = _plus_plus(points, self.num_clusters, int(seed))
            centers = lloyd(points, start, self.iterations, int(seed) >> 1)
            centers, labels, inertia = _fill_empty(points, centers)
            if inertia < best:
                best, self.inertia_ = inertia, inertia
                self.cluster_centers_, self.labels_ = centers, labels
        _warn_if_empty(self.labels_, self.num_clusters, points)
        return self

    def predict(self, descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return the nearest centre (n,) int64 of every descriptor.

        Raises:
            UserError: if D is not that of ``fit``.
            ValueError: before ``fit``, or if the array is not 2-D or not finite.
        """
        if not hasattr(self, "cluster_centers_"):
            raise ValueError("KMeans.predict needs fit first")
        return assign(self._prepare(descriptors), self.cluster_centers_)[0]

    def _prepare(self, descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        points = np.ascontiguousarray(descriptors, dtype=np.float32)
        if points.ndim != 2:
            raise ValueError(f"descriptors must be (n, D), got shape {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("descriptors hold NaN or infinity")
        return normalize_rows(points) if self.normalize else points


def resolve_backend(name: str) -> str:
    """Return the backend that ``name`` stands for: ``auto`` is faiss if it is installed.

    Raises:
        UserError: if the backend is unknown or its library is missing.
    """
    if name == "auto":
        return "faiss" if importlib.util.find_spec("faiss") else "sklearn"
    CLUSTERERS.get(name)
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"U2SEG.CLUSTERS.BACKEND is {name!r}, but it is not installed: "
            "pip install 'u2seg[labels]', or set it to auto"
        )
    return name


def _plus_plus(
    points: npt.NDArray[np.float32], clusters: int, seed: int
) -> npt.NDArray[np.float32]:
    """Return (K, D) start centres; at most ``START_POINTS`` K random points are looked at."""
    from sklearn.cluster import kmeans_plusplus

    rng = np.random.default_rng(seed)
    if len(points) > START_POINTS * clusters:
        drawn = rng.choice(len(points), START_POINTS * clusters, replace=False)
        points = points[np.sort(drawn)]
    centers, _ = kmeans_plusplus(points, clusters, random_state=seed)
    return np.ascontiguousarray(centers, dtype=np.float32)


def _fill_empty(
    points: npt.NDArray[np.float32], centers: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], float]:
    """Return centres, labels and inertia after seeding empty clusters at the farthest points.

    A cluster stays empty only if every point lies on a centre already.
    """
    centers = centers.copy()
    for _ in range(RESEED_ROUNDS):
        labels, distances = assign(points, centers)
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centers)) == 0)
        if empty.size == 0 or distances.max() == 0:
            break
        _log.warning(
            "%d of %d clusters were empty; seeded again at the descriptors farthest from "
            "their centre",
            empty.size,
            len(centers),
        )
        farthest = np.argsort(-distances, kind="stable")[: empty.size]
        far = farthest[distances[farthest] > 0]
        centers[empty[: far.size]] = points[far]
    labels, distances = assign(points, centers)
    return centers, labels, float(np.sum(distances**2))


def _warn_if_empty(
    labels: npt.NDArray[np.int64], clusters: int, points: npt.NDArray[np.float32]
) -> None:
    used = len(np.unique(labels))
    if used < clusters:
        _log.warning(
            "only %d of %d clusters have members: the %d masks have fewer distinct descriptors",
            used,
            clusters,
            len(points),
        )
