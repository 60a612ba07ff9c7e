"""Turn cluster-against-class vote counts into a cluster -> class map.

Shapes: K predicted clusters, C ground-truth classes.
Source: Kuhn, "The Hungarian method for the assignment problem", 1955; solved by SciPy. Majority
vote: U2Seg commit 8e9c709, which calls its per-cluster argmax "Hungarian"; that is
``majority_map`` here, and it is many-to-one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Votes = npt.NDArray[np.int64]
UNMATCHED = -1


def hungarian_map(votes: Votes) -> npt.NDArray[np.int64]:
    """Return the one-to-one cluster -> class map that keeps the most votes.

    Args:
        votes: (K, C) int64, all >= 0. ``votes[k, c]`` is the number of votes (pixels, or
            matched instances) of class ``c`` under cluster ``k``; rows and columns are
            contiguous 0-based ids. K or C may be 0.

    Returns:
        (K,) int64, class index in ``[0, C)`` or ``UNMATCHED`` (-1). No class is used twice. A
        cluster is unmatched if K > C left none over or if its only partner has no vote.

    Raises:
        ValueError: if ``votes`` is not 2-D or has a negative entry.

    Examples:
        Cluster 0 yields class 0 to cluster 1, which has more votes for it (4 + 9 > 5 + 0); a
        majority vote would send both to class 0.

        >>> hungarian_map(np.array([[5, 4], [9, 0], [0, 0]])).tolist()
        [1, 0, -1]

    Notes:
        Deterministic for given votes; which of two equal optima is returned depends on SciPy.
    """
    _check(votes)
    mapping = np.full(len(votes), UNMATCHED, dtype=np.int64)
    rows, cols = linear_sum_assignment(votes, maximize=True)
    voted = votes[rows, cols] > 0
    mapping[rows[voted]] = cols[voted]
    return mapping


def majority_map(votes: Votes) -> npt.NDArray[np.int64]:
    """Return the class with the most votes of every cluster; several clusters may share one.

    Returns:
        (K,) int64, class index (the lowest of equals) or ``UNMATCHED`` for a row of zeros.

    Examples:
        >>> majority_map(np.array([[5, 4], [9, 0], [0, 0]])).tolist()
        [0, 0, -1]
    """
    _check(votes)
    if votes.shape[1] == 0:
        return np.full(len(votes), UNMATCHED, dtype=np.int64)
    mapping: npt.NDArray[np.int64] = votes.argmax(axis=1).astype(np.int64)
    mapping[votes.max(axis=1) == 0] = UNMATCHED
    return mapping


def hungarian_majority_map(votes: Votes) -> npt.NDArray[np.int64]:
    """Return the one-to-one map, and for clusters that it leaves over their most voted class.

    Source: CUPS (commit 78fc273), which has more clusters than classes.

    Examples:
        Majority would send all three to class 0; one to one, cluster 1 takes it and cluster 0
        gets class 1; cluster 2 is left over and joins cluster 1.

        >>> hungarian_majority_map(np.array([[5, 4], [9, 0], [2, 1]])).tolist()
        [1, 0, 0]
    """
    first = hungarian_map(votes)
    return np.where(first == UNMATCHED, majority_map(votes), first)


def identity_map(votes: Votes) -> npt.NDArray[np.int64]:
    """Return the map of clusters that are numbered as the classes."""
    clusters = np.arange(len(votes))
    return np.where(clusters < votes.shape[1], clusters, UNMATCHED)


def match(matching: str, votes: Votes) -> npt.NDArray[np.int64]:
    """Return the (K,) map of a named rule: a key of ``SOLVERS``; ValueError for another name."""
    if matching not in SOLVERS:
        raise ValueError(f"matching is {matching!r}, expected one of {', '.join(SOLVERS)}")
    return SOLVERS[matching](votes)


SOLVERS: dict[str, Callable[[Votes], npt.NDArray[np.int64]]] = {
    "hungarian": hungarian_map,
    "majority": majority_map,
    "hungarian+majority": hungarian_majority_map,
    "identity": identity_map,
}


def _check(votes: Votes) -> None:
    if votes.ndim != 2:
        raise ValueError(f"votes must be (K, C), got shape {votes.shape}")
    if votes.size and votes.min() < 0:
        raise ValueError(f"votes must be >= 0, smallest is {votes.min()}")
