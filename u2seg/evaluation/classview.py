"""A truth seen through a set of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.classsets import ClassSet
from u2seg.evaluation.segments import joined_segments, merge_targets
from u2seg.evaluation.truth import INSTANCES, PANOPTIC, TrueImage, Truth
from u2seg.evaluation.truthview import TruthView


@dataclass(frozen=True)
class ClassView(TruthView):
    """A truth whose classes are those of a set; a ``Truth`` itself.

    Args:
        class_set: The set.
        collected: Class id of the truth -> class id of the set; all others are void.
        merge_stuff: Whether the segments of one stuff class in an image are one segment.
    """

    truth: Truth
    class_set: ClassSet
    collected: dict[int, int]
    merge_stuff: bool = False

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
    def tasks(self) -> frozenset[str]:
        """What both the truth and the set allow."""
        return self.truth.tasks & self.class_set.tasks

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as the truth itself."""
        image = self.truth.read(image_id)
        segments = {
            i: replace(s, category=self.collected[s.category])
            for i, s in image.segments.items()
            if s.category in self.collected
        }
        target = (
            merge_targets(segments, self.stuff) if self.merge_stuff else {i: i for i in segments}
        )
        ids = _renumbered(image.ids, {i: target.get(i, 0) for i in image.segments})
        return TrueImage(ids, joined_segments(segments, target), self._instances(image.instances))

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


def _renumbered(ids: npt.NDArray[np.int32], target: Mapping[int, int]) -> npt.NDArray[np.int32]:
    changed = {old: new for old, new in target.items() if old != new}
    if not changed:
        return ids
    result = ids.copy()
    for old, new in changed.items():
        result[ids == old] = new
    return result
