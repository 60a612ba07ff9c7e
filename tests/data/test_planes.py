"""Masks as bits of a map: the same pixels and boxes as one mask after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from u2seg.compat import prepare_host
from u2seg.data.planes import augmented_masks, bit_plane, plane_boxes
from u2seg.structures.masks import decode_mask, encode_mask

pytestmark = pytest.mark.d2


def random_rles(count: int, height: int, width: int, seed: int = 0) -> list[Any]:
    """Return overlapping masks: noise in windows; the third one is empty."""
    rng = np.random.default_rng(seed)
    rles = []
    for number in range(count):
        mask = np.zeros((height, width), dtype=bool)
        y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
        window = mask[y : y + 20, x : x + 20]
        window[:] = rng.random(window.shape) < 0.5
        rles.append(encode_mask(mask & (number != 2)))
    return rles


def test_planes_and_boxes_by_hand() -> None:
    """Mask 0 is the left column, mask 1 the lower row, mask 2 empty: bits 1 and 2."""
    masks = np.array([[[1, 0, 0], [1, 0, 0]], [[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]])
    plane = bit_plane([encode_mask(mask.astype(bool)) for mask in masks])
    assert plane.tolist() == [[1, 0, 0], [3, 2, 2]]
    assert plane_boxes(plane, 3).tolist() == [[0, 0, 1, 2], [0, 1, 3, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize("height", [1, 2, 15, 16, 17, 48, 50])
@pytest.mark.parametrize("width", [1, 2, 33])
def test_bits_are_the_decoded_masks(height: int, width: int) -> None:
    """Among noise a full mask, an empty one and single pixels at both ends."""
    rng = np.random.default_rng([height, width])
    masks = rng.random((8, height, width)) < 0.5
    masks[1], masks[4:7] = True, False
    masks[5, 0, 0] = masks[6, -1, -1] = True
    plane = bit_plane([encode_mask(mask) for mask in masks])
    assert plane.flags["C_CONTIGUOUS"]
    for bit, mask in enumerate(masks):
        assert np.array_equal((plane >> bit) & 1, mask)


@pytest.mark.parametrize(
    "runs", [[0, 2, 4], [1, 0, 2, 3], [1, 0, 0, 2, 3], [6, 0], [0, 6], [0, 0, 2, 4], [2, 4, 0]]
)
def test_empty_runs_are_read_as_pycocotools_reads_them(runs: list[int]) -> None:
    rle = coco_mask.frPyObjects({"size": [3, 2], "counts": runs}, 3, 2)
    assert np.array_equal(bit_plane([rle]), coco_mask.decode(rle))


@pytest.mark.parametrize("count", [0, 1, 8, 9, 19])
@pytest.mark.parametrize("seed", range(3))
def test_every_mask_is_augmented_as_if_it_were_alone(count: int, seed: int) -> None:
    """Cropped, resized by Pillow and flipped, with the tight boxes the host finds."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    prepare_host()
    from detectron2.data import transforms
    from detectron2.structures import BitMasks

    size = (37 + seed * 20, 61)
    applied = transforms.TransformList(
        [
            transforms.CropTransform(3, 2, 50, 30),
            transforms.ResizeTransform(30, 50, *size),
            transforms.HFlipTransform(61),
        ]
    )
    rles = random_rles(count, 40, 60, seed)
    masks, boxes = augmented_masks(rles, size, applied.apply_segmentation)
    assert masks.shape == (count, *size)
    assert masks.dtype == bool
    for mask, rle in zip(masks, rles, strict=True):
        alone = applied.apply_segmentation(decode_mask(rle).astype(np.uint8))
        assert np.array_equal(mask, alone)
    host = BitMasks(masks).get_bounding_boxes().tensor.numpy()
    assert np.array_equal(boxes, host)
    assert boxes.dtype == host.dtype


def test_masks_of_different_sizes_are_refused() -> None:
    rles = [encode_mask(np.ones((2, 3), dtype=bool)), encode_mask(np.ones((3, 2), dtype=bool))]
    with pytest.raises(ValueError, match=r"masks of \[2, 3\] and \[3, 2\] pixels"):
        bit_plane(rles)


def test_a_mask_that_does_not_fill_its_size_is_refused() -> None:
    for counts in ("", "2", "24"):
        with pytest.raises(ValueError, match="RLE runs cover"):
            augmented_masks([{"size": [2, 2], "counts": counts}], (2, 2), lambda plane: plane)


@pytest.mark.parametrize("size", [[0, 3], [3, 0]])
def test_a_mask_without_pixels_is_refused(size: list[int]) -> None:
    with pytest.raises(ValueError, match="RLE runs cover 0 pixels"):
        bit_plane([{"size": size, "counts": "0"}])


@pytest.mark.parametrize("part", [np.s_[:1], np.s_[:, :1], np.s_[:3]])
def test_an_augmentation_to_another_size_is_refused(part: Any) -> None:
    rle = encode_mask(np.eye(4, dtype=bool))
    with pytest.raises(ValueError, match=r"pixels, their image \(4, 4\)"):
        augmented_masks([rle], (4, 4), lambda plane: plane[part])
