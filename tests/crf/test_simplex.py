"""Geometry of one point in the lattice, by hand and by invariants; keys of its vertices."""

from __future__ import annotations

import numpy as np

from u2seg.crf.simplex import axis_factors, barycentric, elevate, enclosing_simplex
from u2seg.crf.vertices import simplex_keys


def _elevated(point: np.ndarray) -> np.ndarray:
    elevated = np.empty(len(point) + 1, dtype=np.float32)
    elevate(point.astype(np.float32), axis_factors(len(point)), elevated)
    return elevated


def _located(elevated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    corner, rank = np.empty((2, len(elevated)), dtype=np.int64)
    weights = np.empty(len(elevated), dtype=np.float32)
    enclosing_simplex(elevated, corner, rank)
    barycentric(elevated, corner, rank, weights)
    return corner, rank, weights


def test_elevated_axes_are_orthogonal_and_scaled() -> None:
    # d = 2: E maps unit vectors to length sqrt(2 / 3) * 3, at right angles, into sum = 0.
    elevated = np.stack([_elevated(axis) for axis in np.eye(2)], axis=1)
    np.testing.assert_allclose(elevated.sum(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(elevated.T @ elevated, 6 * np.eye(2), atol=1e-5)


def test_simplex_by_hand_where_rounding_leaves_the_plane() -> None:
    # x / 3 = (0.6, 0.6, -1.2) rounds to (1, 1, -1): sum 1, so the coordinate that was rounded
    # up furthest (ties: the later one) goes back: corner (3, 0, -3), rest (-1.2, 1.8, -0.6).
    corner, rank, weights = _located(np.array([1.8, 1.8, -3.6], dtype=np.float32))
    assert corner.tolist() == [3, 0, -3]
    assert rank.tolist() == [2, 0, 1]
    # Sorted rest / 3: 0.6, -0.2, -0.4. Weights: 1 - 0.4 - 0.6, -0.2 + 0.4, 0.6 + 0.2.
    np.testing.assert_allclose(weights, [0.0, 0.2, 0.8], atol=1e-6)


def test_weights_are_convex_and_rebuild_the_point() -> None:
    rng = np.random.default_rng(0)
    for dims in (1, 2, 5):
        size = dims + 1
        for point in rng.normal(0, 4, (200, dims)):
            elevated = _elevated(point)
            corner, rank, weights = _located(elevated)
            assert corner.sum() == 0 and (corner % size == 0).all()
            assert sorted(rank) == list(range(size))
            assert weights.min() > -1e-5 and abs(weights.sum() - 1) < 1e-5
            vertices = [corner + np.where(rank < size - k, k, k - size) for k in range(size)]
            np.testing.assert_allclose(weights @ np.stack(vertices), elevated, atol=1e-4)


def test_keys_are_those_of_the_vertices_coordinates() -> None:
    rng = np.random.default_rng(1)
    lowest, units = np.array([-100, -90, -80]), np.array([1, 300, 90_000, 0])
    keys = np.empty(4, dtype=np.int64)
    for point in rng.normal(0, 4, (100, 3)):
        corner, rank, _ = _located(_elevated(point))
        simplex_keys(corner, rank, lowest, units, keys)
        for k in range(4):
            vertex = corner + np.where(rank < 4 - k, k, k - 4)
            assert keys[k] == ((vertex[:3] - lowest) * units[:3]).sum()
