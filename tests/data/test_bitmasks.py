"""Masks as bits of a map: the same pixels and boxes as one mask after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from u2seg.compat import prepare_host
from u2seg.data.mapper import augmented_masks
from u2seg.structures.masks import decode_mask, encode_mask

pytestmark = pytest.mark.d2


@pytest.mark.parametrize("count", [0, 1, 8, 9, 19])
def test_every_mask_is_augmented_as_if_it_were_alone(count: int) -> None:
    """Cropped, resized by Pillow and flipped, with the tight boxes the host finds."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    prepare_host()
    from detectron2.data import transforms
    from detectron2.structures import BitMasks

    size, rng = (37, 61), np.random.default_rng(count)
    applied = transforms.TransformList(
        [
            transforms.CropTransform(3, 2, 50, 30),
            transforms.ResizeTransform(30, 50, *size),
            transforms.HFlipTransform(61),
        ]
    )
    rles = [encode_mask((rng.random((40, 60)) < 0.5) & (n != 2)) for n in range(count)]
    masks, boxes = augmented_masks(rles, size, applied.apply_segmentation)
    assert masks.shape == (count, *size)
    assert masks.dtype == bool
    for mask, rle in zip(masks, rles, strict=True):
        alone = applied.apply_segmentation(decode_mask(rle).astype(np.uint8))
        assert np.array_equal(mask, alone)
    host = BitMasks(masks).get_bounding_boxes().tensor.numpy()
    assert np.array_equal(boxes, host)
    assert boxes.dtype == host.dtype


@pytest.mark.parametrize(
    ("rles", "told"),
    [
        ([{"size": [2, 3], "counts": "06"}, {"size": [3, 2], "counts": "06"}], "in one image"),
        ([{"size": [2, 2], "counts": "24"}], "RLE runs cover"),
        ([{"size": [0, 3], "counts": "0"}], "RLE runs cover 0 pixels"),
    ],
)
def test_garbled_masks_are_refused(rles: list[Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        augmented_masks(rles, (2, 2), lambda plane: plane)


@pytest.mark.parametrize("part", [np.s_[:1], np.s_[:, :1], np.s_[:3]])
def test_an_augmentation_to_another_size_is_refused(part: Any) -> None:
    rle = encode_mask(np.ones((4, 4), dtype=bool))
    with pytest.raises(ValueError, match="masks became"):
        augmented_masks([rle], (4, 4), lambda plane: plane[part])
