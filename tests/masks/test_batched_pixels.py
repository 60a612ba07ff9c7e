"""Masks at full size in torch: the same as scipy, Pillow and pycocotools make of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from u2seg.io.transfer import Download, upload
from u2seg.masks import batched_pixels, batched_resize
from u2seg.masks.batched_pixels import agrees, fill_holes, upsample_nearest
from u2seg.masks.batched_resize import bicubic_weights, pass_order, resize_masks
from u2seg.masks.batched_runs import pack_changes, read_mask
from u2seg.masks.propose import resize_mask
from u2seg.masks.propose import upsample_nearest as upsample_alone
from u2seg.masks.refine import agrees as agrees_alone
from u2seg.masks.refine import fill_holes as fill_alone
from u2seg.structures.masks import InstanceMask


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shapes(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blobs with ragged outlines: noise of several scales above its median."""
    rng = np.random.default_rng(seed)
    total = np.zeros((count, height, width))
    for cell in (1, 3, 9):
        tall, wide = -(-height // cell), -(-width // cell)
        coarse = rng.standard_normal((count, tall, wide)) * cell
        total += coarse.repeat(cell, axis=1).repeat(cell, axis=2)[:, :height, :width]
    return total > 0


def fence(turns: int) -> np.ndarray:
    """A corridor from the border that turns back at every wall, a hole behind the last."""
    grid = np.zeros((2 * turns + 3, 9), dtype=bool)
    grid[[0, -1]] = grid[:, [0, -1]] = True
    grid[0, 1] = False
    for i in range(turns):
        grid[2 * i + 2] = True
        grid[2 * i + 2, 7 if i % 2 == 0 else 1] = False
    return grid


# --- holes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (24, 31), (40, 17)])
def test_holes_are_filled_as_by_scipy(size: tuple[int, int]) -> None:
    masks = shapes(6, *size)
    masks[4:] = [[[True]], [[False]]]
    filled, settled = fill_holes(torch.from_numpy(masks))
    assert settled.all()
    for mask, mine in zip(masks, filled.numpy(), strict=True):
        np.testing.assert_array_equal(mine, fill_alone(mask))
    assert size[0] < 20 or (filled.numpy() != masks).any(), "there were holes"


def test_a_diagonal_gap_does_not_open_a_hole() -> None:
    """Background joins its four neighbours only: the ring without its corners is closed."""
    ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
    opened = ring.copy()
    opened[0, 1] = False
    filled, settled = fill_holes(torch.from_numpy(np.stack([ring, opened])))
    assert settled.all()
    assert filled[0].int().tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert filled[1].int().tolist() == [[0, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_a_flood_that_needs_more_rounds_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    easy, hard = np.zeros((19, 9), dtype=bool), fence(8)
    masks = torch.from_numpy(np.stack([easy, hard]))
    filled, settled = fill_holes(masks)
    assert settled.tolist() == [True, True]
    np.testing.assert_array_equal(filled[1], fill_alone(hard))
    monkeypatch.setattr(batched_pixels, "ROUNDS", 3)
    filled, settled = fill_holes(masks)
    assert settled.tolist() == [True, False]
    assert not np.array_equal(filled[1], fill_alone(hard))


# --- sizes ---------------------------------------------------------------------------------------


def test_patches_are_repeated_as_for_one_image() -> None:
    grids = shapes(6, 5, 7).reshape(2, 3, 5, 7)
    for size in ((40, 56), (33, 50), (4, 3)):
        got = upsample_nearest(torch.from_numpy(grids), size)
        for mine, grid in zip(got.flatten(0, 1), grids.reshape(6, 5, 7), strict=True):
            np.testing.assert_array_equal(mine, upsample_alone(grid, size))


SIZES = [
    ((48, 48), (48, 48)), ((48, 48), (64, 48)), ((48, 48), (48, 31)), ((48, 48), (50, 67)),
    ((48, 48), (1, 1)), ((1, 1), (5, 9)), ((2, 3), (97, 200)), ((60, 40), (7, 333)),
    ((48, 48), (427, 640)), ((33, 47), (32, 46)), ((3, 3), (2, 2)), ((48, 56), (47, 113)),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_masks_are_resized_to_the_byte_as_by_pillow(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    masks = shapes(5, *source, seed=sum(target))
    masks[3], masks[4] = False, True
    got = resize_masks(torch.from_numpy(masks), target)
    assert got.shape == (5, *target)
    assert got.is_contiguous()
    for mask, mine in zip(masks, got.numpy(), strict=True):
        np.testing.assert_array_equal(mine, resize_mask(mask, target))


def test_random_sizes_are_resized_as_by_pillow() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        source = tuple(rng.integers(1, 90, 2).tolist())
        target = tuple(np.maximum(1, np.array(source) * rng.uniform(0.05, 6, 2)).astype(int))
        mask = rng.random(source) < rng.uniform(0.05, 0.95)
        got = resize_masks(torch.from_numpy(mask)[None], (int(target[0]), int(target[1])))
        np.testing.assert_array_equal(got[0], resize_mask(mask, target))


def test_weights_are_those_of_pillow_to_the_last_unit() -> None:
    """A row of grey levels, not only black and white: sums show every weight."""
    rng = np.random.default_rng(1)
    lengths = [*rng.integers(1, 700, (60, 2)).tolist(), [480, 640], [480, 6000], [6000, 480]]
    for source, target in lengths:
        row = rng.integers(0, 256, source).astype(np.uint8)
        expected = np.asarray(
            Image.fromarray(row[None]).resize((target, 1), Image.Resampling.BICUBIC)
        )
        places, weights = bicubic_weights(source, target)
        total = (row[places].astype(np.int64) * weights).sum(axis=0)
        np.testing.assert_array_equal(((total + 2**21) >> 22).clip(0, 255), expected[0])
        assert (255 * np.abs(weights).sum(axis=0, dtype=np.int64) + 2**21).max() < 2**31


def test_a_pillow_that_resizes_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pass_order.cache_clear()
    assert pass_order((9, 9), (12, 5)) in ((1, 0), (0, 1))
    assert pass_order((9, 9), (12, 9)) == (0,)
    monkeypatch.setattr(batched_resize, "SHARPNESS", -0.6)
    pass_order.cache_clear()
    assert pass_order((9, 9), (12, 5)) is None
    with pytest.raises(ValueError, match="in another way"):
        resize_masks(torch.zeros(1, 9, 9, dtype=torch.bool), (12, 5))
    pass_order.cache_clear()


# --- agreement, codes, the way back --------------------------------------------------------------


def test_agreement_is_that_of_one_mask() -> None:
    before, after = shapes(6, 20, 20), shapes(6, 20, 20, seed=1)
    after[:3] = before[:3]
    after[1, :10] = True
    before[5] = after[5] = False
    for limit in (0.0, 0.5, 0.7, 1.0):
        got = agrees(torch.from_numpy(before)[None], torch.from_numpy(after)[None], limit)[0]
        assert got.tolist() == [agrees_alone(b, a, limit) for b, a in zip(before, after)]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 8), (31, 47)])
def test_codes_boxes_and_areas_are_those_of_whole_masks(size: tuple[int, int]) -> None:
    masks = shapes(6, *size)
    masks[3:] = False
    masks[4, 0, 0] = True
    masks[5] = True
    packed = pack_changes(torch.from_numpy(masks)).numpy()
    assert packed.shape == (6, -(-size[0] * size[1] // 8))
    for mask, bits in zip(masks, packed, strict=True):
        expected = InstanceMask.from_array(mask, 0.25) if mask.any() else None
        assert read_mask(bits, size, 0.25) == expected


def test_a_download_keeps_values_types_and_order() -> None:
    parts = [
        torch.tensor([[True, False]]), torch.arange(3, dtype=torch.float64) / 3,
        torch.zeros(0, 4, dtype=torch.uint8), torch.tensor([-7, 2**40]),
        torch.arange(6, dtype=torch.uint8).reshape(2, 3).T,
    ]  # fmt: skip
    moved = Download(parts).wait()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(parts, moved, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "work",
    [
        lambda masks: fill_holes(masks)[0],
        lambda masks: resize_masks(masks, (67, 50)),
        lambda masks: upsample_nearest(masks[None], (67, 50))[0],
        pack_changes,
    ],
)
def test_a_gpu_gives_the_same_bytes(work: Callable[[torch.Tensor], torch.Tensor]) -> None:
    masks = torch.from_numpy(shapes(5, 40, 48))
    assert torch.equal(work(masks.cuda()).cpu(), work(masks))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_goes_up_and_down_is_the_same() -> None:
    numbers = np.random.default_rng(0).random((3, 1001))
    device = torch.device("cuda")
    there = [upload(numbers, device), upload(np.arange(7, dtype=np.uint8), device)]
    back = Download(there).wait()
    assert back[0].numpy().tobytes() == numbers.tobytes() and back[1].tolist() == list(range(7))
