"""Figures about clusters that need no truth, computed by hand or by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from u2seg.clusters import quality as module
from u2seg.clusters.quality import (
    draw_sample,
    margins,
    near_duplicates,
    quality,
    silhouette,
    size_summary,
    spread,
    summary,
)
from u2seg.clusters.rows import ArrayRows
from u2seg.io.atomic import json_bytes

POINTS = np.array([[0, 0], [0, 2], [9, 0], [9, 2], [30, 0]], dtype=np.float32)
LABELS = np.array([0, 0, 1, 1, 2])
CENTERS = np.array([[0, 1], [9, 1], [30, 0], [500, 500]], dtype=np.float32)


def found() -> dict:
    counts, squares = spread(ArrayRows(POINTS), LABELS, CENTERS)
    return quality(POINTS, LABELS, CENTERS, counts, squares)


def test_every_figure_by_hand() -> None:
    result = found()
    assert (result["descriptors"], result["clusters"], result["inertia"]) == (5, 4, 4.0)
    assert result["empty"] == [3]
    assert result["near_duplicates"] == []
    # Shares 0.4, 0.4, 0.2.
    effective = float(np.exp(-2 * 0.4 * np.log(0.4) - 0.2 * np.log(0.2)))
    assert result["sizes"] == {
        "min": 0, "median": 1.5, "max": 2, "effective": pytest.approx(effective, abs=1e-3),
    }  # fmt: skip
    assert result["sample"] == 5
    # (0, 0): 1 from its centroid, sqrt(82) from the next; the four of them are alike.
    alike, alone = 1 - 1 / 82**0.5, 1.0
    assert result["margin"]["mean"] == pytest.approx((4 * alike + alone) / 5, abs=1e-6)
    assert result["margin"]["below_0.05"] == 0
    # Own distance 2; the nearest other cluster at the mean of 9 and sqrt(85).
    own = (9 + 85**0.5) / 2
    assert result["silhouette"] == pytest.approx(4 * (1 - 2 / own) / 5, abs=1e-6)
    assert result["silhouette"] == pytest.approx(silhouette_score(POINTS, LABELS), abs=1e-6)
    json_bytes(result)


def test_spread_counts_the_empty_clusters_too() -> None:
    counts, squares = spread(ArrayRows(POINTS), LABELS, CENTERS)
    assert counts.tolist() == [2, 2, 1, 0]
    assert squares.tolist() == [2.0, 2.0, 0.0, 0.0]


def test_near_duplicates_by_hand() -> None:
    # Spreads 1, 3, 0: 0 and 1 are (1 + 3) / 0.2 = 20 alike, just enough; 2 and 3 are the same
    # place; 4 is empty and does not count.
    centers = np.array([[0], [0.2], [50], [50], [0.1]], dtype=np.float64)
    pairs = near_duplicates(centers, np.array([4, 1, 1, 1, 0]), np.array([4.0, 9.0, 0, 0, 0]))
    assert pairs == [[2, 3, None], [0, 1, 20.0]]
    apart = near_duplicates(centers * 1.01, np.array([4, 1, 0, 1, 0]), np.array([4.0, 9, 0, 0, 0]))
    assert apart == []


def test_clusters_that_differ_are_no_duplicates() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((400, 5)).astype(np.float32)
    points[200:] += 4
    labels = np.repeat([0, 1], 200)
    centers = np.stack([points[:200].mean(0), points[200:].mean(0)])
    assert near_duplicates(centers, *spread(ArrayRows(points), labels, centers)) == []


def test_silhouette_is_none_where_it_is_not_defined() -> None:
    assert silhouette(POINTS, np.zeros(5, int)) is None
    assert silhouette(POINTS, np.arange(5)) is None
    assert silhouette(POINTS[:0], LABELS[:0]) is None


def test_margins_of_one_centroid_and_of_two_equal_ones() -> None:
    assert margins(np.float32([[1]]), np.float32([[1], [1]])).tolist() == [0.0]
    counts, squares = spread(ArrayRows(POINTS), np.zeros(5, int), CENTERS[:1])
    assert quality(POINTS, np.zeros(5, int), CENTERS[:1], counts, squares)["margin"] is None


def test_one_even_cluster_is_one_effective_cluster() -> None:
    assert size_summary(np.array([7]))["effective"] == 1.0


def test_the_sample_is_bounded_seeded_and_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ArrayRows(np.arange(50, dtype=np.float32)[:, None])
    chosen, sample = draw_sample(rows, 0)
    assert chosen.tolist() == list(range(50)) == sample[:, 0].tolist()
    monkeypatch.setattr(module, "SAMPLE", 10)
    chosen, sample = draw_sample(rows, 3)
    assert len(set(chosen.tolist())) == 10
    assert sorted(chosen.tolist()) == chosen.tolist() == sample[:, 0].tolist()
    assert draw_sample(rows, 3)[0].tolist() == chosen.tolist() != draw_sample(rows, 4)[0].tolist()


def test_the_summary_is_one_line() -> None:
    assert summary(found()).startswith("inertia 4, sizes 0 to 2 (median 1.5), silhouette 0.")
