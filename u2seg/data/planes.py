"""Augment many masks at once: eight of them are the bits of one map.

Augmentations treat labels by choosing pixels, never by mixing them, so the bits of a chosen pixel
are the pixels of its masks. A map of bits costs about as much as one mask.

Their run-length codes are undone for all eight together: every end of a run flips a bit, and each
pixel is the exclusive or of all flips up to it.

Shapes: n masks, H x W pixels of the photograph, h x w of the augmented image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from u2seg.structures.masks import Rle, check_rle, rle_runs

Plane = npt.NDArray[np.uint8]
BITS = 8
"""Masks in a map."""
_BLOCK = 16
"""Rows that are accumulated one by one; sums of blocks follow."""


def bit_plane(rles: Sequence[Rle]) -> Plane:
    """Return up to eight masks as bits: mask k is 2^k.

    Args:
        rles: At least one, all of one size.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: as ``check_rle``, or if the sizes differ.

    Examples:
        >>> bit_plane([{"size": [1, 3], "counts": "12"}, {"size": [1, 3], "counts": "21"}]).tolist()
        [[0, 1, 3]]
    """
    height, width = rles[0]["size"]
    steps = -(-height // _BLOCK)
    flips = np.zeros((steps * _BLOCK, width), dtype=np.uint8)
    for bit, rle in enumerate(rles):
        if list(rle["size"]) != [height, width]:
            raise ValueError(f"masks of {[height, width]} and {rle['size']} pixels in one image")
        ends = _run_ends(rle)
        # a pixel may end two runs, one of them empty
        np.bitwise_xor.at(flips.reshape(-1), ends % height * width + ends // height, 1 << bit)
    _accumulate(flips.reshape(steps, _BLOCK, width))
    # A column goes on as the one before has ended.
    flips[:, 1:] ^= np.bitwise_xor.accumulate(flips[-1, :-1])
    return flips[:height]


def _accumulate(rows: npt.NDArray[np.uint8]) -> None:
    """Put in place of each row of (steps, block, W) the exclusive or of all up to it.

    NumPy's own goes pixel by pixel; here it is whole rows.
    """
    for place in range(1, rows.shape[1]):
        rows[:, place] ^= rows[:, place - 1]
    before = np.bitwise_xor.accumulate(rows[:-1, -1], axis=0)
    rows[1:] ^= before[:, None]


def _run_ends(rle: Rle) -> npt.NDArray[np.int64]:
    """Return the pixels before which a mask begins or ends, counted column by column."""
    height, width = rle["size"]
    ends: npt.NDArray[np.int64] = np.cumsum(rle_runs(rle["counts"]))
    if not ends.size or ends[-1] != height * width or min(height, width) < 1:
        check_rle(rle)
    inside: npt.NDArray[np.int64] = ends[ends < height * width]
    return inside


def plane_boxes(plane: Plane, count: int) -> npt.NDArray[np.float32]:
    """Return the tight boxes of the first masks of a map, (count, 4) x0, y0, x1, y1.

    x1 and y1 are exclusive; the box of an empty mask is 0, 0, 0, 0.

    Examples:
        >>> plane_boxes(np.array([[0, 0, 0], [0, 1, 3]], np.uint8), 2).tolist()
        [[1.0, 1.0, 3.0, 2.0], [2.0, 1.0, 3.0, 2.0]]
    """
    boxes = np.zeros((count, 4), dtype=np.float32)
    columns, rows = (np.bitwise_or.reduce(plane, axis=axis) for axis in (0, 1))
    for bit in range(count):
        x, y = (np.flatnonzero(line & (1 << bit)) for line in (columns, rows))
        if x.size:
            boxes[bit] = x[0], y[0], x[-1] + 1, y[-1] + 1
    return boxes


def augmented_masks(
    rles: Sequence[Rle], size: tuple[int, int], augment: Callable[[Plane], Plane]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return masks after an augmentation, and their tight boxes.

    Args:
        rles: n masks, all of one size.
        size: (h, w) of the augmented image.
        augment: (H, W) uint8 -> (h, w) uint8; chooses pixels, as ``apply_segmentation`` of
            Detectron2's transforms does.

    Returns:
        (n, h, w) bool and (n, 4) x0, y0, x1, y1 as of ``plane_boxes``.

    Raises:
        ValueError: as ``bit_plane``, or if ``augment`` returns another size.

    Examples:
        >>> rle = {"size": [1, 3], "counts": "21"}
        >>> masks, boxes = augmented_masks([rle], (1, 3), lambda plane: plane[:, ::-1])
        >>> masks.astype(int).tolist(), boxes.tolist()
        ([[[1, 0, 0]]], [[0.0, 0.0, 1.0, 1.0]])
    """
    masks = np.empty((len(rles), *size), dtype=bool)
    part = np.empty(size, dtype=np.uint8)  # used again: fresh memory costs more than the work
    boxes = np.zeros((len(rles), 4), dtype=np.float32)
    for first in range(0, len(rles), BITS):
        some = rles[first : first + BITS]
        plane = augment(bit_plane(some))
        if plane.shape != size:  # NumPy would repeat a single row or column
            raise ValueError(f"masks became {plane.shape} pixels, their image {size}")
        boxes[first : first + BITS] = plane_boxes(plane, len(some))
        for bit in range(len(some)):
            np.bitwise_and(plane, np.uint8(1 << bit), out=part)
            np.not_equal(part, 0, out=masks[first + bit])
    return masks, boxes
