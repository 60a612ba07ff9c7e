"""Agreement of cluster ids and true classes.

Shapes: n items, K clusters, C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from u2seg.evaluation.metrics.matching import Votes, hungarian_map, majority_map


def cluster_scores(
    clusters: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return agreement of clusters and classes, percent.

    Args:
        clusters: (n,) ids, n >= 1.
        classes: (n,) ids.

    Returns:
        ``NMI``: mutual information over the mean of the two entropies; ``ARI``: share of pairs of
        items that are together or apart in both, adjusted for chance (Hubert and Arabie, 1985: 0
        = as random ids, may be negative); ``purity``: share of items in the most frequent class of
        their cluster; ``matched_accuracy`` (ACC): share of items whose cluster is matched to their
        class, one to one (Hungarian).

    Raises:
        ValueError: if the lengths differ or are 0.

    Examples:
        Clusters 0 and 2 are pure, cluster 1 is half and half.

        >>> found = cluster_scores(np.array([0, 0, 1, 1, 2]), np.array([7, 7, 7, 8, 8]))
        >>> found["purity"], found["matched_accuracy"]
        (80.0, 60.0)
        >>> round(found["NMI"], 2), round(found["ARI"], 2)
        (45.81, 9.09)
    """
    if clusters.shape != classes.shape or clusters.size == 0:
        raise ValueError(f"{clusters.shape} clusters and {classes.shape} classes, expected (n,)")
    from sklearn.metrics import adjusted_rand_score

    votes = _table(clusters, classes)
    total = int(votes.sum())
    columns = np.arange(votes.shape[1])
    agreed = {}
    for name, mapping in (("purity", majority_map(votes)), ("matched", hungarian_map(votes))):
        agreed[name] = 100.0 * float(votes[mapping[:, None] == columns].sum()) / total
    return {
        "NMI": 100.0 * _nmi(votes),
        "ARI": 100.0 * float(adjusted_rand_score(classes, clusters)),
        "purity": agreed["purity"],
        "matched_accuracy": agreed["matched"],
    }


def _table(clusters: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]) -> Votes:
    rows, row = np.unique(clusters, return_inverse=True)
    cols, col = np.unique(classes, return_inverse=True)
    votes = np.zeros((len(rows), len(cols)), dtype=np.int64)
    np.add.at(votes, (row, col), 1)
    return votes


def _nmi(votes: Votes) -> float:
    joint = votes / votes.sum()
    row, col = joint.sum(axis=1), joint.sum(axis=0)
    entropies = -np.sum(row * np.log(row)), -np.sum(col * np.log(col))
    if max(entropies) == 0:
        return 1.0  # one cluster, one class: they agree
    filled = joint > 0
    mutual = np.sum(joint[filled] * np.log(joint[filled] / np.outer(row, col)[filled]))
    return float(max(mutual, 0.0) / np.mean(entropies))
