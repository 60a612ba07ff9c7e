"""The released merge rule: each clause by hand, and the reference."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.config.schema import PanopticSettings
from u2seg.errors import UserError
from u2seg.io.png import read_panoptic_png
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel

SPACE = LabelSpace(num_things=4, num_stuff=3)
RELEASED = PanopticSettings(rule="released")
VOID = 255


def _row(text: str, score: float = 1.0) -> InstanceMask:
    """A mask of one row, '#' = object."""
    return InstanceMask.from_array(np.array([[c == "#" for c in text]]), score)


def _stuff(*values: int) -> np.ndarray:
    return np.array([values], dtype=np.uint8)


def _found(label: PanopticLabel) -> list[tuple[int, int, int]]:
    return [(s.id, s.category_id, s.area) for s in label.segments]


def test_small_boxes_lie_on_large_ones_whatever_the_input_order() -> None:
    large, small = _row("####.."), _row("..##..")
    for masks, clusters in (([large, small], [0, 3]), ([small, large], [3, 0])):
        label = merge_panoptic(masks, clusters, np.full((1, 6), VOID, np.uint8), SPACE, RELEASED)
        assert label.ids.tolist() == [[1, 1, 2, 2, 0, 0]]
        assert _found(label) == [(1, 1, 2), (2, 4, 2)]


def test_the_order_is_by_box_not_by_mask_area() -> None:
    # The L has the larger box (9 > 6) but the smaller area (5 < 6): it lies below.
    corner = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=bool)
    block = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=bool)
    masks = [InstanceMask.from_array(block), InstanceMask.from_array(corner)]
    label = merge_panoptic(masks, [0, 1], np.full((3, 3), VOID, np.uint8), SPACE, RELEASED)
    assert label.ids.tolist() == [[2, 2, 2], [2, 2, 2], [1, 1, 1]]
    assert _found(label) == [(1, 2, 3), (2, 1, 6)]


def test_equal_boxes_keep_the_input_order_later_on_top() -> None:
    # Same box, different areas: only the order of input decides.
    full, holed = _row("####"), _row("#..#")
    void = np.full((1, 4), VOID, np.uint8)
    assert merge_panoptic([full, holed], [0, 1], void, SPACE, RELEASED).ids.tolist() == [
        [2, 1, 1, 2]
    ]
    label = merge_panoptic([holed, full], [0, 1], void, SPACE, RELEASED)
    assert label.ids.tolist() == [[2, 2, 2, 2]]
    assert _found(label) == [(2, 2, 4)]


def test_covered_and_empty_things_vanish_and_keep_their_ids() -> None:
    masks = [_row("####"), _row("##.."), _row("..##"), _row("....")]
    label = merge_panoptic(masks, [0, 1, 2, 3], np.full((1, 4), VOID, np.uint8), SPACE, RELEASED)
    # The empty box is painted last (4), the full one first (1); nothing is seen of both.
    assert label.ids.tolist() == [[2, 2, 3, 3]]
    assert _found(label) == [(2, 2, 2), (3, 3, 2)]
    # Stuff is numbered after all masks, seen or not.
    label = merge_panoptic([_row("....")], [0], _stuff(0, 0, 0, 0), SPACE, RELEASED)
    assert _found(label) == [(2, 5, 4)]


def test_a_share_of_its_own_for_every_stuff_cluster() -> None:
    rules = replace(RELEASED, stuff_covered=(0.4, 0.6, 1.0))
    # Half of cluster 0, half of cluster 1 and all of cluster 2 lie under the thing.
    label = merge_panoptic([_row("#.#.##")], [0], _stuff(0, 0, 1, 1, 2, 2), SPACE, rules)
    assert _found(label) == [(1, 1, 4), (2, 6, 1)]
    with pytest.raises(UserError, match="STUFF_COVERED has 2 shares, expected one for each of the"):
        merge_panoptic([], [], _stuff(0), SPACE, replace(RELEASED, stuff_covered=(0.4, 0.6)))


def test_thresholds_of_the_other_rule_are_not_read() -> None:
    far = {"min_thing_area": 0.5, "min_stuff_area": 0.5, "min_visible": 1, "max_hole": 1}
    rules = replace(RELEASED, max_stuff_covered=1, **far)
    masks = [_row("#.##"), _row("..#.")]
    label = merge_panoptic(masks, [0, 1], _stuff(0, 0, 0, 0), SPACE, rules)
    assert label.ids.tolist() == [[1, 3, 2, 1]]


def test_stuff_fills_what_things_leave() -> None:
    label = merge_panoptic([_row("##....")], [2], _stuff(0, 0, 0, 1, 1, VOID), SPACE, RELEASED)
    assert label.ids.tolist() == [[1, 1, 2, 3, 3, 0]]
    assert _found(label) == [(1, 3, 2), (2, 5, 1), (3, 6, 2)]
    assert [s.isthing for s in label.segments] == [True, False, False]
    assert label.segments[1].bbox == (2.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(("covered", "kept"), [(7, True), (8, False)])
def test_stuff_with_more_than_the_share_under_things_is_dropped(covered: int, kept: bool) -> None:
    # Exactly 7 of 10 is not more than 0.7.
    thing = _row("#" * covered + "." * (10 - covered))
    label = merge_panoptic([thing], [0], np.full((1, 10), 2, np.uint8), SPACE, RELEASED)
    assert [s.category_id for s in label.segments] == ([1, 7] if kept else [1])
    assert (label.ids[0, -1] == 0) is not kept


def test_images_without_things_keep_their_stuff() -> None:
    label = merge_panoptic([], [], _stuff(2, 0, VOID), SPACE, RELEASED)
    assert label.ids.tolist() == [[2, 1, 0]]
    assert _found(label) == [(1, 5, 1), (2, 7, 1)]


@pytest.mark.parametrize(
    ("clusters", "stuff", "error", "message"),
    [
        ([0, 1], _stuff(0, 0), ValueError, "1 masks but 2 cluster ids"),
        ([4], _stuff(0, 0), UserError, r"thing cluster 4 is outside 0\.\.3"),
        ([0], _stuff(0, 3), ValueError, r"holds 3, expected 0\.\.2 or 255"),
        ([0], _stuff(0, 254), ValueError, "holds 254"),
        ([0], _stuff(0, 0, 0), ValueError, r"mask 0 has size \(1, 2\), the stuff map \(1, 3\)"),
        ([0], np.zeros((1, 2), np.int64), ValueError, r"\(H, W\) uint8, got int64"),
    ],
)
def test_bad_input_is_refused(
    clusters: list[int], stuff: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        merge_panoptic([_row("##")], clusters, stuff, SPACE, RELEASED)


FOLDER = SHARED / "golden" / "panoptic_merge"
CASES = range(1000, 1020)


def _reference(case_id: int) -> tuple[PanopticLabel, dict[str, Any]]:
    """Our label of a reference case, and the case."""
    inputs = json.loads((FOLDER / "inputs.json").read_text())
    case = next(c for c in inputs["cases"] if c["image_id"] == case_id)
    masks = [
        InstanceMask(i["segmentation"], 1.0, tuple(i["bbox"]), i["area"]) for i in case["instances"]
    ]
    clusters = [i["category_id"] - 1 for i in case["instances"]]
    with np.load(FOLDER / "semantic.npz") as maps:
        stuff = maps[str(case_id)]
    space = LabelSpace(inputs["class_num"], 27)
    return merge_panoptic(masks, clusters, stuff, space, RELEASED), case


def _expected(kind: str, case_id: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    rows = json.loads((FOLDER / f"expected_{kind}.json").read_text())["annotations"]
    row = next(r for r in rows if r["image_id"] == case_id)
    return read_panoptic_png(FOLDER / f"expected_{kind}" / row["file_name"]), row["segments_info"]


@pytest.mark.shared
@needs_shared("golden", "panoptic_merge")
@pytest.mark.parametrize("case_id", CASES)
def test_ids_and_segments_equal_the_reference(case_id: int) -> None:
    label, _ = _reference(case_id)
    ids, segments = _expected("single", case_id)
    np.testing.assert_array_equal(label.ids, ids)
    keys = ("id", "category_id", "iscrowd")
    ours = [s.to_json() for s in label.segments]
    assert [[s[k] for k in keys] for s in ours] == [[s[k] for k in keys] for s in segments]
    # Its areas and boxes are those of whole masks, and none for stuff; ours of what is seen.
    for mine, theirs in zip(ours, segments, strict=True):
        if theirs["area"] == mine["area"]:  # nothing of it is hidden
            assert mine["bbox"] == theirs["bbox"]


@pytest.mark.shared
@needs_shared("golden", "panoptic_merge")
def test_all_cases_in_one_run_differ_from_the_reference_by_an_offset() -> None:
    # There ids count on over images: over every mask, and every stuff segment.
    offset = 0
    for case_id in CASES:
        label, case = _reference(case_id)
        ids, segments = _expected("global", case_id)
        np.testing.assert_array_equal(np.where(label.ids > 0, label.ids + offset, 0), ids)
        assert [s.id + offset for s in label.segments] == [s["id"] for s in segments]
        offset += len(case["instances"]) + sum(not s.isthing for s in label.segments)
    # The reference skips the image that has no entry in its instance file; we keep its stuff.
    label, case = _reference(1020)
    assert not case["instances"] and label.segments and not any(s.isthing for s in label.segments)
