"""Named sets of classes, and a truth seen through one.

A set collects the classes of a vocabulary, i.e. of a family of data sets, into its own; what it
leaves out is void. The classes of a truth are recognised by their names, because files number
them in several ways. All names and ids are in ``classes.yaml``, with their sources.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from u2seg.errors import UserError
from u2seg.evaluation.metrics.panoptic import joined_segments, merge_targets
from u2seg.evaluation.truth.base import INSTANCES, PANOPTIC, AnyTruth, TrueImage, Truth

TRUTH = "truth"
"""Name of the choice that keeps the classes of the truth."""
NO_CLASS = frozenset({"other", "unlabeled", "void", "ignore", "licenseplate"})
"""Categories, as ``plain_name``, that stand for no class in any data set."""


@dataclass(frozen=True)
class SetClass:
    """A class of a set: its id > 0, and the ids of the vocabulary that it collects."""

    id: int
    name: str
    isthing: bool
    members: tuple[int, ...]


@dataclass(frozen=True)
class ClassSet:
    """A set of classes, things first, and what may be scored over it.

    ``vocabulary`` has id -> name of every class that a truth may have; empty = any. Every thing, of
    the truth and of the prediction, has the class ``every_thing``; 0 = things are told apart.
    """

    name: str
    about: str
    tasks: frozenset[str]
    vocabulary: Mapping[int, str]
    classes: tuple[SetClass, ...]
    every_thing: int = 0

    @property
    def names(self) -> dict[int, str]:
        """Class id -> name, things first."""
        return {c.id: c.name for c in self.classes}

    @property
    def things(self) -> tuple[int, ...]:
        """Ids of thing classes."""
        return tuple(c.id for c in self.classes if c.isthing)

    @property
    def stuff(self) -> tuple[int, ...]:
        """Ids of stuff classes."""
        return tuple(c.id for c in self.classes if not c.isthing)

    def collect(
        self, names: Mapping[int, str], things: Collection[int], who: str
    ) -> dict[int, int]:
        """Return class id of a truth -> class id of the set; a class that is void is left out.

        UserError, of ``who``, if a name is none of the vocabulary, or no class is left.

        Examples:
            >>> class_sets()["coco-95"].collect({5: "cat", 9: "sea", 10: "river"}, {5}, "a.json")
            {5: 17, 9: 210, 10: 210}
        """
        if not self.vocabulary:
            return {i: self.every_thing for i in names if i in things}
        ids = {plain_name(name): i for i, name in self.vocabulary.items()}
        owner = {member: c.id for c in self.classes for member in c.members}
        found = {}
        for i, name in names.items():
            plain = plain_name(name)
            if plain not in ids and plain not in NO_CLASS:
                close = difflib.get_close_matches(plain, ids, n=1)
                hint = f" (the nearest is {self.vocabulary[ids[close[0]]]!r})" if close else ""
                raise UserError(
                    f"{who}: class {i} is {name!r}, which {self.name} ({self.about}) does not know"
                    f"{hint}: choose another class set, or {TRUTH!r} for the classes of the truth"
                )
            if ids.get(plain) in owner:
                found[i] = owner[ids[plain]]
        if not found:
            raise UserError(
                f"{who} has none of the {len(self.classes)} classes of {self.name} "
                f"({self.about}): choose another class set, or {TRUTH!r} for its own classes"
            )
        return found


def plain_name(name: str) -> str:
    """Return a name in small letters and digits alone.

    Examples:
        >>> plain_name("Dining-Table")
        'diningtable'
    """
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def vocabulary(name: str) -> dict[int, str]:
    """Return id -> name of every class of ``coco``, ``cityscapes``, ``voc`` or ``camvid``."""
    return {
        first + place: word.strip()
        for first, words in _data()["vocabularies"][name].items()
        for place, word in enumerate(words.split(","))
    }


@cache
def class_sets() -> dict[str, ClassSet]:
    """Return name -> set."""
    return {name: _class_set(name, row) for name, row in _data()["sets"].items()}


def find_class_set(name: str) -> ClassSet:
    """Return a set by name; UserError if there is none, with the known names and the closest."""
    if name not in class_sets():
        known = [TRUTH, *class_sets()]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown class set {name!r}: known are {', '.join(known)}{hint}")
    return class_sets()[name]


@cache
def _data() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("classes.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _class_set(name: str, row: Mapping[str, Any]) -> ClassSet:
    strange = set(_ids(row.get("without", "")))
    known = vocabulary(row["vocabulary"]) if "vocabulary" in row else {}
    names = {i: word for i, word in known.items() if i not in strange}
    classes: list[SetClass] = []
    for kind in ("things", "stuff"):
        given = row.get(kind, {})
        groups = given if isinstance(given, dict) else {i: (names[i], str(i)) for i in _ids(given)}
        classes += [SetClass(i, n, kind == "things", _ids(m)) for i, (n, m) in groups.items()]
    tasks = frozenset(row["tasks"])
    return ClassSet(name, row["about"], tasks, names, tuple(classes), row.get("every_thing", 0))


def _ids(text: str) -> tuple[int, ...]:
    """Return the ids of ``"1-3, 7"``: 1, 2, 3, 7."""
    ids: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        ids += range(int(first), int(last or first) + 1)
    return tuple(ids)


@dataclass(frozen=True)
class ClassView:
    """A ``View`` on the classes of a set: class id of the truth -> of the set, all others void."""

    class_set: ClassSet
    collected: dict[int, int]
    merge_stuff: bool = False

    @property
    def tasks(self) -> frozenset[str]:
        """What the set allows."""
        return self.class_set.tasks

    def __call__(self, image: TrueImage) -> TrueImage:
        """Return an image with the classes of the set."""
        segments = {
            i: replace(s, category=self.collected[s.category])
            for i, s in image.segments.items()
            if s.category in self.collected
        }
        stuff = self.class_set.stuff if self.merge_stuff else ()
        target = merge_targets(segments, stuff)
        ids = _renumbered(image.ids, {i: target.get(i, 0) for i in image.segments})
        return TrueImage(ids, joined_segments(segments, target), self._instances(image.instances))

    def _instances(self, records: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if records is None:
            return None
        things = set(self.class_set.things)
        mapped = [{**r, "category_id": self.collected.get(r["category_id"], 0)} for r in records]
        return [r for r in mapped if r["category_id"] in things]


def with_classes(truth: AnyTruth, class_set: ClassSet, merge_stuff: bool = False) -> AnyTruth:
    """Return a truth whose classes, recognised by name, are those of a set; the rest is void.

    With ``merge_stuff`` segments of one stuff class in an image become one. U2Seg's released
    evaluation does not do so (commit 8e9c709): of several segments only one can be matched. Merging
    lies nearer to the definition of stuff and gives other numbers.
    """
    collected = class_set.collect(truth.names, set(truth.things), str(truth.source))
    view = ClassView(class_set, collected, merge_stuff)
    seen = replace(
        truth,
        names=class_set.names,
        things=class_set.things,
        stuff=class_set.stuff,
        views=(*truth.views, view),
    )
    if not seen.tasks:
        ours, theirs = (" and ".join(sorted(side)) for side in (truth.tasks, class_set.tasks))
        raise UserError(
            f"{truth.source} answers {ours}, the class set {class_set.name} is for {theirs}: "
            "choose another class set or another form of the truth"
        )
    if seen.tasks & {PANOPTIC, INSTANCES}:
        _check_kinds(truth, view)
    return seen


def class_view(truth: Truth) -> ClassView | None:
    """Return the view through a class set that a truth has; None without one."""
    return next((view for view in truth.views if isinstance(view, ClassView)), None)


def _check_kinds(truth: Truth, view: ClassView) -> None:
    """Raise UserError if a thing of the set is stuff in the truth, or the reverse."""
    for kind, other in (("things", "stuff"), ("stuff", "things")):
        for i, target in view.collected.items():
            if i in getattr(truth, kind) and target in getattr(view.class_set, other):
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
