"""Ids of clusters, categories and stuff targets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from u2seg.errors import UserError
from u2seg.structures.labels import LabelSpace

SPACE = LabelSpace(num_things=800, num_stuff=27)


def test_published_numbering() -> None:
    # 800 clusters and STEGO's 27 classes: things 1..800, stuff 801..827, target 1..27.
    assert [SPACE.thing_category(c) for c in (0, 799)] == [1, 800]
    assert [SPACE.stuff_category(c) for c in (0, 26)] == [801, 827]
    assert [SPACE.stuff_target(c) for c in (0, 26)] == [1, 27]
    assert SPACE.semantic_classes == 28
    assert [SPACE.is_thing(c) for c in (1, 800, 801, 827)] == [True, True, False, False]


def test_stuff_alone_and_things_alone() -> None:
    stuff, things = LabelSpace(0, 2), LabelSpace(2, 0)
    assert [row["isthing"] for row in stuff.categories()] == [0, 0]
    assert (stuff.stuff_category(1), things.semantic_classes) == (2, 1)
    assert (stuff.name(2), LabelSpace(1, 1, ("dög",), ("sky",)).name(1)) == ("stuff_1", "dög")
    for space in (stuff, things, LabelSpace(2, 1, ("cat", "dög"), ("sky",))):
        assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LabelSpace(0, 0), "0 thing and 0 stuff clusters: .* one of them > 0"),
        (lambda: LabelSpace(-1, 5), "-1 thing and 5 stuff clusters"),
        (lambda: LabelSpace(1, 255), r"0\.\.254.*got 255"),
        (lambda: LabelSpace(3, -1), "got -1"),
        (lambda: LabelSpace(2, 0, ("a",)), "2 thing clusters but 1 thing names"),
        (lambda: LabelSpace(1, 2, (), ("a",)), "2 stuff clusters but 1 stuff names"),
        (lambda: SPACE.thing_category(800), r"thing cluster 800 is outside 0\.\.799"),
        (lambda: SPACE.thing_category(-1), "-1 is outside"),
        (lambda: SPACE.stuff_category(27), r"stuff cluster 27 is outside 0\.\.26"),
        (lambda: SPACE.stuff_target(-1), "-1 is outside"),
        (lambda: SPACE.is_thing(0), r"category id 0 is outside 1\.\.827"),
        (lambda: SPACE.is_thing(828), "828 is outside"),
        (lambda: SPACE.name(0), "0 is outside"),
        (lambda: LabelSpace.from_json({"num_things": 1}), "num_stuff"),
        (lambda: LabelSpace.from_json({"num_things": "many"}), "lacks or garbles"),
    ],
)
def test_ids_out_of_range_are_user_errors(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()  # type: ignore[operator]


def test_categories_are_in_order_with_distinct_colours() -> None:
    rows = SPACE.categories()
    assert [row["id"] for row in rows] == list(range(1, 828))
    assert [row["isthing"] for row in rows] == [1] * 800 + [0] * 27
    small = LabelSpace(20, 10).colors()
    assert small.dtype == np.uint8
    assert len({tuple(row) for row in small.tolist()}) == 30
    assert len({tuple(row) for row in LabelSpace(2911, 27).colors().tolist()}) == 2938
