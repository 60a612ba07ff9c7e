"""From features and pixels to codes in one go: the masks of ``propose_masks``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.factories import seen
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import MaskCutSettings, MaskSettings
from u2seg.io.images import read_image, resize_image
from u2seg.io.transfer import Download
from u2seg.masks.batched_propose import Proposed, propose_batch
from u2seg.masks.propose import propose_masks
from u2seg.structures.features import ImageInputs, PatchFeatures

GOLDEN = sorted((SHARED / "golden" / "maskcut").glob("img_*.npz"))
PHOTOS = SHARED / "data" / "coco_train128" / "images"
NO_CRF = MaskSettings(refiner="none")


def inputs(image: np.ndarray, grid: np.ndarray) -> ImageInputs:
    return seen(PatchFeatures(grid, (image.shape[0], image.shape[1])), image, "key")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def two_squares() -> np.ndarray:
    """Background e0, 3 x 3 patches of e1 at (2, 2), 2 x 2 of e2 at (8, 8), 12 x 12 patches."""
    grid = np.zeros((3, 12, 12), dtype=np.float32)
    grid[0] = 1
    for channel, where in ((1, np.s_[2:5, 2:5]), (2, np.s_[8:10, 8:10])):
        grid[0][where], grid[channel][where] = 0, 1
    return grid


def test_boxes_and_areas_by_hand() -> None:
    """At the size of the pixels a patch is 4 x 4; nothing is resized."""
    features = torch.from_numpy(two_squares())[None]
    pixels = torch.zeros(1, 48, 48, 3, dtype=torch.uint8)
    (found,) = propose_batch(features, pixels, [(48, 48)], NO_CRF).collect()
    assert found.masks is not None and found.left == ""
    told = sorted((mask.area, mask.bbox) for mask in found.masks)
    assert told == [(64, (32.0, 32.0, 8.0, 8.0)), (144, (8.0, 8.0, 12.0, 12.0))]


def test_every_photograph_gets_its_own_size() -> None:
    grids = [two_squares(), two_squares()[:, ::-1].copy(), two_squares()[:, :, ::-1].copy()]
    sizes = [(31, 70), (48, 48), (31, 70)]
    images = [np.zeros((*size, 3), dtype=np.uint8) for size in sizes]
    features, pixels = torch.from_numpy(np.stack(grids)), torch.zeros(3, 48, 48, 3).byte()
    found = propose_batch(features, pixels, sizes, NO_CRF).collect()
    for image, grid, one in zip(images, grids, found, strict=True):
        alone = propose_masks(inputs(image, grid), (48, 48), NO_CRF)
        assert len(alone) == 2 and one == Proposed(alone)


def test_a_photograph_too_small_for_a_mask_loses_it() -> None:
    features, pixels = torch.from_numpy(two_squares())[None], torch.zeros(1, 48, 48, 3).byte()
    (found,) = propose_batch(features, pixels, [(1, 1)], NO_CRF).collect()
    alone = propose_masks(inputs(np.zeros((1, 1, 3), np.uint8), two_squares()), (48, 48), NO_CRF)
    assert found == Proposed(alone)


def test_broken_features_and_nothing_to_cut_are_told_apart() -> None:
    grids = np.stack([two_squares(), np.ones_like(two_squares()), two_squares()])
    grids[0, 1, 5, 5] = np.nan
    pixels = torch.zeros(3, 48, 48, 3, dtype=torch.uint8)
    first, second, third = propose_batch(
        torch.from_numpy(grids), pixels, [(48, 48)] * 3, MaskSettings()
    ).collect()
    assert first == Proposed(None) and second == Proposed([])
    assert third.masks is not None and third.left == ""


def test_what_does_not_fit_is_refused() -> None:
    features, pixels = torch.from_numpy(two_squares())[None], torch.zeros(1, 48, 48, 3).byte()
    with pytest.raises(ValueError, match="as many features, pixels and sizes"):
        propose_batch(features, pixels, [(48, 48)] * 2, NO_CRF)
    with pytest.raises(ValueError, match="refiner must be one of"):
        propose_batch(features, pixels, [(48, 48)], MaskSettings(refiner="another"))


def test_tensors_of_all_kinds_travel_in_one_piece() -> None:
    parts = [
        torch.tensor(2.5), torch.tensor([[True, False, True]]), torch.zeros(0, 4),
        torch.tensor([-7, 2**40]), torch.arange(6, dtype=torch.uint8).reshape(2, 3).T,
    ]  # fmt: skip
    moved = Download(parts).wait()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(parts, moved, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_masks_of_a_cpu_and_the_same_in_every_run() -> None:
    from benchmarks.inputs import Sizes, photograph, synthetic_features

    sizes = Sizes(grid=24, channels=96)
    features = torch.from_numpy(np.stack([synthetic_features(sizes, k).grid for k in range(3)]))
    pixels = torch.from_numpy(np.stack([photograph(sizes.side)] * 3))
    where = [(250, 333), (192, 192), (100, 100)]
    expected = propose_batch(features, pixels, where, MaskSettings()).collect()
    runs = [
        propose_batch(features.cuda(), pixels.cuda(), where, MaskSettings()).collect()
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    for mine, theirs in zip(runs[0], expected, strict=True):
        assert mine.left == theirs.left == "" and mine.masks and theirs.masks
        for a, b in zip(mine.masks, theirs.masks, strict=True):
            assert np.mean(a.to_array() == b.to_array()) >= 0.999
            assert a.score == pytest.approx(b.score, abs=1e-9)


@pytest.mark.shared
@needs_shared("golden", "maskcut")
@needs_shared("data", "coco_train128")
def test_reference_images_give_the_very_masks_of_one_image() -> None:
    """Photographs of four sizes, refined by the CRF: the same codes, boxes and areas."""
    paths = GOLDEN[:4]
    settings = MaskSettings(maskcut=MaskCutSettings(tau=0.25))
    grids = [np.load(path)["features"].astype(np.float32) for path in paths]
    images = [read_image(PHOTOS / f"{path.stem.removeprefix('img_')}.jpg") for path in paths]
    size = (8 * grids[0].shape[1], 8 * grids[0].shape[2])
    pixels = np.stack([resize_image(i, size, Image.Resampling.LANCZOS) for i in images])
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    assert len(set(sizes)) == 4
    found = propose_batch(
        torch.from_numpy(np.stack(grids)), torch.from_numpy(pixels), sizes, settings
    ).collect()
    for image, grid, one in zip(images, grids, found, strict=True):
        alone = propose_masks(inputs(image, grid), size, settings)
        assert one.left == "" and one.masks is not None and len(one.masks) == len(alone) > 0
        for mine, theirs in zip(one.masks, alone, strict=True):
            # A pixel may fall to the other side of 1/2 by rounding; on most machines none does.
            assert np.mean(mine.to_array() == theirs.to_array()) >= 0.9999
            assert mine.score == pytest.approx(theirs.score, abs=1e-9)
