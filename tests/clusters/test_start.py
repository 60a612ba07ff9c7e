"""k-means++: what is drawn, how often, and how good the start is."""

from __future__ import annotations

import numpy as np
import pytest

from u2seg.clusters import kmeans as module
from u2seg.clusters.kmeans import plus_plus, start_centers
from u2seg.clusters.lloyd import assign
from u2seg.clusters.rows import ArrayRows


def test_the_second_centre_is_the_one_point_that_is_elsewhere() -> None:
    # All points but one coincide: whatever comes first, the other place comes second.
    points = np.zeros((50, 2), dtype=np.float32)
    points[17] = 5
    for seed in range(20):
        chosen = plus_plus(points, 2, np.random.default_rng(seed))
        assert 17 in chosen.tolist()


def test_draws_are_in_proportion_to_squared_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    # From 0, the points 1 and 2 are drawn as 1 : 4; one trial, so that none is preferred.
    monkeypatch.setattr(module.np, "log", lambda _: -1.0)
    points = np.array([[0], [1], [2]], dtype=np.float32)
    seconds = []
    for seed in range(2000):
        first, second = plus_plus(points, 2, np.random.default_rng(seed))
        if first == 0:
            seconds.append(int(second))
    assert np.mean(np.array(seconds) == 2) == pytest.approx(0.8, abs=0.05)


def test_the_best_of_several_draws_is_kept() -> None:
    # Three far places with 1, 1 and 30 points: greedy draws take the big one nearly always.
    points = np.zeros((100, 2), dtype=np.float32)
    points[0], points[1], points[2:32] = (9, 0), (0, 9), (9, 9)
    draws = [plus_plus(points, 2, np.random.default_rng(seed)).tolist() for seed in range(100)]
    took = [2 <= second < 32 for first, second in draws if first >= 32]
    assert len(took) > 50
    assert all(took)


def test_equal_points_far_from_zero_are_not_told_apart_by_rounding() -> None:
    points = np.full((30, 3), 1234.567, dtype=np.float32)
    points[5] += 1
    for seed in range(10):
        chosen = plus_plus(points, 4, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == 4
        assert 5 in chosen[:2]


def test_the_start_looks_at_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_POINTS", 3)
    monkeypatch.setattr(module, "START_LEAST", 0)
    rows = ArrayRows(np.arange(100, dtype=np.float32)[:, None])
    looked = []
    original = rows.take
    monkeypatch.setattr(rows, "take", lambda i: looked.append(len(i)) or original(i))
    centers = start_centers(rows, 5, "k-means++", 0)
    assert looked == [15]
    assert len(np.unique(centers)) == 5
    assert np.isin(centers, np.arange(100)).all()


def test_random_starts_are_different_rows_and_worse() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((3000, 3)).astype(np.float32)
    points[:20] *= 30
    rows = ArrayRows(points)
    inertia = {}
    for init in ("random", "k-means++"):
        found = [start_centers(rows, 20, init, seed) for seed in range(5)]
        assert all(len(np.unique(c, axis=0)) == 20 for c in found)
        inertia[init] = np.mean([np.sum(assign(points, c)[1] ** 2) for c in found])
    assert inertia["k-means++"] < 0.5 * inertia["random"]


def test_other_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="'k-means\\+\\+' or 'random', got 'best'"):
        start_centers(ArrayRows(np.zeros((2, 1))), 1, "best", 0)
