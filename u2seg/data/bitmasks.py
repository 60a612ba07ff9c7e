"""Augment many masks at once: eight of them are the bits of one map.

Augmentations treat labels by choosing pixels, never by mixing them, so the bits of a chosen pixel
are the pixels of its masks. A map of bits costs about as much as one mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.structures.masks import Rle, check_rle

Plane = npt.NDArray[np.uint8]


def augmented_masks(
    rles: Sequence[Rle], size: tuple[int, int], augment: Callable[[Plane], Plane]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return n masks after an augmentation, and their tight boxes.

    Args:
        rles: n masks, all of one size H x W.
        size: (h, w) of the augmented image.
        augment: (H, W) uint8 -> (h, w) uint8; chooses pixels, as ``apply_segmentation`` of
            Detectron2's transforms does.

    Returns:
        (n, h, w) bool and (n, 4) x0, y0, x1, y1, where x1 and y1 are exclusive; the box of an
        empty mask is 0, 0, 0, 0.

    Raises:
        ValueError: as ``check_rle``, if the sizes differ, or ``augment`` returns another size.

    Examples:
        >>> rle = {"size": [1, 3], "counts": "21"}
        >>> masks, boxes = augmented_masks([rle], (1, 3), lambda plane: plane[:, ::-1])
        >>> masks.astype(int).tolist(), boxes.tolist()
        ([[[1, 0, 0]]], [[0.0, 0.0, 1.0, 1.0]])
    """
    masks = np.empty((len(rles), *size), dtype=bool)
    boxes = np.zeros((len(rles), 4), dtype=np.float32)
    part = np.empty(size, dtype=np.uint8)  # used again: fresh memory costs more than the work
    for first in range(0, len(rles), 8):
        plane = augment(_bits(rles[first : first + 8]))
        if plane.shape != size:  # NumPy would repeat a single row or column
            raise ValueError(f"masks became {plane.shape} pixels, their image {size}")
        lines: tuple[Any, ...] = tuple(np.bitwise_or.reduce(plane, axis=axis) for axis in (0, 1))
        for bit in range(len(rles[first : first + 8])):
            np.bitwise_and(plane, np.uint8(1 << bit), out=part)
            np.not_equal(part, 0, out=masks[first + bit])
            x, y = (np.flatnonzero(line & (1 << bit)) for line in lines)
            if x.size:
                boxes[first + bit] = x[0], y[0], x[-1] + 1, y[-1] + 1
    return masks, boxes


def _bits(rles: Sequence[Rle]) -> Plane:
    """Return up to eight masks of one size as an (H, W) map: mask k is bit 2^k."""
    for rle in rles:
        check_rle(rle)
        if list(rle["size"]) != list(rles[0]["size"]):
            raise ValueError(f"masks of {rles[0]['size']} and {rle['size']} pixels in one image")
    height, width = rles[0]["size"]
    plane = np.zeros((height, width), dtype=np.uint8, order="F")  # as the codes run
    for rle in reversed(rles):
        np.left_shift(plane, 1, out=plane)
        np.bitwise_or(plane, coco_mask.decode(rle), out=plane)
    return np.ascontiguousarray(plane)
