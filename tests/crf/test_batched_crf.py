"""CRFs of a batch in torch: the values of the CRF of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.shared import SHARED, needs_shared
from u2seg.crf import CrfKernels, DenseCrf, batched
from u2seg.crf.batched import BatchDenseCrf, BatchLattice
from u2seg.errors import UserError
from u2seg.io.images import read_image

CUTLER = CrfKernels(3.0, 7.0, 50.0, 5.0, 10.0)
FOLDER = SHARED / "golden" / "crf"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Smooth colours, an edge and some noise."""
    rng = np.random.default_rng(0)
    waves = rng.uniform(0.05, 0.3, (count, 2, 1, 1, 3))
    y, x = np.mgrid[:height, :width][:, None, ..., None] * waves.transpose(1, 0, 2, 3, 4)
    edge = 60.0 * (np.arange(width) > width // 3)[:, None]
    values = 90 + 40 * np.sin(x + y) + edge + rng.normal(0, 3, (count, height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


def test_a_batch_has_the_values_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "ROOM", 1.0)  # the pictures are small and noisy
    images = pictures(3, 40, 56)
    masks = np.random.default_rng(1).random((3, 4, 5, 7)) < 0.4
    masks = masks.repeat(8, axis=2).repeat(8, axis=3)
    got, again = (
        BatchDenseCrf(torch.from_numpy(images), CUTLER).refine_masks(torch.from_numpy(masks), 4)
        for _ in range(2)
    )
    assert torch.equal(got, again)
    for image, mine, mask in zip(images, got.numpy(), masks, strict=True):
        expected = DenseCrf(image, CUTLER).refine_masks(mask, 4)
        np.testing.assert_allclose(mine, expected, atol=2e-3)
        assert np.mean((mine > 0.5) == (expected > 0.5)) >= 0.999
        assert np.mean((expected > 0.5) == mask) < 0.999, "the CRF changes something"
    alone = BatchDenseCrf(torch.from_numpy(images[1:2]), CUTLER)
    soft = alone.refine_masks(torch.from_numpy(masks[1:2]).float(), 4)
    np.testing.assert_allclose(soft[0], got[1], atol=1e-5)


def test_images_that_find_no_room_are_named_and_leave_the_others_alone() -> None:
    """36 pixels, each alone in its colour: 216 vertices; an even image has few."""
    even = np.full((6, 6, 3), 90, dtype=np.uint8)
    many = np.random.default_rng(0).permutation(36 * 3).reshape(6, 6, 3).astype(np.uint8) * 2
    narrow = CrfKernels(3.0, 7.0, 50.0, 0.5, 10.0)
    batch = torch.from_numpy(np.stack([even, many, even]))
    crf = BatchDenseCrf(batch, narrow)
    assert crf.fits.tolist() == [True, False, False], "room is taken up in the order of images"
    masks = torch.zeros(3, 1, 6, 6, dtype=torch.bool)
    masks[..., 2:] = True
    alone = BatchDenseCrf(batch[:1], narrow)
    assert alone.fits.all()
    got = crf.refine_masks(masks, 5)
    assert torch.isfinite(got).all()
    assert torch.equal(got[0], alone.refine_masks(masks[:1], 5)[0])


def test_sums_in_pieces_are_those_of_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three vertices have all 40 points; pieces begin with a vertex and at every sixth entry."""
    positions = torch.zeros(40, 2)
    values = torch.arange(40, dtype=torch.float32)[:, None]
    whole = BatchLattice(positions, [(0.0, 1.0)] * 2, 1).filter(values)
    monkeypatch.setattr(batched, "PIECE", 6)
    lattice = BatchLattice(positions, [(0.0, 1.0)] * 2, 1)
    assert lattice._pieces_of.tolist()[:3] == [7, 8, 7]
    assert torch.equal(lattice.filter(values), whole), "whole numbers: exact in any order"


def test_no_iteration_returns_the_unary() -> None:
    images = torch.from_numpy(pictures(1, 6, 5))
    mask = torch.zeros(1, 1, 6, 5, dtype=torch.bool)
    mask[..., 2:] = True
    got = BatchDenseCrf(images, CUTLER).refine_masks(mask, 0)
    e = np.e
    np.testing.assert_allclose(got, np.where(mask, e / (e + 1), 1 / (e + 1)), rtol=1e-6)


def test_filter_by_hand_and_groups_apart() -> None:
    lattice = BatchLattice(torch.tensor([[0.0], [50.0]]), [(0.0, 50.0)], 1)
    assert lattice.filter(torch.tensor([[1.0], [0.0]]))[:, 0].tolist() == pytest.approx([5 / 6, 0])
    rng = torch.Generator().manual_seed(0)
    positions = torch.rand((60, 3), generator=rng) * 4
    values = torch.rand((60, 2), generator=rng)
    both = BatchLattice(positions, [(0.0, 4.0)] * 3, 2).filter(values)
    halves = [
        BatchLattice(positions[part], [(0.0, 4.0)] * 3, 1).filter(values[part])
        for part in (slice(0, 30), slice(30, 60))
    ]
    assert torch.allclose(both, torch.cat(halves), atol=1e-6)


def test_bad_input_is_refused() -> None:
    images = torch.zeros((2, 4, 4, 3), dtype=torch.uint8)
    for wrong in (images[0], images[..., :2], images[:0], images.float()):
        with pytest.raises(ValueError, match="images must be"):
            BatchDenseCrf(wrong, CUTLER)
    crf = BatchDenseCrf(images, CUTLER)
    for shape in ((2, 1, 4, 5), (1, 1, 4, 4), (2, 0, 4, 4), (2, 4, 4)):
        with pytest.raises(ValueError, match="do not fit"):
            crf.refine_masks(torch.zeros(shape), 1)
    with pytest.raises(UserError, match="widths"):
        BatchDenseCrf(images, CrfKernels(3.0, 7.0, 50.0, 1e-5, 10.0))
    with pytest.raises(UserError, match="widths"):
        BatchDenseCrf(images, CrfKernels(3.0, 7.0, 1e-3, 1e-3, 10.0))


@pytest.mark.shared
@needs_shared("golden", "crf")
def test_reference_cases_agree_with_pydensecrf() -> None:
    cases = [p for p in sorted(FOLDER.glob("cutler_0*.npz")) if np.load(p)["mask"].shape[0] == 240]
    cases = cases[:3]
    assert len(cases) == 3
    data = [np.load(path) for path in cases]
    names = [path.stem.removeprefix("cutler_") for path in cases]
    images = np.stack([read_image(FOLDER / f"image_{name}.png") for name in names])
    masks = np.stack([case["mask"] for case in data])[:, None]
    got = BatchDenseCrf(torch.from_numpy(images), CUTLER).refine_masks(torch.from_numpy(masks), 10)
    for mine, case in zip(got[:, 0].numpy(), data, strict=True):
        assert np.mean((mine > 0.5) == (case["map"] > 0)) >= 0.999
        assert np.abs(mine - case["q_fg"].astype(np.float32)).mean() < 2e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_values_in_every_run() -> None:
    images = torch.from_numpy(pictures(2, 40, 56))
    masks = torch.from_numpy(np.random.default_rng(1).random((2, 3, 40, 56)) < 0.5)
    expected = BatchDenseCrf(images, CUTLER).refine_masks(masks, 10)
    runs = [BatchDenseCrf(images.cuda(), CUTLER).refine_masks(masks.cuda(), 10) for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.allclose(runs[0].cpu(), expected, atol=2e-3)
