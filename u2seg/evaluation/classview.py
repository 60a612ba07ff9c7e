"""A truth seen through a set of classes, and through STEGO's crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.classsets import ClassSet
from u2seg.evaluation.panoptic import TruthSegment
from u2seg.evaluation.truth import INSTANCES, PANOPTIC, SEMANTIC, TrueImage, Truth

Segments = dict[int, TruthSegment]


@dataclass(frozen=True)
class ClassView:
    """A truth whose classes are those of a set; a ``Truth`` itself.

    Args:
        truth: The truth.
        class_set: The set.
        collected: Class id of the truth -> class id of the set; all others are void.
        merge_stuff: Whether the segments of one stuff class in an image are one segment.
    """

    truth: Truth
    class_set: ClassSet
    collected: dict[int, int]
    merge_stuff: bool = False

    @property
    def source(self) -> Path:
        """The file or folder of the truth."""
        return self.truth.source

    @property
    def names(self) -> Mapping[int, str]:
        """Class id -> name."""
        return self.class_set.names

    @property
    def things(self) -> tuple[int, ...]:
        """Ids of thing classes."""
        return self.class_set.things

    @property
    def stuff(self) -> tuple[int, ...]:
        """Ids of stuff classes."""
        return self.class_set.stuff

    @property
    def stems(self) -> Mapping[int, str]:
        """Image id -> relative name without suffix."""
        return self.truth.stems

    @property
    def sizes(self) -> Mapping[int, tuple[int, int]]:
        """Image id -> (H, W)."""
        return self.truth.sizes

    @property
    def tasks(self) -> frozenset[str]:
        """What both the truth and the set allow."""
        return self.truth.tasks & self.class_set.tasks

    def path(self, image_id: int) -> Path:
        """Return the file of an image."""
        return self.truth.path(image_id)

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as the truth itself."""
        image = self.truth.read(image_id)
        segments = {
            i: replace(s, category=self.collected[s.category])
            for i, s in image.segments.items()
            if s.category in self.collected
        }
        target = _merged(segments, self.stuff) if self.merge_stuff else {i: i for i in segments}
        ids = _renumbered(image.ids, {i: target.get(i, 0) for i in image.segments})
        return TrueImage(ids, _joined(segments, target), self._instances(image.instances))

    def _instances(self, records: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if records is None:
            return None
        things = set(self.things)
        mapped = [
            {**r, "category_id": self.collected[r["category_id"]]}
            for r in records
            if r["category_id"] in self.collected
        ]
        return [r for r in mapped if r["category_id"] in things]


def with_classes(truth: Truth, class_set: ClassSet, merge_stuff: bool = False) -> ClassView:
    """Return a truth whose classes are those of a set.

    Args:
        truth: The truth; its classes are recognised by their names.
        class_set: The set. What none of its classes collects becomes void.
        merge_stuff: Segments that belong to one stuff class in an image become one. U2Seg's
            released evaluation does not do so (commit 8e9c709): of several segments only one can
            be matched. Merging lies nearer to the definition of stuff and gives other numbers.

    Raises:
        UserError: if a class of the truth is unknown to the set, or nothing can be scored.
    """
    collected = class_set.collect(truth.names, set(truth.things), str(truth.source))
    view = ClassView(truth, class_set, collected, merge_stuff)
    if not view.tasks:
        raise UserError(
            f"{truth.source} answers {_words(truth.tasks)}, the class set {class_set.name} is for "
            f"{_words(class_set.tasks)}: choose another class set or another form of the truth"
        )
    if view.tasks & {PANOPTIC, INSTANCES}:
        _check_kinds(truth, view)
    return view


def _words(tasks: frozenset[str]) -> str:
    return " and ".join(sorted(tasks))


def _check_kinds(truth: Truth, view: ClassView) -> None:
    """Raise UserError if a thing of the set is stuff in the truth, or the reverse."""
    for kind, other in (("things", "stuff"), ("stuff", "things")):
        for i, target in view.collected.items():
            if i in getattr(truth, kind) and target in getattr(view, other):
                raise UserError(
                    f"{truth.source}: class {i} ({truth.names[i]}) is among the {kind}, the class "
                    f"set {view.class_set.name} has it among the {other}: mend 'isthing', or "
                    "choose another class set"
                )


def _merged(segments: Segments, stuff: tuple[int, ...]) -> dict[int, int]:
    """Return segment id -> id of the first segment of its class, for stuff; things keep theirs."""
    first: dict[int, int] = {}
    return {
        i: first.setdefault(s.category, i) if s.category in stuff and not s.crowd else i
        for i, s in segments.items()
    }


def _joined(segments: Segments, target: Mapping[int, int]) -> Segments:
    joined: Segments = {}
    for i, segment in segments.items():
        before = joined.get(target[i])
        area = segment.area + (before.area if before else 0)
        joined[target[i]] = replace(segment, area=area)
    return joined


def _renumbered(ids: npt.NDArray[np.int32], target: Mapping[int, int]) -> npt.NDArray[np.int32]:
    changed = {old: new for old, new in target.items() if old != new}
    if not changed:
        return ids
    result = ids.copy()
    for old, new in changed.items():
        result[ids == old] = new
    return result


@dataclass(frozen=True)
class CroppedTruth:
    """A truth of semantic classes on a resized square from the middle; a ``Truth`` itself.

    Args:
        truth: The truth.
        side: Side of the square in pixels, see ``crop_map``.
    """

    truth: Truth
    side: int

    @property
    def source(self) -> Path:
        """The file or folder of the truth."""
        return self.truth.source

    @property
    def names(self) -> Mapping[int, str]:
        """Class id -> name."""
        return self.truth.names

    @property
    def things(self) -> tuple[int, ...]:
        """Ids of thing classes."""
        return self.truth.things

    @property
    def stuff(self) -> tuple[int, ...]:
        """Ids of stuff classes."""
        return self.truth.stuff

    @property
    def stems(self) -> Mapping[int, str]:
        """Image id -> relative name without suffix."""
        return self.truth.stems

    @property
    def sizes(self) -> Mapping[int, tuple[int, int]]:
        """Image id -> (H, W) before the crop: predictions are of whole photographs."""
        return self.truth.sizes

    @property
    def tasks(self) -> frozenset[str]:
        """The semantic task: an instance that is cut is another instance."""
        return self.truth.tasks & {SEMANTIC}

    def path(self, image_id: int) -> Path:
        """Return the file of an image."""
        return self.truth.path(image_id)

    def read(self, image_id: int) -> TrueImage:
        """Return the cropped truth of an image; UserError as the truth itself."""
        image = self.truth.read(image_id)
        ids = crop_map(image.ids, self.side)
        found, counts = np.unique(ids, return_counts=True)
        areas = dict(zip(found.tolist(), counts.tolist(), strict=True))
        segments = {i: replace(s, area=areas[i]) for i, s in image.segments.items() if i in areas}
        return TrueImage(ids, segments)


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
