"""Masked means against hand-computed weights and against pixel-by-pixel sums."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from u2seg.clusters.describe import (
    MAX_RATIO,
    center_square,
    mask_crops,
    masked_mean,
)
from u2seg.clusters.transform import normalize_rows
from u2seg.structures.features import PatchFeatures


def patch_coverage(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The share of every patch under a mask: its weight in the mean of features that name it."""
    count = grid[0] * grid[1]
    names = np.eye(count, dtype=np.float32).reshape(count, *grid)
    weights = masked_mean(PatchFeatures(names, mask.shape), [mask])[0].reshape(grid)
    return weights * mask.sum() * count / mask.size


def _brute_coverage(mask: np.ndarray, grid: tuple[int, int], fine: int) -> np.ndarray:
    """Share of each patch, by cutting every pixel into sub-pixels no patch edge crosses."""
    (height, width), (h, w) = mask.shape, grid
    rows = np.repeat(np.repeat(mask, h * fine, axis=0), w * fine, axis=1).astype(float)
    return rows.reshape(h, height * fine, w, width * fine).mean(axis=(1, 3))


def test_a_patch_counts_with_its_covered_share() -> None:
    # 2 x 2 patches of 2 x 2 pixels; the mask covers 4, 2, 1 and 0 pixels of them.
    grid = np.array([[[1.0, 10.0], [100.0, 1000.0]]], dtype=np.float32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    mean = masked_mean(PatchFeatures(grid, (4, 4)), [mask])
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, [[(4 * 1 + 2 * 10 + 1 * 100) / 7]], rtol=1e-6)


def test_patch_edges_inside_a_pixel_split_it() -> None:
    # Five pixels on two patches: the middle pixel belongs half to each.
    mask = np.array([[0, 0, 1, 0, 0]], dtype=bool)
    np.testing.assert_allclose(patch_coverage(mask, (1, 2)), [[0.2, 0.2]])
    features = PatchFeatures(np.array([[[2.0, 4.0]]], dtype=np.float32), (1, 5))
    np.testing.assert_allclose(masked_mean(features, [mask]), [[3.0]])


@pytest.mark.parametrize(
    ("size", "grid"), [((5, 7), (3, 2)), ((7, 1), (4, 3)), ((1, 1), (6, 5)), ((6, 9), (6, 9))]
)
def test_coverage_is_exact_for_any_size_also_more_patches_than_pixels(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    mask = np.random.default_rng(0).random(size) < 0.6
    mask[0, 0] = True
    got = patch_coverage(mask, grid)
    np.testing.assert_allclose(got, _brute_coverage(mask, grid, 1), atol=1e-12)
    # Whatever the grid, the covered area is the mask's.
    np.testing.assert_allclose(got.mean(), mask.mean())


def test_a_mask_of_one_pixel_has_its_patch_feature() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    mask = np.zeros((480, 640), dtype=bool)
    mask[400, 600] = True
    mean = masked_mean(PatchFeatures(grid, (480, 640)), [mask])
    np.testing.assert_array_equal(mean, grid[:, 1, 1][None])


def test_order_of_masks_is_kept_and_none_is_allowed() -> None:
    features = PatchFeatures(np.array([[[1.0, 5.0]]], dtype=np.float32), (1, 2))
    left, right = np.array([[1, 0]], dtype=bool), np.array([[0, 1]], dtype=bool)
    assert masked_mean(features, [right, left]).tolist() == [[5.0], [1.0]]
    assert masked_mean(features, []).shape == (0, 1)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((2, 2), dtype=bool), "mask 1 is empty"),
        (np.ones((2, 3), dtype=bool), r"mask 1 has shape \(2, 3\), its image \(2, 2\)"),
    ],
)
def test_bad_masks_are_refused_by_both(mask: np.ndarray, message: str) -> None:
    good = np.ones((2, 2), dtype=bool)
    features = PatchFeatures(np.ones((1, 1, 1), dtype=np.float32), (2, 2))
    with pytest.raises(ValueError, match=message):
        masked_mean(features, [good, mask])
    with pytest.raises(ValueError, match=message):
        mask_crops(np.zeros((2, 2, 3), dtype=np.uint8), [good, mask])


def test_crops_are_tight_boxes_and_copies() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2] = mask[2, 4] = True
    (crop,) = mask_crops(image, [mask])
    np.testing.assert_array_equal(crop, image[1:3, 2:5])
    crop[:] = 0
    assert image[1, 2].any()


def test_normalized_rows_have_length_one_and_zero_stays_zero() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    rows[3] = 0
    got = normalize_rows(rows)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), [1, 1, 1, 0, 1], atol=1e-6)
    assert got.dtype == np.float32


def test_the_background_of_a_masked_crop_is_the_mean_colour() -> None:
    image = np.full((4, 5, 3), 9, dtype=np.uint8)
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2] = mask[2, 4] = True
    (crop,) = mask_crops(image, [mask], paint=True)
    assert crop[[0, 1], [0, 2]].tolist() == [[9, 9, 9]] * 2
    assert crop[0, 1].tolist() == crop[1, 0].tolist() == [124, 116, 104]
    assert (image == 9).all()


def test_crops_grow_by_a_share_of_the_box_within_the_image() -> None:
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:6, 10:20] = True  # 4 rows grow by 2 each way, 10 columns by 5
    assert mask_crops(image, [mask], padding=0.5)[0].shape == (8, 20, 3)
    mask[:] = True
    assert mask_crops(image, [mask], padding=0.5)[0].shape == (20, 30, 3)


@pytest.mark.parametrize("size", [(30, 41), (41, 30), (5, 60), (33, 33), (120, 75), (90, 4)])
@pytest.mark.parametrize("resample", ["BILINEAR", "NEAREST"])
def test_centre_squares_equal_torchvisions(size: tuple[int, int], resample: str) -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize  # as the published code

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    kind = Image.Resampling[resample]
    published = Compose([Resize(48, interpolation=kind.value), CenterCrop(48)])
    wanted = np.asarray(published(Image.fromarray(image)))
    got = center_square(image, 48, kind)
    if max(size) > MAX_RATIO * min(size):  # another order of operations
        assert np.abs(got.astype(int) - wanted).max() <= 1
    else:
        np.testing.assert_array_equal(got, wanted)
