"""Nearest centroids."""

from __future__ import annotations

import numpy as np
import pytest

from u2seg.clusters import lloyd as module
from u2seg.clusters.lloyd import assign
from u2seg.errors import UserError


def test_matches_the_full_distance_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((101, 6)).astype(np.float32)
    centers = rng.standard_normal((9, 6)).astype(np.float32)
    table = np.linalg.norm(points[:, None].astype(float) - centers[None].astype(float), axis=2)
    whole = assign(points, centers)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * (9 + 12) * 7)
    blocks = assign(points, centers)
    for labels, distances in (whole, blocks):
        np.testing.assert_array_equal(labels, table.argmin(axis=1))
        np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-12)


def test_equally_near_centroids_give_the_smallest_index() -> None:
    labels, distances = assign(
        np.array([[0.0]], dtype=np.float32), np.array([[5], [1], [-1], [1]], dtype=np.float32)
    )
    assert labels.tolist() == [1]
    assert distances.tolist() == [1.0]


def test_distances_of_far_away_close_points_keep_their_digits() -> None:
    # |x|^2 - 2 x c + |c|^2 in single precision would lose all of this distance.
    labels, distances = assign(
        np.array([[4096.0, 0.5]], dtype=np.float32), np.array([[4096.0, 0.25]], dtype=np.float32)
    )
    assert (labels.tolist(), distances.tolist()) == ([0], [0.25])


def test_nothing_to_assign() -> None:
    labels, distances = assign(np.empty((0, 3), np.float32), np.ones((2, 3), np.float32))
    assert labels.shape == distances.shape == (0,)


def test_other_dimensions_are_a_user_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"384 dimensions, the centroids 768.*U2SEG\.FEATURES"):
        assign(np.ones((2, 384), np.float32), np.ones((2, 768), np.float32))


@pytest.mark.parametrize("centers", [np.ones((0, 3), np.float32), np.ones(3, np.float32)])
def test_no_centroids_are_refused(centers: np.ndarray) -> None:
    with pytest.raises(ValueError, match="K >= 1"):
        assign(np.ones((2, 3), np.float32), centers)
