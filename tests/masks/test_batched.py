"""Batched MaskCut: its rules by hand, and the same masks as MaskCut image by image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.masks.graphs import near_degenerate_graphs
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import MaskCutSettings
from u2seg.masks.batched import (
    cut_scores,
    label_components,
    maskcut_batch,
    refused,
    seed_component,
)
from u2seg.masks.batched_ncut import BatchGraph, cut_vectors, fix_signs, top_eigenvector
from u2seg.masks.bitgraph import BitGraph
from u2seg.masks.maskcut import PatchMask, cut_score, maskcut
from u2seg.masks.ncut import DENSE_LIMIT, second_eigenvector
from u2seg.structures.features import PatchFeatures

GOLDEN = sorted((SHARED / "golden" / "maskcut").glob("img_*.npz"))
RULES = list(itertools.product(("stop", "released"), ("isolate", "exclude")))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def smooth(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 8, height, width))
    return np.cumsum(np.cumsum(noise, axis=2), axis=3).astype(np.float32)


def blobs() -> np.ndarray:
    """Background e0, a 3x3 blob e1 at (2, 2), a 2x2 blob e2 at (8, 8) on a 12x12 grid."""
    grid = np.zeros((3, 12, 12), dtype=np.float32)
    grid[0] = 1
    for channel, where in ((1, np.s_[2:5, 2:5]), (2, np.s_[8:10, 8:10])):
        grid[0][where], grid[channel][where] = 0, 1
    return grid


def cut_together(images: np.ndarray, settings: MaskCutSettings) -> list[list[PatchMask] | None]:
    """Return the masks of a batch; None for images that are left to ``maskcut``."""
    found = maskcut_batch(torch.from_numpy(images), settings)
    results: list[list[PatchMask] | None] = []
    for i in range(len(images)):
        rounds = zip(found.grids[i], found.scores[i], found.valid[i], strict=True)
        masks = [PatchMask(g.numpy(), float(s)) for g, s, counts in rounds if counts]
        results.append(masks if found.settled[i] else None)
    return results


def assert_same_as_alone(images: Sequence[np.ndarray], settings: MaskCutSettings) -> int:
    """Compare with ``maskcut`` and return how many masks there were."""
    together = cut_together(np.stack(images), settings)
    total = 0
    for image, masks in zip(images, together, strict=True):
        alone = maskcut(PatchFeatures(image, (8, 8)), settings)
        if masks is None:
            continue
        assert [m.grid.tolist() for m in masks] == [m.grid.tolist() for m in alone]
        np.testing.assert_allclose([m.score for m in masks], [m.score for m in alone], atol=1e-6)
        total += len(alone)
    return total


@pytest.mark.parametrize(("rule", "painted"), RULES)
def test_random_smooth_features_give_the_same_masks(rule: str, painted: str) -> None:
    settings = MaskCutSettings(tau=0.4, num_masks=4, rule=rule, painted=painted, max_area=0.6)
    assert assert_same_as_alone(smooth(4, 14, 17), settings) >= 2


@pytest.mark.parametrize(("rule", "painted"), RULES)
def test_two_blobs_are_cut_one_after_another(rule: str, painted: str) -> None:
    settings = MaskCutSettings(rule=rule, painted=painted)
    assert assert_same_as_alone([blobs(), blobs()[:, ::-1].copy()], settings) >= 4
    (found,) = cut_together(blobs()[None], settings)
    assert found is not None
    cut = [m.grid.sum() for m in found]
    assert 4 in cut and 9 in cut


def test_constant_zero_and_broken_images_do_not_disturb_their_neighbours() -> None:
    images = np.stack([blobs(), np.ones_like(blobs()), np.zeros_like(blobs()), blobs()])
    images[3, 0, 0, 0] = np.nan
    holed = blobs()
    holed[:, 5:7, 5:7] = 0  # patches of zero length
    images = np.concatenate([images, holed[None]])
    found = maskcut_batch(torch.from_numpy(images), MaskCutSettings())
    assert found.finite.tolist() == [True, True, True, False, True]
    assert found.valid.any(dim=1).tolist() == [True, False, False, False, True]
    assert found.settled.all()
    assert assert_same_as_alone(images[[0, 1, 2, 4]], MaskCutSettings()) >= 4
    assert_same_as_alone(images[[0, 1, 2, 4]], MaskCutSettings(tau=-0.5))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (3, 3)])
def test_tiny_grids_end_cleanly_and_are_left_to_the_dense_solver(shape: tuple[int, int]) -> None:
    images = torch.from_numpy(smooth(2, *shape, seed=3))
    assert images[0, 0].numel() <= DENSE_LIMIT
    for painted in ("isolate", "exclude"):
        settings = MaskCutSettings(num_masks=12, tau=0.9, min_area=0.0, painted=painted)
        found = maskcut_batch(images, settings)
        for i, image in enumerate(images.numpy()):
            nothing = maskcut(PatchFeatures(image, (8, 8)), settings) == []
            assert not found.settled[i] or (nothing and not found.valid[i].any())
        assert torch.isfinite(found.scores).all()


def test_shapes_are_checked() -> None:
    for shape in ((3, 4, 4), (2, 0, 4, 4), (1, 3, 0, 4)):
        with pytest.raises(ValueError, match="features must be"):
            maskcut_batch(torch.zeros(shape), MaskCutSettings())


@pytest.mark.shared
@needs_shared("golden", "maskcut")
@pytest.mark.parametrize(
    ("size", "images", "rule", "painted"),
    [(1, 2, "stop", "isolate"), (3, 6, "stop", "exclude"), (12, 12, "released", "isolate")],
)
def test_reference_images_give_the_same_masks_in_batches_of_any_size(
    size: int, images: int, rule: str, painted: str
) -> None:
    settings = MaskCutSettings(tau=0.25, rule=rule, painted=painted)
    grids = [np.load(path)["features"].astype(np.float32) for path in GOLDEN[:images]]
    for start in range(0, images, size):
        assert assert_same_as_alone(grids[start : start + size], settings) >= size
    settled = maskcut_batch(torch.from_numpy(np.stack(grids[:2])), settings).settled
    assert settled.all(), "the steps are enough without help"


def test_batches_and_repetition_change_no_byte() -> None:
    images = torch.from_numpy(smooth(5, 12, 12, seed=8))
    settings = MaskCutSettings(tau=0.4)
    whole, again = maskcut_batch(images, settings), maskcut_batch(images, settings)
    alone = [maskcut_batch(image[None], settings) for image in images]
    for name in ("grids", "scores", "valid"):
        joined = torch.cat([getattr(one, name) for one in alone])
        assert torch.equal(getattr(whole, name), getattr(again, name))
        assert torch.equal(getattr(whole, name), joined)


def test_bf16_features_are_taken_as_they_are() -> None:
    images = torch.from_numpy(smooth(2, 10, 10)).bfloat16()
    found = maskcut_batch(images, MaskCutSettings(tau=0.4))
    same = maskcut_batch(images.float(), MaskCutSettings(tau=0.4))
    assert found.valid.any(dim=1).all()
    assert torch.equal(found.grids, same.grids) and torch.equal(found.scores, same.scores)


def test_a_cut_that_needs_more_steps_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(smooth(2, 14, 17))
    settings = MaskCutSettings(tau=0.4)
    assert maskcut_batch(images, settings).settled.all()
    monkeypatch.setattr(cut_vectors, "__defaults__", (3,))
    assert not maskcut_batch(images, settings).settled.any()


def test_products_are_exact() -> None:
    rng = np.random.default_rng(0)
    edges = rng.random((2, 90, 90)) < 0.3
    vectors = rng.standard_normal((2, 90)) * 10.0 ** rng.integers(-9, 9, (2, 90))
    graph = BatchGraph(torch.from_numpy(edges).float())
    got = graph.multiply(torch.from_numpy(vectors)).numpy()
    exact = np.einsum("bij,bj->bi", edges, vectors)
    scale = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(got - exact) <= 1e-13 * scale).all()
    # Rows with the same neighbours in another order of summation: the same bytes.
    order = rng.permutation(90)
    turned = BatchGraph(torch.from_numpy(edges[:, :, order]).float())
    assert np.array_equal(turned.multiply(torch.from_numpy(vectors[:, order])).numpy(), got)
    assert graph.multiply(torch.zeros(2, 90, dtype=torch.float64)).abs().max() == 0


def test_products_of_thousands_of_patches_do_not_depend_on_order() -> None:
    # Every number is near the largest and positive: the sums that come closest to 2^24.
    rng = np.random.default_rng(0)
    vector = torch.from_numpy(1 - rng.random((1, 3000)) / 1e4)
    graph = BatchGraph(torch.ones(1, 3000, 3000))
    turned = torch.from_numpy(rng.permutation(3000))
    got = graph.multiply(vector)
    assert torch.equal(got, graph.multiply(vector[:, turned]))
    assert float(got[0, 0]) == pytest.approx(math.fsum(vector[0].tolist()), rel=1e-15)


def test_eigenvectors_equal_those_of_one_graph() -> None:
    edges = np.zeros((2, 100, 100), dtype=bool)
    edges[0, :9, :9] = edges[0, 9:, 9:] = True  # closed form: ratio -102.224333
    points = np.random.default_rng(1).normal(size=(100, 2)) + np.repeat([[0], [2]], 50, axis=0)
    edges[1] = np.linalg.norm(points[:, None] - points[None], axis=-1) < 1.2
    everything = torch.ones(2, 100, dtype=torch.bool)
    graph = BatchGraph(torch.from_numpy(edges).float())
    vectors, converged = cut_vectors(graph, 1e-5, everything, everything)
    assert converged.all()
    assert float(vectors[0, 0] / vectors[0, 50]) == pytest.approx(-102.224333, rel=1e-6)
    assert np.ptp(vectors[0, :9].numpy()) == 0 and np.ptp(vectors[0, 9:].numpy()) == 0
    for mine, one in zip(vectors, edges, strict=True):
        np.testing.assert_allclose(mine, second_eigenvector(one, 1e-5), atol=1e-8)


def test_squaring_finds_the_eigenvector_of_a_tridiagonal_matrix() -> None:
    rng = torch.Generator().manual_seed(0)
    diagonal = torch.rand((4, 20), generator=rng, dtype=torch.float64) - 0.5
    off = torch.rand((4, 19), generator=rng, dtype=torch.float64) / 5
    vectors, residual, single = top_eigenvector(diagonal, off)
    matrix = torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    expected = torch.linalg.eigh(matrix).eigenvectors[..., -1]
    assert ((vectors * expected).sum(dim=1).abs() > 1 - 1e-12).all()
    assert residual.max() < 1e-12
    assert single.all()


def test_nearly_equal_eigenvalues_are_told_apart_or_left_alone() -> None:
    for graph, expected in near_degenerate_graphs():
        edges = BatchGraph(torch.from_numpy(graph[None]).float())
        everything = torch.ones(1, len(graph), dtype=torch.bool)
        vectors, converged = cut_vectors(edges, 1e-5, everything, everything)
        cosine = abs(float(vectors[0].numpy() @ expected))
        assert cosine > 0.999 or not converged
    assert converged  # the last graph is not so near


def test_signs_and_seeds_by_hand() -> None:
    rows = torch.tensor([[1.0, -3.0, 3.0], [1.0, 3.0, -3.0], [0.0, 0.0, 0.0]])
    assert fix_signs(rows).tolist() == [[-1, 3, -3], [1, 3, -3], [0, 0, 0]]
    part = torch.tensor([[1, 0, 1, 1]] * 3 + [[0, 0, 0, 0]]).bool()
    values = torch.tensor([[5.0, 0, 5, 4], [6.0, 0, 5, 4], [5.0, 9, 1, 5], [1.0, 2, 3, 4]])
    found, joined = seed_component(part, values, (1, 4))
    assert found.int().tolist() == [[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert joined.all()


def test_refusal_by_hand() -> None:
    a = torch.tensor([[1, 1, 0, 0]]).bool()
    assert refused(a, a, MaskCutSettings()).item()
    assert not refused(a, ~a, MaskCutSettings()).item()
    assert refused(a, ~a, MaskCutSettings(min_area=0.5)).item()
    third = torch.tensor([[0, 1, 1, 0]]).bool()  # IoU 1 / 3
    assert refused(a, third, MaskCutSettings(max_overlap=0.3)).item()
    assert not refused(a, third, MaskCutSettings(max_overlap=0.34)).item()


def spiral(size: int) -> np.ndarray:
    """A path one patch wide from the corner to the middle: the longest way for a label."""
    grid = np.zeros((size, size), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    grid[0, 0] = True
    for _ in range(size * size):
        ahead = (y + dy, x + dx)
        beyond = (y + 2 * dy, x + 2 * dx)
        inside = all(0 <= c < size for c in ahead)
        blocked = all(0 <= c < size for c in beyond) and grid[beyond]
        if not inside or blocked:
            dy, dx = dx, -dy
            continue
        y, x = ahead
        grid[y, x] = True
    return grid


def test_components_equal_scipy_on_spirals_and_noise() -> None:
    from scipy import ndimage

    rng = np.random.default_rng(0)
    grids = [
        spiral(31),
        spiral(31)[::-1, ::-1],
        *(rng.random((31, 31)) < p for p in (0.4, 0.6, 0.9)),
    ]
    masks = torch.from_numpy(np.stack(grids).reshape(5, -1))
    labels, joined = label_components(masks, (31, 31))
    assert joined.all()
    for grid, mine in zip(grids, labels.numpy(), strict=True):
        theirs, count = ndimage.label(grid)
        pairs = set(zip(mine[grid.ravel()].tolist(), theirs[grid].tolist(), strict=True))
        assert len(pairs) == count == len({a for a, _ in pairs})


def test_scores_equal_those_of_one_graph() -> None:
    rng = np.random.default_rng(4)
    edges = rng.random((3, 40, 40)) < 0.3
    edges |= edges.transpose(0, 2, 1)
    sides = rng.random((3, 40)) < 0.4
    sides[2] = True  # nothing on the other side
    graph = BatchGraph(torch.from_numpy(edges).float())
    degrees = torch.from_numpy(edges.sum(axis=2).astype(float))
    got = cut_scores(graph, degrees, torch.from_numpy(sides), 1e-5).tolist()
    expected = [cut_score(BitGraph.from_edges(e), s, 1e-5) for e, s in zip(edges, sides)]
    assert got == pytest.approx(expected, abs=1e-12) and got[2] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_masks() -> None:
    images = torch.from_numpy(smooth(4, 24, 24))
    settings = MaskCutSettings(tau=0.4)
    expected, found = maskcut_batch(images, settings), maskcut_batch(images.cuda(), settings)
    assert torch.equal(found.grids.cpu(), expected.grids)
    assert torch.equal(found.valid.cpu(), expected.valid)
    assert torch.allclose(found.scores.cpu(), expected.scores, atol=1e-12)
