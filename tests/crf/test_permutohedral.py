"""The lattice filter: a vertex by hand, then a Gaussian by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from tests.crf.filtered import filtered
from u2seg.crf.parallel import Threads
from u2seg.crf.permutohedral import PermutohedralLattice
from u2seg.errors import UserError


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
