"""STEGO's crop: semantic metrics on a resized square from the middle of each image.

The published protocol of COCO-Stuff with 27 classes resizes photograph and labels to a short side
of 320 pixels, both by the nearest pixel, cuts the 320 x 320 pixels in the middle and lets the
model see that crop. Here predictions are of whole photographs, and true and predicted maps are
cropped alike; to let the model see crops, crop the photographs and the maps first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.truth.base import SEMANTIC, AnyTruth, TrueImage, Truth


@dataclass(frozen=True)
class Crop:
    """A ``View`` on the square of ``crop_map``; the sizes of the truth stay those before it."""

    side: int

    @property
    def tasks(self) -> frozenset[str]:
        """The semantic task: an instance that is cut is another instance."""
        return frozenset({SEMANTIC})

    def __call__(self, image: TrueImage) -> TrueImage:
        """Return the cropped truth of an image."""
        ids = crop_map(image.ids, self.side)
        areas = dict(
            zip(*(side.tolist() for side in np.unique(ids, return_counts=True)), strict=True)
        )
        segments = {i: replace(s, area=areas[i]) for i, s in image.segments.items() if i in areas}
        return TrueImage(ids, segments)


def crop_truth(truth: AnyTruth, side: int) -> AnyTruth:
    """Return a truth on the square; UserError if it does not answer the semantic task."""
    if SEMANTIC not in truth.tasks:
        raise UserError(
            f"U2SEG.EVAL.CROP is {side}, but {truth.source} answers "
            f"{' and '.join(sorted(truth.tasks))}: only the semantic task is scored on crops, set "
            "it to 0"
        )
    return replace(truth, views=(*truth.views, Crop(side)))


def crop_side(truth: Truth) -> int:
    """Return the side of the square that a truth is seen on; 0 = whole images."""
    return next((view.side for view in truth.views if isinstance(view, Crop)), 0)


def crop_map(labels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return a label map resized to a short side and cut to a square from the middle.

    The short side becomes ``side``, the long one in proportion, rounded down; each pixel takes
    the label under its centre; of an odd remainder the larger part falls to the end, or, as
    Python rounds halves to even, to the start. So do STEGO (commit 10c5a06, ``get_transform``)
    and PiCIE with torchvision's ``Resize(320)`` and ``CenterCrop(320)`` on Pillow images.

    Returns:
        (side, side), of the same type.

    Examples:
        >>> crop_map(np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]), 2).tolist()
        [[3, 4], [9, 10]]
        >>> crop_map(np.array([[1, 2, 3, 4]]), 2).tolist()
        [[2, 3], [2, 3]]
    """
    height, width = labels.shape
    short = min(height, width)
    rows = _nearest(height, side * height // short)
    columns = _nearest(width, side * width // short)
    return labels[np.ix_(_middle(rows, side), _middle(columns, side))]


def _nearest(old: int, new: int) -> npt.NDArray[np.int64]:
    """Return which of ``old`` pixels each of ``new`` takes: the one under its centre.

    Centres are summed up in steps, as Pillow does: where one falls on the border of two pixels,
    the rounding of that sum decides.
    """
    steps = np.full(new, old / new)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)


def _middle(indices: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.int64]:
    start = round((len(indices) - side) / 2)
    return indices[start : start + side]
