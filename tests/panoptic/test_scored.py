"""The merge rule by score: each clause by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from u2seg.config.schema import PanopticSettings
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel

SPACE = LabelSpace(num_things=4, num_stuff=3)
PLAIN = PanopticSettings(min_thing_area=0, min_stuff_area=0, min_visible=0, max_hole=0)
"""No threshold but that of covered stuff."""
VOID = 255


def _row(text: str, score: float = 1.0) -> InstanceMask:
    """A mask of one row, '#' = object."""
    return InstanceMask.from_array(np.array([[c == "#" for c in text]]), score)


def _merge(
    masks: list[InstanceMask], stuff: str, rules: PanopticSettings = PLAIN
) -> tuple[list[list[int]], PanopticLabel]:
    """Merge masks of clusters 0, 1, ... with a row of stuff, '.' = void."""
    row = np.array([[VOID if c == "." else int(c) for c in stuff]], dtype=np.uint8)
    label = merge_panoptic(masks, list(range(len(masks))), row, SPACE, rules)
    return label.ids.tolist(), label


def test_the_better_score_lies_on_top_whatever_the_size() -> None:
    small, large = _row("##....", 0.4), _row(".####.", 0.6)
    for masks in ([small, large], [large, small]):
        ids, label = _merge(masks, "......")
        assert ids == [[1, 2, 2, 2, 2, 0]]
        assert [(s.score, s.area) for s in label.segments] == [(0.4, 1), (0.6, 4)]


def test_of_equal_scores_the_smaller_box_then_the_first_lies_on_top() -> None:
    ids, label = _merge([_row("####"), _row(".##.")], "....")
    assert ids == [[1, 2, 2, 1]]
    assert [s.category_id for s in label.segments] == [1, 2]
    ids, label = _merge([_row("##."), _row(".##")], "...")
    assert ids == [[2, 2, 1]]
    assert [s.category_id for s in label.segments] == [2, 1]


def test_ids_have_no_gaps_though_things_vanish() -> None:
    masks = [_row("##..", 0.9), _row("#...", 0.5), _row("....", 0.4), _row("..#.", 0.3)]
    ids, label = _merge(masks, "0000", replace(PLAIN, max_stuff_covered=1))
    assert ids == [[2, 2, 1, 3]]
    assert [s.category_id for s in label.segments] == [4, 1, 5]


def test_a_small_thing_gives_its_pixels_back() -> None:
    # A quarter of 8 pixels is 2: one pixel is too few, two are enough.
    rules = replace(PLAIN, min_thing_area=0.25)
    assert _merge([_row("#.......", 0.9), _row("##......", 0.8)], "00000000", rules)[0] == [
        [1, 1, 2, 2, 2, 2, 2, 2]
    ]
    # What counts is what is left: of three pixels one.
    assert _merge([_row("##......", 0.9), _row("###.....", 0.8)], "00000000", rules)[0] == [
        [1, 1, 2, 2, 2, 2, 2, 2]
    ]


def test_a_thing_that_is_mostly_hidden_is_dropped() -> None:
    rules = replace(PLAIN, min_visible=0.5)
    # Half of four pixels are left: kept. A quarter: dropped.
    assert _merge([_row("##...", 0.9), _row("####.", 0.8)], ".....", rules)[0] == [[2, 2, 1, 1, 0]]
    assert _merge([_row("###..", 0.9), _row("####.", 0.8)], ".....", rules)[0] == [[1, 1, 1, 0, 0]]


def test_small_stuff_becomes_void() -> None:
    # A fifth of 10 pixels is 2; of cluster 2 one pixel is seen.
    rules = replace(PLAIN, min_stuff_area=0.2)
    ids, label = _merge([_row("#.........")], "2200000112", replace(rules, max_stuff_covered=1))
    assert ids == [[1, 4, 2, 2, 2, 2, 2, 3, 3, 4]]
    ids, label = _merge([_row("##........")], "2200000112", replace(rules, max_stuff_covered=1))
    assert ids == [[1, 1, 2, 2, 2, 2, 2, 3, 3, 0]]
    assert [s.area for s in label.segments] == [2, 5, 2]


def test_small_holes_belong_to_their_thing() -> None:
    # Two holes, of 1 and of 2 pixels, and a bay that is open to the right.
    drawn = ["#######.", "#.##..#.", "#######.", "##......", "#######."]
    mask = InstanceMask.from_array(np.array([[c == "#" for c in row] for row in drawn]))
    stuff = np.zeros((5, 8), dtype=np.uint8)

    def things(share: float) -> int:
        rules = replace(PLAIN, max_hole=share)
        return merge_panoptic([mask], [0], stuff, SPACE, rules).segments[0].area

    area = sum(row.count("#") for row in drawn)
    assert [things(share) - area for share in (0.0, 1 / 40, 2 / 40, 1.0)] == [0, 1, 3, 3]
    # What lies in a filled hole and has a worse score is hidden.
    inner = np.zeros((5, 8), dtype=bool)
    inner[1, 1] = True
    masks = [replace(mask, score=0.9), InstanceMask.from_array(inner, 0.5)]
    rules = replace(PLAIN, max_hole=1.0, max_stuff_covered=1.0)
    label = merge_panoptic(masks, [0, 1], stuff, SPACE, rules)
    assert [s.category_id for s in label.segments] == [1, 5]
