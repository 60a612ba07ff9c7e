"""The compiled passes, each by hand."""

from __future__ import annotations

import numpy as np
import pytest

from u2seg.crf.filtering import (
    add_slices,
    blur,
    exp_of_negative,
    half_tanh,
    scale_entries,
    softmax,
    splat,
)


@pytest.fixture(params=[1, 2], ids=["narrow", "wide"])
def copies(request: pytest.FixtureRequest) -> int:
    """Three columns and six columns run through different code."""
    return request.param


def _rows(copies: int, *rows: tuple[float, float, float]) -> np.ndarray:
    return np.tile(np.array(rows, dtype=np.float32), copies)


def test_splat_by_hand(copies: int) -> None:
    # Vertex 0 gathers points 0 and 1, vertex 1 point 1; row 2 is not of the range.
    starts, points = np.array([0, 2, 3]), np.array([0, 1, 1], dtype=np.int32)
    weights = np.array([0.25, 0.5, 2.0], dtype=np.float32)
    out = _rows(copies, (9, 9, 9), (9, 9, 9), (9, 9, 9))
    splat(0, 2, starts, points, weights, _rows(copies, (4, 8, 0), (2, 0, 6)), out)
    assert np.array_equal(out, _rows(copies, (2, 2, 3), (4, 0, 12), (9, 9, 9)))


def test_blur_by_hand(copies: int) -> None:
    # A chain 0 - 1 and a lone vertex 2; row 3 stands for no neighbour.
    near = np.array([[1, 3], [3, 0], [3, 3]], dtype=np.int32)
    out = _rows(copies, *[(0, 0, 0)] * 4)
    blur(0, 3, near, _rows(copies, (1, 0, 2), (0, 4, 2), (5, 6, 7), (0, 0, 0)), out)
    assert np.array_equal(out, _rows(copies, (1, 2, 3), (0.5, 4, 3), (5, 6, 7), (0, 0, 0)))


def test_slice_by_hand(copies: int) -> None:
    # base + gain (0.5 lattice[0] + 0.25 lattice[1]) at the first of two points.
    ids = np.array([[0, 1], [0, 1]], dtype=np.int32)
    weights = np.array([[0.5, 0.25], [1, 1]], dtype=np.float32)
    base = _rows(copies, (1, 1, 1), (7, 7, 7))
    lattice = _rows(copies, (2, 4, 0), (0, 4, 8), (0, 0, 0))
    add_slices(0, 1, ids, weights, np.full(2, 10, np.float32), lattice, base, base)
    assert np.array_equal(base, _rows(copies, (11, 31, 21), (7, 7, 7)))


def test_entries_are_scaled_by_their_points() -> None:
    weights = np.array([1, 2, 3], dtype=np.float32)
    scale = np.array([10, 100], dtype=np.float32)
    scale_entries(0, 2, np.array([1, 0, 1], dtype=np.int32), scale, weights)
    assert weights.tolist() == [100, 20, 3]


def test_exponential_to_rounding() -> None:
    x = -np.linspace(0, 86.9, 4001, dtype=np.float32)
    result = np.array([exp_of_negative(v) for v in x], dtype=np.float64)
    np.testing.assert_allclose(result, np.exp(x.astype(np.float64)), rtol=2e-7)


def test_half_tanh_by_hand() -> None:
    values = np.array([[0, 2 * np.log(3), -1000], [9, 9, 9]], dtype=np.float32)
    half_tanh(0, 1, values)  # tanh(log 3) = (9 - 1) / (9 + 1)
    np.testing.assert_allclose(values, [[0, 0.8, -1], [9, 9, 9]], atol=1e-6)


def test_softmax_by_hand_beside_padding() -> None:
    # e^x = 1, 2, 3, 4 times any factor; the last column is padding, larger or not.
    logs = np.log([1.0, 2, 3, 4]).astype(np.float32)
    values = np.tile(np.append(logs - 50, 0), (1000, 1)).astype(np.float32)
    values[:500, :4] += 100
    values[999] = 9
    softmax(0, 999, 4, values)
    np.testing.assert_allclose(values[:999], [[0.1, 0.2, 0.3, 0.4, 0]] * 999, atol=2e-6)
    assert (values[999] == 9).all()
