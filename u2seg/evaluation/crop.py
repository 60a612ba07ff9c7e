"""STEGO's crop: semantic metrics on a resized square from the middle of each image.

The published protocol of COCO-Stuff with 27 classes resizes photograph and labels to a short side
of 320 pixels, both by the nearest pixel, cuts the 320 x 320 pixels in the middle and lets the
model see that crop. Here predictions are of whole photographs, and true and predicted maps are
cropped alike; to let the model see crops, crop the photographs and the maps first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.files import PanopticSet, Predictions, check_shape
from u2seg.evaluation.truth import SEMANTIC, TrueImage, Truth
from u2seg.evaluation.truthview import TruthView


@dataclass(frozen=True)
class CroppedTruth(TruthView):
    """A truth of semantic classes on the square; ``sizes`` stay those before the crop.

    Args:
        side: Side of the square in pixels, see ``crop_map``.
    """

    side: int

    @property
    def tasks(self) -> frozenset[str]:
        """The semantic task: an instance that is cut is another instance."""
        return self.truth.tasks & {SEMANTIC}

    def read(self, image_id: int) -> TrueImage:
        """Return the cropped truth of an image; UserError as ``Truth.read``."""
        image = self.truth.read(image_id)
        ids = crop_map(image.ids, self.side)
        found, counts = np.unique(ids, return_counts=True)
        areas = dict(zip(found.tolist(), counts.tolist(), strict=True))
        segments = {i: replace(s, area=areas[i]) for i, s in image.segments.items() if i in areas}
        return TrueImage(ids, segments)


@dataclass(frozen=True)
class CroppedSet(PanopticSet):
    """Predicted panoptic maps on the square.

    Args:
        side: Side of the square in pixels.
    """

    side: int = 0

    def read_ids(self, image_id: int) -> npt.NDArray[np.int32]:
        """Return the cropped id map of an image; UserError as ``PanopticSet.read_ids``."""
        return crop_map(super().read_ids(image_id), self.side)

    def check_ids(self, image_id: int, found: Iterable[int], every: bool = False) -> None:
        """Raise UserError for an unknown id; a segment may have been cut off."""
        super().check_ids(image_id, found)


@dataclass(frozen=True)
class CroppedPredictions(Predictions):
    """Predictions on the square.

    Args:
        side: Side of the square in pixels.
    """

    side: int = 0

    def read_stuff(self, image_id: int, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return the cropped stuff map of an image; UserError as ``Predictions.read_stuff``."""
        stuff = super().read_stuff(image_id, self.panoptic.sizes[image_id])
        return crop_map(stuff, self.side)


def crop_side(truth: Truth) -> int:
    """Return the side of the square that a truth is seen on, through any views; 0 = whole."""
    while isinstance(truth, TruthView):
        if isinstance(truth, CroppedTruth):
            return truth.side
        truth = truth.truth
    return 0


def cropped(predicted: Predictions, truth: Truth) -> Predictions:
    """Return predictions as the truth needs them: on the square, if it is on one.

    Raises:
        UserError: if a predicted map declares another size than the truth's before the crop.
    """
    side = crop_side(truth)
    if not side:
        return predicted
    panoptic = predicted.panoptic
    for image_id in panoptic.segments:
        path = panoptic.path(image_id)
        check_shape(
            path, panoptic.sizes[image_id], truth.sizes[image_id], "the truth, before the crop, has"
        )
    maps = CroppedSet(**_values(panoptic), side=side)
    return CroppedPredictions(**{**_values(predicted), "panoptic": maps}, side=side)


def _values(record: PanopticSet | Predictions) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def crop_truth(truth: Truth, side: int) -> Truth:
    """Return a truth on the square.

    Raises:
        UserError: if the truth does not answer the semantic task.
    """
    if SEMANTIC not in truth.tasks:
        raise UserError(
            f"U2SEG.EVAL.CROP is {side}, but {truth.source} answers "
            f"{' and '.join(sorted(truth.tasks))}: only the semantic task is scored on crops, set "
            "it to 0"
        )
    return CroppedTruth(truth, side)


def crop_map(labels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return a label map resized to a short side and cut to a square from the middle.

    The short side becomes ``side``, the long one in proportion, rounded down; each pixel takes
    the label under its centre; of an odd remainder the larger part falls to the end, or, as
    Python rounds halves to even, to the start. So do STEGO (commit 10c5a06, ``get_transform``)
    and PiCIE with torchvision's ``Resize(320)`` and ``CenterCrop(320)`` on Pillow images.

    Args:
        labels: (H, W), any type.
        side: Short side and sides of the result, > 0.

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
