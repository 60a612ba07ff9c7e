"""Cluster -> class maps: each rule by hand, and STEGO's own matches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.shared import SHARED, needs_shared
from u2seg.evaluation.metrics.matching import (
    hungarian_majority_map,
    hungarian_map,
    majority_map,
    match,
)


def test_hungarian_gives_a_class_away_for_the_greater_sum() -> None:
    assert hungarian_map(np.array([[5, 4], [9, 0]])).tolist() == [1, 0]


def test_majority_is_many_to_one() -> None:
    assert majority_map(np.array([[5, 4], [9, 0]])).tolist() == [0, 0]
    assert majority_map(np.array([[3, 3], [0, 2]])).tolist() == [0, 1]  # the lower of equals


def test_left_over_clusters_follow_the_majority() -> None:
    votes = np.array([[5, 4], [9, 0], [2, 1], [0, 3], [0, 0]])
    # one to one: cluster 1 -> class 0, cluster 0 -> class 1 (9 + 4); the others are left over
    assert hungarian_map(votes).tolist() == [1, 0, -1, -1, -1]
    assert hungarian_majority_map(votes).tolist() == [1, 0, 0, 1, -1]
    assert match("hungarian+majority", votes).tolist() == [1, 0, 0, 1, -1]
    # fewer clusters than classes, but one partner has no vote: it shares
    votes = np.array([[4, 0, 0], [3, 0, 0]])
    assert hungarian_map(votes).tolist() == [0, -1]
    assert hungarian_majority_map(votes).tolist() == [0, 0]


def test_an_unknown_matching_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'greedy', expected one of hungarian, majority"):
        match("greedy", np.zeros((1, 1), dtype=np.int64))


def test_clusters_without_votes_have_no_class() -> None:
    votes = np.array([[0, 0], [0, 7]])
    assert hungarian_map(votes).tolist() == [-1, 1]
    assert majority_map(votes).tolist() == [-1, 1]


def test_more_clusters_than_classes_and_the_reverse() -> None:
    assert hungarian_map(np.array([[1], [3], [2]])).tolist() == [-1, 0, -1]
    assert majority_map(np.array([[1], [3], [2]])).tolist() == [0, 0, 0]
    assert hungarian_map(np.array([[1, 3, 2]])).tolist() == [1]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_votes(shape: tuple[int, int]) -> None:
    votes = np.zeros(shape, dtype=np.int64)
    assert hungarian_map(votes).tolist() == [-1] * shape[0]
    assert majority_map(votes).tolist() == [-1] * shape[0]


@pytest.mark.parametrize("solve", [hungarian_map, majority_map, hungarian_majority_map])
def test_bad_votes_are_refused(solve) -> None:
    with pytest.raises(ValueError, match=r"\(K, C\), got shape \(3,\)"):
        solve(np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="smallest is -1"):
        solve(np.array([[1, -1]]))


@given(
    arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 9))
)
def test_hungarian_is_the_best_one_to_one_map(votes: np.ndarray) -> None:
    mapping = hungarian_map(votes)
    used = mapping[mapping >= 0]
    assert len(set(used)) == len(used)
    wide = votes if votes.shape[0] <= votes.shape[1] else votes.T
    rows = range(len(wide))
    best = max(
        sum(wide[r, c] for r, c in zip(rows, order))
        for order in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    assert sum(votes[k, c] for k, c in enumerate(mapping) if c >= 0) == best


@pytest.mark.shared
@needs_shared("golden", "semseg")
def test_hungarian_equals_the_reference() -> None:
    checked = 0
    for path in sorted((SHARED / "golden" / "semseg").glob("e*.npz")):
        with np.load(path) as golden:
            votes = golden["full_stats_all_clusters"]
            rows, cols = golden["full_assign_cluster"], golden["full_assign_class"]
        mapping = hungarian_map(votes.astype(np.int64))
        for row, col in zip(rows, cols, strict=True):
            if votes[row, col]:  # pairs without votes are arbitrary; here they stay unmatched
                assert mapping[row] == col
                checked += 1
    assert checked > 100
