"""The lattice: points and passes by hand, a vertex by hand, a Gaussian by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from u2seg.crf.lattice import PermutohedralLattice, add_slices, blur, scale_entries, splat
from u2seg.crf.parallel import Threads
from u2seg.crf.simplex import axis_factors, barycentric, elevate, enclosing_simplex, simplex_keys
from u2seg.errors import UserError


def filtered(positions: np.ndarray, columns: np.ndarray, threads: int = 1) -> np.ndarray:
    """Return the filtered (N, C) float32 columns of values at (d, N) positions."""
    with Threads(threads) as workers:
        return PermutohedralLattice(positions, workers).filter(columns.astype(np.float32), workers)


def test_impulse_at_a_vertex_by_hand() -> None:
    # d = 2, the origin is a vertex of remainder 0.
    # Vertices created by the origin: 000, (1,1,-2), (2,-1,-1). Blur by hand over directions
    # (2,-1,-1), (-1,2,-1), (-1,-1,2): only the pairs 000-(2,-1,-1) in direction 0 and
    # 000-(1,1,-2) in direction 2 exist, and (1,1,-2)-(2,-1,-1) differ by (1,-2,1): direction 1.
    # v = (a, b, c) on 000, (1,1,-2), (2,-1,-1), from (1, 0, 0):
    # direction 0: (1, 0, .5); direction 1: (1, .25, .5); direction 2: (1.125, .75, .5).
    # Sliced at the origin: 1.125 / (1 + 2^-2) = 0.9.
    origin = np.zeros((2, 1), dtype=np.float32)
    with Threads(1) as threads:
        assert PermutohedralLattice(origin, threads).num_vertices == 3
    assert filtered(origin, np.ones((1, 1)))[0, 0] == pytest.approx(0.9, abs=1e-6)


def test_normalized_filter_by_hand() -> None:
    # Two equal positions and a far one, d = 1: K is 5/6 between equal positions (class
    # docstring), so K 1 = (5/3, 5/3, 5/6), and 3 D K D maps 1 to 3 (1/2 + 1/2, ..., 1).
    with Threads(1) as threads:
        lattice = PermutohedralLattice(np.array([[0, 0, 50]], np.float32), threads)
        lattice.normalize(3.0, threads)
        values = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1]], dtype=np.float32)
        result = lattice.filter(values, threads)
    np.testing.assert_allclose(result.T, [[3, 3, 3], [1.5, 1.5, 0], [0, 0, 3]], atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dense_positions_are_filtered_by_a_gaussian(dims: int) -> None:
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, 4, (dims, 1500)).astype(np.float32)
    values = rng.normal(size=(1500, 2)).astype(np.float32)
    values[:, 0] = np.sin(positions[0])
    values[:, 1] = 1
    result = filtered(positions, values)
    distance = ((positions[:, :, None] - positions[:, None]) ** 2).sum(axis=0)
    exact = np.exp(-distance / 2) @ values
    np.testing.assert_allclose(result[:, 0] / result[:, 1], exact[:, 0] / exact[:, 1], atol=0.1)


def test_columns_are_filtered_alone_and_linearly() -> None:
    rng = np.random.default_rng(2)
    positions = rng.normal(0, 2, (5, 300)).astype(np.float32)
    values = rng.normal(size=(300, 4)).astype(np.float32)
    kept = values.copy()
    together = filtered(positions, values)
    assert np.array_equal(values, kept) and together.dtype == np.float32
    alone = np.concatenate([filtered(positions, values[:, i : i + 1]) for i in range(4)], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(filtered(positions, 2 * values), 2 * together, atol=1e-5)


def test_many_points_in_many_ranges_equal_one_range() -> None:
    # 50,000 points in three ranges share vertices across ranges; tables outgrow their first size.
    rng = np.random.default_rng(4)
    positions = rng.uniform(0, 30, (3, 50_000)).astype(np.float32)
    values = rng.random((50_000, 2)).astype(np.float32)
    first = filtered(positions, values, threads=1)
    assert np.array_equal(first, filtered(positions, values, threads=3))


def test_bad_positions_are_refused() -> None:
    with Threads(1) as threads:
        with pytest.raises(ValueError, match=r"must be \(d, N\)"):
            PermutohedralLattice(np.zeros(3, dtype=np.float32), threads)
        with pytest.raises(ValueError, match="NaN"):
            PermutohedralLattice(np.full((2, 3), np.nan, dtype=np.float32), threads)
        wide = np.linspace(0, 1e5, 10, dtype=np.float32)
        with pytest.raises(UserError, match="raise the kernel's widths"):
            PermutohedralLattice(np.stack([wide] * 5), threads)
        far = np.array([[0.0, 1e9], [0.0, 1e9]], dtype=np.float32)  # overflowed 32-bit vertices
        with pytest.raises(UserError, match="raise the kernel's widths"):
            PermutohedralLattice(far, threads)


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
