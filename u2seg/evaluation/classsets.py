"""Named sets of classes that a truth is scored over.

A set collects the classes of a vocabulary, i.e. of a family of data sets, into its own; what it
leaves out is void. The classes of a truth are recognised by their names, because files number
them in several ways.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from u2seg.errors import UserError
from u2seg.evaluation import coco_ids as coco
from u2seg.evaluation import other_ids as other
from u2seg.evaluation.truth import INSTANCES, SEMANTIC, TASKS

TRUTH = "truth"
"""Name of the choice that keeps the classes of the truth."""
NO_CLASS = frozenset({"other", "unlabeled", "void", "ignore", "licenseplate"})
"""Categories, as ``plain_name``, that stand for no class in any data set."""
FIRST_GROUP = 201
"""Id of the first of the 15 super-categories of stuff; COCO's own ids end at 200."""


@dataclass(frozen=True)
class SetClass:
    """A class of a set.

    Args:
        id: Its id, > 0.
        name: Its name.
        isthing: Whether its instances are told apart.
        members: Ids of the vocabulary that it collects.
    """

    id: int
    name: str
    isthing: bool
    members: tuple[int, ...]


@dataclass(frozen=True)
class ClassSet:
    """A set of classes.

    Args:
        name: What users call it.
        about: What it holds, in a line.
        tasks: What may be scored over it, a subset of ``truth.TASKS``.
        vocabulary: Id -> name of every class that a truth may have; empty = any. What no class
            collects is void.
        classes: The classes, things first.
        every_thing: Id of the class that every thing, of the truth and of the prediction, has
            by definition; 0 = things are told apart.
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
        """Return which class of the set each class of a truth belongs to.

        Args:
            names: Class id of the truth -> name.
            things: Class ids of the truth that are things.
            who: The truth, for messages.

        Returns:
            Class id of the truth -> class id of the set; a class that is void is left out.

        Raises:
            UserError: if a name is none of the vocabulary, or no class is left.

        Examples:
            >>> CLASS_SETS["coco-95"].collect({5: "cat", 9: "sea", 10: "river"}, {5}, "a.json")
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
                raise UserError(self._stranger(i, name, ids, who))
            if ids.get(plain) in owner:
                found[i] = owner[ids[plain]]
        if not found:
            raise UserError(
                f"{who} has none of the {len(self.classes)} classes of {self.name} "
                f"({self.about}): choose another class set, or {TRUTH!r} for its own classes"
            )
        return found

    def _stranger(self, identity: int, name: str, ids: Mapping[str, int], who: str) -> str:
        close = difflib.get_close_matches(plain_name(name), ids, n=1)
        hint = f" (the nearest is {self.vocabulary[ids[close[0]]]!r})" if close else ""
        return (
            f"{who}: class {identity} is {name!r}, which {self.name} ({self.about}) does not "
            f"know{hint}: choose another class set, or {TRUTH!r} for the classes of the truth"
        )


def plain_name(name: str) -> str:
    """Return a name in small letters and digits alone.

    Examples:
        >>> plain_name("Dining-Table")
        'diningtable'
    """
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def find_class_set(name: str) -> ClassSet:
    """Return a set by name.

    Raises:
        UserError: if there is none; the message lists the known names and the closest.
    """
    if name not in CLASS_SETS:
        known = [TRUTH, *CLASS_SETS]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown class set {name!r}: known are {', '.join(known)}{hint}")
    return CLASS_SETS[name]


def _single(ids: Collection[int], names: Mapping[int, str], isthing: bool) -> list[SetClass]:
    return [SetClass(i, names[i], isthing, (i,)) for i in ids]


def _groups(
    first: int, groups: Mapping[str, tuple[int, ...]], isthing: bool = False
) -> list[SetClass]:
    return [SetClass(i, n, isthing, m) for i, (n, m) in enumerate(groups.items(), start=first)]


def _coco(
    name: str,
    about: str,
    tasks: Collection[str],
    classes: list[SetClass],
    strange: Collection[int] = (),
) -> ClassSet:
    """Return a set over COCO's ids but the strange ones."""
    names = {i: n for i, n in coco.NAMES.items() if i not in strange}
    return ClassSet(name, about, frozenset(tasks), names, tuple(classes))


def _cityscapes(name: str, about: str, unscored: frozenset[int]) -> ClassSet:
    things = [i for i in other.CITYSCAPES_THINGS if i not in unscored]
    void = other.CITYSCAPES_VOID | unscored
    stuff = [i for i in other.CITYSCAPES if i not in {*other.CITYSCAPES_THINGS, *void}]
    classes = [
        *_single(things, other.CITYSCAPES, True),
        *_single(stuff, other.CITYSCAPES, False),
    ]
    return ClassSet(name, about, TASKS, other.CITYSCAPES, tuple(classes))


def _stuff27() -> list[SetClass]:
    """Return STEGO's 15 stuff classes; classes that only COCO panoptic has join their kin."""
    merged = {n: tuple(i for i in ids if i > coco.NUM_FINE) for n, ids in coco.STUFF_GROUPS.items()}
    return _groups(13, {n: ids + merged[n] for n, ids in coco.FINE_STUFF_GROUPS.items()})


def _known() -> list[ClassSet]:
    # Stuff of one data set cannot be told from the other's, but for what both have.
    fine = set(coco.FINE_STUFF) - set(coco.PANOPTIC_STUFF)
    merged = set(coco.PANOPTIC_STUFF) - set(coco.FINE_STUFF)
    things80 = _single(coco.THINGS, coco.NAMES, True)
    panoptic = _single(coco.PANOPTIC_STUFF, coco.NAMES, False)
    groups15 = _groups(FIRST_GROUP, coco.STUFF_GROUPS)
    any_thing = SetClass(1, "things", True, coco.THINGS)
    voc20 = _single(range(1, other.VOC_BACKGROUND), other.VOC, True)
    background = _single([other.VOC_BACKGROUND], other.VOC, False)
    street = [i for i in other.CAMVID if i not in other.CAMVID_THINGS]
    camvid = [
        *_single(other.CAMVID_THINGS, other.CAMVID, True),
        *_single(street, other.CAMVID, False),
    ]
    all_things = _coco(
        "coco-16",
        "all things as one class, 15 super-categories of stuff",
        {SEMANTIC},
        [any_thing, *groups15],
        fine,
    )
    return [
        _coco(
            "coco-133", "COCO panoptic: 80 things, 53 stuff", TASKS, [*things80, *panoptic], fine
        ),
        _coco(
            "coco-95",
            "80 things, 15 super-categories of stuff",
            TASKS,
            [*things80, *groups15],
            fine,
        ),
        replace(all_things, every_thing=any_thing.id),
        _coco("coco-80", "COCO's 80 things", {INSTANCES}, things80),
        _coco(
            "cocostuff-27",
            "12 super-categories of things, 15 of stuff",
            {SEMANTIC},
            [*_groups(1, coco.THING_GROUPS, True), *_stuff27()],
        ),
        _coco(
            "cocostuff-171",
            "COCO-Stuff: 80 things, 91 stuff",
            {SEMANTIC},
            [*things80, *_single(coco.FINE_STUFF, coco.NAMES, False)],
            merged,
        ),
        _cityscapes("cityscapes-27", "10 things, 17 stuff: all labels but void", frozenset()),
        _cityscapes("cityscapes-19", "8 things, 11 stuff", other.CITYSCAPES_UNSCORED),
        ClassSet(
            "voc-20",
            "Pascal VOC's 20 things",
            frozenset({INSTANCES}),
            other.VOC,
            tuple(voc20),
        ),
        ClassSet(
            "voc-21",
            "Pascal VOC's 20 things and the background",
            frozenset({SEMANTIC}),
            other.VOC,
            (*voc20, *background),
        ),
        ClassSet("camvid-11", "11 classes", frozenset({SEMANTIC}), other.CAMVID, tuple(camvid)),
        ClassSet(
            "uvo",
            "every thing is an object",
            frozenset({INSTANCES}),
            {},
            (SetClass(1, "object", True, ()),),
            every_thing=1,
        ),
    ]


CLASS_SETS: dict[str, ClassSet] = {one.name: one for one in _known()}
"""Name -> set."""
