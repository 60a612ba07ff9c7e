"""MaskCut's rules by hand, its eigenvectors against closed forms and the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.linalg import eigh

from tests.masks.graphs import near_degenerate_graphs
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import MaskCutSettings
from u2seg.masks.bitgraph import BitGraph
from u2seg.masks.maskcut import cut_graph, cut_once, is_trivial, maskcut, refused
from u2seg.masks.ncut import second_eigenvector
from u2seg.structures.features import PatchFeatures

EPS = 1e-5
ALL = np.ones((5, 5), dtype=bool)
GOLDEN = sorted((SHARED / "golden" / "maskcut").glob("img_*.npz"))


def clique_graph(*sizes: int) -> np.ndarray:
    edges = np.zeros((sum(sizes), sum(sizes)), dtype=bool)
    start = 0
    for size in sizes:
        edges[start : start + size, start : start + size] = True
        start += size
    return edges


def two_blob_features() -> tuple[PatchFeatures, np.ndarray, np.ndarray]:
    """Background e0, a 3x3 blob e1 at (2, 2), a 2x2 blob e2 at (8, 8) on a 12x12 grid."""
    grid = np.zeros((3, 12, 12), dtype=np.float32)
    first = np.zeros((12, 12), dtype=bool)
    second = np.zeros((12, 12), dtype=bool)
    first[2:5, 2:5] = second[8:10, 8:10] = True
    grid[0][~(first | second)] = 1
    grid[1][first] = 1
    grid[2][second] = 1
    return PatchFeatures(grid, (96, 96)), first, second


@pytest.mark.parametrize(
    ("sizes", "ratio"), [((300, 300), -1.0), ((60, 840), -195.972704), ((9, 91), -102.224333)]
)
def test_two_cliques_have_the_closed_form(sizes: tuple[int, int], ratio: float) -> None:
    v = second_eigenvector(clique_graph(*sizes), EPS)
    small, large = v[: sizes[0]], v[sizes[0] :]
    assert np.ptp(small) < 1e-8 and np.ptp(large) < 1e-8
    assert small[0] / large[0] == pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize("n", [40, 200])
def test_eigenvector_equals_the_generalised_dense_solver(n: int) -> None:
    rng = np.random.default_rng(n)
    points = np.concatenate([rng.normal(c, 0.6, (n // 2, 2)) for c in (0, 2)])
    edges = np.linalg.norm(points[:, None] - points[None], axis=-1) < 1.2
    affinity = np.where(edges, 1.0, EPS)
    degree = np.diag(affinity.sum(axis=1))
    values, vectors = eigh(degree - affinity, degree, subset_by_index=[1, 2])
    assert values[1] - values[0] > 1e-3
    v = second_eigenvector(edges, EPS)
    cosine = v @ degree @ vectors[:, 0]
    assert abs(cosine) == pytest.approx(1, abs=1e-9)
    assert v[np.argmax(np.abs(v))] > 0


def test_painting_out_equals_rebuilding_from_zeroed_features() -> None:
    rng = np.random.default_rng(1)
    grid = rng.standard_normal((4, 6, 6)).astype(np.float32)
    painted = rng.random((6, 6)) < 0.3
    graph = BitGraph.from_features(PatchFeatures(grid, (6, 6)), 0.1)
    rebuilt = BitGraph.from_features(PatchFeatures(grid * ~painted, (6, 6)), 0.1)
    np.testing.assert_array_equal(graph.without(painted.ravel()).edges(), rebuilt.edges())


def test_blobs_are_cut_one_after_another() -> None:
    features, first, second = two_blob_features()
    found = maskcut(features, MaskCutSettings(num_masks=3))
    cut = [m.grid.tolist() for m in found]
    assert second.tolist() in cut and first.tolist() in cut
    assert all(0 <= m.score <= 1 for m in found)


def test_masks_are_disjoint_and_at_most_n() -> None:
    rng = np.random.default_rng(5)
    smooth = np.cumsum(np.cumsum(rng.standard_normal((8, 20, 20)), axis=1), axis=2)
    features = PatchFeatures(smooth.astype(np.float32), (160, 160))
    for n in (1, 2, 4):
        found = maskcut(features, MaskCutSettings(num_masks=n, tau=0.5))
        assert len(found) <= n
        assert np.sum([m.grid for m in found], axis=0).max() <= 1


def test_corner_rule_and_seed_rule() -> None:
    # The large values lie on three corners: the middle is the object.
    v = np.ones((5, 5))
    v[1:4, 1:4] = -1.0
    v[4, 4] = -1.0
    expected = v < 0
    expected[4, 4] = False  # not connected to the seed's component by an edge
    assert cut_once(v, ALL).tolist() == expected.tolist()
    # No corner majority: the side of the largest modulus wins, though it is below the mean.
    w = np.zeros((5, 5))
    w[:, 3:] = 1.0
    w[2, 1] = -4.0
    assert cut_once(w, ALL)[2, 1]
    assert not cut_once(w, ALL)[2, 3]


def test_excluded_patches_do_not_attract_later_cuts() -> None:
    # A clique of 6, one of 3 and one of 1 in a row: after the small ones are painted out, the
    # isolated nodes would win the next cut; taken out, the rest is one clique and nothing is left.
    grid = np.zeros((3, 1, 10), dtype=np.float32)
    grid[0, 0, 1:7] = grid[1, 0, 7:] = grid[2, 0, 0] = 1
    features = PatchFeatures(grid, (8, 80))
    settings = MaskCutSettings(num_masks=9, painted="exclude", min_area=0.0)
    found = [np.flatnonzero(m.grid).tolist() for m in maskcut(features, settings)]
    assert sorted(found) == [[0], [7, 8, 9]] or sorted(found) == [[0], [1, 2, 3, 4, 5, 6]]
    large = maskcut(
        features,
        MaskCutSettings(num_masks=9, painted="exclude", max_area=0.2),
    )
    assert [np.flatnonzero(m.grid).tolist() for m in large] == [[0]]


def test_constant_and_empty_features_have_no_cut() -> None:
    for value in (0.0, 1.0):
        grid = np.full((4, 8, 8), value, dtype=np.float32)
        assert maskcut(PatchFeatures(grid, (64, 64)), MaskCutSettings()) == []


def test_single_blob_on_zero_features_ends_cleanly() -> None:
    grid = np.zeros((2, 8, 8), dtype=np.float32)
    grid[0, 2:5, 2:5] = 1
    found = maskcut(PatchFeatures(grid, (64, 64)), MaskCutSettings())
    assert 1 <= len(found) <= 3
    assert is_trivial(BitGraph.from_edges(np.zeros((4, 4), dtype=bool)), 4)


def test_area_rule_applies_to_later_rounds_only() -> None:
    small = np.zeros((10, 10), dtype=bool)
    small[0, 0] = True  # exactly 1 %
    assert refused(small, ~small, MaskCutSettings(min_area=0.01))
    assert not refused(small, None, MaskCutSettings(min_area=0.01))
    large = np.ones((10, 10), dtype=bool)
    features, _, _ = two_blob_features()
    assert not maskcut(features, MaskCutSettings(max_area=0.001))
    assert refused(large, large, MaskCutSettings())


@pytest.mark.shared
@needs_shared("golden", "maskcut")
@pytest.mark.parametrize("prefix", ["t015_", "t025_"])
def test_first_cut_equals_the_reference_after_aligning_signs(prefix: str) -> None:
    assert GOLDEN
    for path in GOLDEN:
        data = np.load(path)
        features = PatchFeatures(data["features"].astype(np.float32), (448, 448))
        edges = BitGraph.from_features(features, float(data[f"{prefix}tau"])).edges()
        packed = np.packbits(edges, axis=-1)
        np.testing.assert_array_equal(packed, data[f"{prefix}affinity0_bits"])
        v = second_eigenvector(edges, EPS)
        theirs = data[f"{prefix}eigvecs"][0].ravel()
        degree = EPS * len(v) + (1 - EPS) * edges.sum(axis=1)
        cosine = float(v @ (degree * theirs))
        assert abs(cosine) > 0.9999, path.name
        mask = cut_once((np.sign(cosine) * v).reshape(28, 28), np.ones((28, 28), dtype=bool))
        if data[f"{prefix}seed_gap"][0] > 1e-6:
            np.testing.assert_array_equal(mask, data[f"{prefix}component"][0] > 0)


@pytest.mark.shared
@needs_shared("golden", "maskcut")
def test_all_rounds_equal_the_reference_after_aligning_signs() -> None:
    """Masking out, refusal and subtraction, ties included; a refused round goes on as theirs."""
    rounds = 0
    for path, prefix in itertools.product(GOLDEN, ("t015_", "t025_")):
        data = np.load(path)
        graph = BitGraph.from_features(
            PatchFeatures(data["features"].astype(np.float32), (448, 448)),
            float(data[f"{prefix}tau"]),
        )
        painted, previous = np.zeros((28, 28), dtype=bool), None
        for theirs, expected in zip(
            data[f"{prefix}eigvecs"], data[f"{prefix}bipartitions"] > 0, strict=True
        ):
            v = cut_graph(graph, painted, ~np.zeros_like(painted), EPS)
            assert v is not None
            degree = EPS * v.size + (1 - EPS) * graph.without(painted.ravel()).degrees
            sign = np.sign(float(v.ravel() @ (degree * theirs.ravel())))
            component = cut_once(sign * v, ~np.zeros_like(painted))
            if refused(component, previous, MaskCutSettings()):
                component = np.zeros_like(component)
            np.testing.assert_array_equal(component & ~painted, expected, err_msg=path.name)
            previous = component
            painted |= component
            rounds += 1
    assert rounds == 72


@pytest.mark.shared
@needs_shared("golden", "maskcut")
def test_released_rule_gives_one_of_the_references_sign_variants() -> None:
    """The reference's masks depend on eigenvector signs; ours must be one of its outcomes."""
    for path, prefix in itertools.product(GOLDEN, ("t015_", "t025_")):
        data = np.load(path)
        features = PatchFeatures(data["features"].astype(np.float32), (448, 448))
        settings = MaskCutSettings(tau=float(data[f"{prefix}tau"]), rule="released")
        ours = [m.grid.ravel() for m in maskcut(features, settings)]
        variants = np.unpackbits(data[f"{prefix}sign_variants_bits"], axis=-1, count=784) > 0
        filled = [[mask.tolist() for mask in row if mask.any()] for row in variants]
        assert [mask.tolist() for mask in ours] in filled, (path.name, prefix)


@pytest.mark.shared
@needs_shared("golden", "maskcut")
def test_performance_case_equals_the_reference() -> None:
    data = np.load(SHARED / "golden" / "maskcut" / "grid60_random_smooth.npz")
    features = PatchFeatures(data["features"].astype(np.float32), (480, 480))
    graph = BitGraph.from_features(features, float(data["tau"]))
    np.testing.assert_array_equal(graph.degrees, data["affinity0_row_degree"])
    painted = np.zeros((60, 60), dtype=bool)
    live = ~painted
    for theirs, expected in zip(data["eigvecs"], data["bipartitions"] > 0, strict=True):
        v = cut_graph(graph, painted, live, EPS)
        assert v is not None
        degree = EPS * v.size + (1 - EPS) * graph.without(painted.ravel()).degrees
        cosine = float(v.ravel() @ (degree * theirs.ravel()))
        assert abs(cosine) > 0.9999
        component = cut_once(np.sign(cosine) * v, live)
        np.testing.assert_array_equal(component & ~painted, expected)
        painted |= expected


def test_bit_matrix_multiplies_like_the_matrix() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 7, 8, 9, 600):
        edges = rng.random((n, n)) < 0.3
        edges |= edges.T
        graph = BitGraph.from_edges(edges)
        x = rng.standard_normal(n)
        np.testing.assert_allclose(graph.multiply(x), edges @ x, atol=1e-12)
        np.testing.assert_array_equal(graph.degrees, edges.sum(axis=1))
        np.testing.assert_array_equal(graph.edges(), edges)


def test_equal_neighbourhoods_have_exactly_equal_values() -> None:
    """Plateaus decide ties of the seed: they must be exact, not within rounding."""
    features, first, _ = two_blob_features()
    graph = BitGraph.from_features(features, 0.15)
    v = cut_graph(graph, np.zeros_like(first), np.ones_like(first), EPS)
    assert v is not None
    assert len(set(v[first].tolist())) == 1


def test_slow_convergence_falls_back_to_the_dense_solver(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(3)
    edges = rng.random((120, 120)) < 0.1
    edges |= edges.T
    expected = second_eigenvector(edges, EPS)
    monkeypatch.setattr("u2seg.masks.ncut.MAX_STEPS", 3)
    with caplog.at_level("WARNING"):
        got = second_eigenvector(edges, EPS)
    assert "did not converge in 3 steps" in caplog.text
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_vector_is_the_second_where_the_third_is_near() -> None:
    for edges, expected in near_degenerate_graphs():
        v = second_eigenvector(edges, EPS)
        assert abs(v @ expected) > 0.999


@pytest.mark.parametrize("threads", [1, 2])
def test_masks_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    import numba
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(9)
    smooth = np.cumsum(np.cumsum(rng.standard_normal((16, 40, 40)), axis=1), axis=2)
    features = PatchFeatures(smooth.astype(np.float32), (320, 320))
    settings = MaskCutSettings(num_masks=4, tau=0.6, painted="exclude")
    expected = maskcut(features, settings)
    assert expected
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        with threadpool_limits(threads):
            found = maskcut(features, settings)
    finally:
        numba.set_num_threads(before)
    assert [m.grid.tobytes() for m in found] == [m.grid.tobytes() for m in expected]
    assert [round(m.score, 6) for m in found] == [round(m.score, 6) for m in expected]


@pytest.mark.shared
@needs_shared("golden", "maskcut")
def test_seed_ties_are_counted() -> None:
    """Rounds of the reference whose seed only rounding decided; ours differ in none of them."""
    gaps = np.concatenate(
        [np.load(p)[f"{prefix}seed_gap"] for p in GOLDEN for prefix in ("t015_", "t025_")]
    )
    assert (int((gaps < 1e-6).sum()), gaps.size) == (8, 72)


@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (22, 22), (23, 43)])
def test_packed_blocks_are_the_thresholded_similarities(shape: tuple[int, int]) -> None:
    """Sizes below, at and above a block of 480 patches, and not multiples of 8."""
    grid = np.random.default_rng(4).standard_normal((6, *shape)).astype(np.float32)
    grid[:, 0, 0] = 0  # similar to nothing, itself included
    flat = grid.reshape(6, -1).astype(np.float64)
    length = np.linalg.norm(flat, axis=0)
    unit = flat / np.where(length > 0, length, 1)
    similarity = unit.T @ unit
    assert np.abs(similarity - 0.2).min() > 1e-7
    graph = BitGraph.from_features(PatchFeatures(grid, (8, 8)), 0.2)
    np.testing.assert_array_equal(graph.edges(), similarity > 0.2)
