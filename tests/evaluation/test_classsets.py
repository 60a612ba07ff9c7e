"""Class sets: counts, members, disjointness, and COCO's own table of super-categories."""

from __future__ import annotations

import json

import pytest

from tests.shared import SHARED, needs_shared
from u2seg.errors import UserError
from u2seg.evaluation.truth.classes import class_sets, find_class_set, plain_name, vocabulary

CATEGORIES = ("data", "metrics", "panopticapi", "panoptic_coco_categories.json")
COUNTS = {
    "coco-133": (80, 53),
    "coco-95": (80, 15),
    "coco-16": (1, 15),
    "coco-80": (80, 0),
    "cocostuff-27": (12, 15),
    "cocostuff-171": (80, 91),
    "cityscapes-27": (10, 17),
    "cityscapes-19": (8, 11),
    "voc-20": (20, 0),
    "voc-21": (20, 1),
    "camvid-11": (3, 8),
    "uvo": (1, 0),
}


REMOVED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
"""Things that COCO named but never annotated."""
VOID = {
    "coco-133": REMOVED,
    "coco-95": REMOVED,
    "coco-16": REMOVED,
    "coco-80": REMOVED | set(range(92, 201)) & set(vocabulary("coco")),
    "cocostuff-171": REMOVED,
    "cityscapes-27": set(range(7)),
    "cityscapes-19": {*range(7), 9, 10, 14, 15, 16, 18, 29, 30},
    "voc-20": {21},
}
"""Set -> ids of the vocabulary that no class collects."""


@pytest.mark.parametrize("name", COUNTS)
def test_every_set_is_sound(name: str) -> None:
    one = class_sets()[name]
    assert (len(one.things), len(one.stuff)) == COUNTS[name]
    ids = [c.id for c in one.classes]
    assert len(set(ids)) == len(ids) and min(ids) > 0
    assert len({c.name for c in one.classes}) == len(ids)
    assert tuple(one.names) == (*one.things, *one.stuff)
    collected = [m for c in one.classes for m in c.members]
    assert len(set(collected)) == len(collected), "a class of the truth is in two classes"
    assert set(collected) <= set(one.vocabulary)
    assert set(one.vocabulary) - set(collected) == VOID.get(name, set())
    plain = [plain_name(n) for n in one.vocabulary.values()]
    assert len(set(plain)) == len(plain), "names are not told apart"


@pytest.mark.shared
@needs_shared(*CATEGORIES)
def test_coco_ids_names_and_super_categories_are_panopticapis() -> None:
    rows = json.loads(SHARED.joinpath(*CATEGORIES).read_text())
    panoptic = class_sets()["coco-133"]
    assert {r["id"]: r["name"] for r in rows} == panoptic.names
    assert {r["id"] for r in rows if r["isthing"]} == set(panoptic.things)
    for name, kinds in (("coco-95", (0,)), ("cocostuff-27", (0, 1))):  # they agree
        owner = {m: c.name for c in class_sets()[name].classes for m in c.members}
        for row in rows:
            if row["isthing"] in kinds:
                assert owner[row["id"]] == row["supercategory"], row


def test_classes_are_recognised_by_name_whatever_their_ids() -> None:
    train_ids = {1: "road", 2: "Sidewalk", 12: "person", 3: "caravan"}
    found = class_sets()["cityscapes-19"].collect(train_ids, {12, 3}, "x.json")
    assert found == {1: 7, 2: 8, 12: 24}  # a caravan is void in the 19 classes
    assert class_sets()["coco-80"].collect({1: "tv", 2: "other"}, {1, 2}, "x") == {1: 72}
    assert class_sets()["uvo"].collect({4: "robot", 5: "grass"}, {4}, "x") == {4: 1}


def test_stuff_of_the_other_data_set_is_refused_not_dropped() -> None:
    with pytest.raises(UserError, match=r"class 184 is 'tree-merged', which cocostuff-171"):
        class_sets()["cocostuff-171"].collect({184: "tree-merged"}, set(), "x.json")
    with pytest.raises(UserError, match=r"x\.json has none of the 80 classes of coco-80"):
        class_sets()["coco-80"].collect({184: "tree-merged"}, set(), "x.json")
    with pytest.raises(UserError, match=r"class 169 is 'tree'.*choose another class set"):
        class_sets()["coco-95"].collect({1: "cat", 169: "tree"}, {1}, "x.json")
    assert class_sets()["cocostuff-27"].collect({1: "tree-merged", 2: "tree"}, set(), "x") == {
        1: 23,
        2: 23,
    }


def test_a_misspelt_set_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown class set 'coco95'.*Did you mean 'coco-95'"):
        find_class_set("coco95")
