"""How good clusters are, as far as descriptors alone can tell: no ground truth is looked at.

Shapes: n descriptors, K clusters, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.clusters.rows import Rows, Table

SAMPLE = 10_000
"""Descriptors of which silhouette and margin are computed, at most."""
DUPLICATE = 20.0
"""Davies-Bouldin similarity from which two clusters count as one twice: their centroids are then
nearer to each other than a tenth of the mean distance (RMS) of their members to them."""
MAX_LISTED = 1000


def quality(
    sample: Table,
    labels: npt.NDArray[np.int64],
    centroids: Table,
    counts: npt.NDArray[np.int64],
    squares: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Return what ``quality.json`` says.

    Args:
        sample: (m, D) descriptors drawn from all, see ``draw_sample``.
        labels: (m,) their clusters.
        centroids: (K, D).
        counts: (K,) members of every cluster, of all n descriptors.
        squares: (K,) sum of squared distances of all members to their centroid.

    Returns:
        ``descriptors``, ``clusters``, ``inertia``; ``empty``: clusters without members;
        ``near_duplicates``: lists of two clusters and their Davies-Bouldin similarity, None if
        their centroids are equal, most similar first, at most 1,000; ``sizes``: ``min``,
        ``median``, ``max`` and ``effective`` (the exponential of the entropy: the number of
        equal clusters that would be as uneven); ``sample``, ``silhouette`` (mean, -1..1, of the
        sample; None if it is all in one cluster), ``margin`` (see ``margins``; None if K = 1).
    """
    pairs = near_duplicates(centroids, counts, squares)
    return {
        "descriptors": int(counts.sum()),
        "clusters": len(counts),
        "inertia": float(squares.sum()),
        "empty": np.flatnonzero(counts == 0).tolist(),
        "near_duplicates": pairs[:MAX_LISTED],
        "near_duplicate_pairs": len(pairs),
        "sizes": size_summary(counts),
        "sample": len(sample),
        "silhouette": silhouette(sample, labels),
        "margin": _margin_summary(sample, centroids),
    }


def spread(
    rows: Rows, labels: npt.NDArray[np.int64], centroids: Table
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return members (K,) int64 of every cluster and their sums of squared distances (K,) float64.

    Args:
        rows: (n, D).
        labels: (n,).
        centroids: (K, D).

    Examples:
        >>> from u2seg.clusters.rows import ArrayRows
        >>> rows, two = ArrayRows(np.float32([[1], [3], [9]])), np.float32([[1], [9]])
        >>> [found.tolist() for found in spread(rows, np.array([0, 0, 1]), two)]
        [[2, 1], [4.0, 0.0]]
    """
    wide = centroids.astype(np.float64)
    squares = np.zeros(len(centroids))
    for start, block in rows.blocks():
        own = labels[start : start + len(block)]
        gap = block - wide[own]
        squares += np.bincount(own, np.einsum("md,md->m", gap, gap), minlength=len(centroids))
    return np.bincount(labels, minlength=len(centroids)), squares


def summary(found: dict[str, Any]) -> str:
    """Return the figures of ``quality`` in a line."""
    sizes, margin = found["sizes"], found["margin"]
    parts = [
        f"inertia {found['inertia']:.6g}",
        f"sizes {sizes['min']} to {sizes['max']} (median {sizes['median']:g})",
    ]
    if found["silhouette"] is not None:
        parts.append(f"silhouette {found['silhouette']:.3f} of {found['sample']}")
    if margin:
        parts.append(f"margin {margin['mean']:.3f}")
    return ", ".join(parts)


def draw_sample(rows: Rows, seed: int) -> tuple[npt.NDArray[np.int64], Table]:
    """Return the indices and rows of at most ``SAMPLE`` descriptors drawn without replacement."""
    if len(rows) <= SAMPLE:
        chosen = np.arange(len(rows))
    else:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(len(rows), SAMPLE, replace=False, shuffle=False))
    return chosen, rows.take(chosen)


def size_summary(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return smallest, median and largest size, and the effective number of clusters.

    Examples:
        Three clusters, one of them empty: as uneven as two equal ones.

        >>> size_summary(np.array([5, 0, 5]))
        {'min': 0, 'median': 5.0, 'max': 5, 'effective': 2.0}
    """
    shares = counts[counts > 0] / max(1, int(counts.sum()))
    effective = float(np.exp(-np.sum(shares * np.log(shares))))
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        "effective": round(effective, 3),
    }


def near_duplicates(
    centroids: Table, counts: npt.NDArray[np.int64], squares: npt.NDArray[np.float64]
) -> list[list[Any]]:
    """Return pairs of clusters that hardly differ: [i, j, similarity], most similar first.

    The similarity is (s_i + s_j) / d_ij (Davies and Bouldin, 1979), s the root mean squared
    distance of the members to their centroid, d the distance of the centroids. Empty clusters
    are left out.

    Args:
        centroids: (K, D).
        counts: (K,) members.
        squares: (K,) sums of squared distances.

    Examples:
        Spread 1 each; centroids 0 and 1 are 0.05 apart, 2 is far away.

        >>> near_duplicates(np.float32([[0], [0.05], [9]]), np.array([4, 4, 4]), np.full(3, 4.0))
        [[0, 1, 40.0]]
    """
    alive = np.flatnonzero(counts > 0)
    points = centroids[alive].astype(np.float64)
    spread = np.sqrt(squares[alive] / counts[alive])
    found: list[list[Any]] = []
    for i in range(len(alive) - 1):
        apart = np.linalg.norm(points[i + 1 :] - points[i], axis=1)
        together = spread[i + 1 :] + spread[i]
        for j in np.flatnonzero((together >= DUPLICATE * apart) | (apart == 0)):
            alike = float(together[j] / apart[j]) if apart[j] > 0 else None
            digits = None if alike is None else round(alike, 2)
            found.append([int(alive[i]), int(alive[i + 1 + j]), digits])
    return sorted(found, key=lambda pair: (pair[2] is not None, -(pair[2] or 0), pair[:2]))


def silhouette(sample: Table, labels: npt.NDArray[np.int64]) -> float | None:
    """Return the mean silhouette of some descriptors (Rousseeuw, 1987), -1..1; higher is better.

    None if they are all in one cluster or each in its own, where it is not defined.
    """
    found = len(np.unique(labels))
    if not 2 <= found < len(labels):
        return None
    from sklearn.metrics import silhouette_score

    return round(float(silhouette_score(sample, labels)), 6)


def margins(sample: Table, centroids: Table) -> npt.NDArray[np.float64]:
    """Return how much nearer the nearest centroid is than the next: 1 - d1 / d2, 0..1.

    0 = the label is a coin toss, 1 = the descriptor is its centroid.

    Args:
        sample: (m, D).
        centroids: (K, D), K >= 2.

    Examples:
        >>> margins(np.float32([[1], [2], [4]]), np.float32([[0], [4]])).round(3).tolist()
        [0.667, 0.0, 1.0]
    """
    points, centers = sample.astype(np.float64), centroids.astype(np.float64)
    result = np.empty(len(points))
    for start in range(0, len(points), 1024):
        part = points[start : start + 1024]
        table = np.einsum("kd,kd->k", centers, centers) - 2 * part @ centers.T
        two = np.argpartition(table, 1, axis=1)[:, :2]
        near, far = np.sort(np.linalg.norm(part[:, None] - centers[two], axis=2), axis=1).T
        result[start : start + 1024] = 1 - near / np.where(far > 0, far, 1)
        result[start : start + 1024][far == 0] = 0
    return result


def _margin_summary(sample: Table, centroids: Table) -> dict[str, float] | None:
    if len(centroids) < 2 or len(sample) == 0:
        return None
    found = margins(sample, centroids)
    return {
        "mean": round(float(found.mean()), 6),
        "median": round(float(np.median(found)), 6),
        "below_0.05": round(float(np.mean(found < 0.05)), 6),
    }
