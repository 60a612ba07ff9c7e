"""The released merge rule: each clause by hand, invariants at random, and the reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shared import SHARED, needs_shared
from u2seg.config.schema import PanopticSettings
from u2seg.errors import UserError
from u2seg.io.png import read_panoptic_png
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel

SPACE = LabelSpace(num_things=4, num_stuff=3)
RULES = PanopticSettings()
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
        label = merge_panoptic(masks, clusters, np.full((1, 6), VOID, np.uint8), SPACE, RULES)
        assert label.ids.tolist() == [[1, 1, 2, 2, 0, 0]]
        assert _found(label) == [(1, 1, 2), (2, 4, 2)]


def test_the_order_is_by_box_not_by_mask_area() -> None:
    # The L has the larger box (9 > 6) but the smaller area (5 < 6): it lies below.
    corner = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=bool)
    block = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=bool)
    masks = [InstanceMask.from_array(block), InstanceMask.from_array(corner)]
    label = merge_panoptic(masks, [0, 1], np.full((3, 3), VOID, np.uint8), SPACE, RULES)
    assert label.ids.tolist() == [[2, 2, 2], [2, 2, 2], [1, 1, 1]]
    assert _found(label) == [(1, 2, 3), (2, 1, 6)]


def test_equal_boxes_keep_the_input_order_later_on_top() -> None:
    # Same box, different areas: only the order of input decides.
    full, holed = _row("####"), _row("#..#")
    void = np.full((1, 4), VOID, np.uint8)
    assert merge_panoptic([full, holed], [0, 1], void, SPACE, RULES).ids.tolist() == [[2, 1, 1, 2]]
    label = merge_panoptic([holed, full], [0, 1], void, SPACE, RULES)
    assert label.ids.tolist() == [[1, 1, 1, 1]]
    assert _found(label) == [(1, 2, 4)]


def test_boxes_and_areas_are_those_of_the_visible_pixels() -> None:
    label = merge_panoptic(
        [_row("#####"), _row("###..")], [0, 1], np.full((1, 5), VOID, np.uint8), SPACE, RULES
    )
    below, above = label.segments
    assert (below.area, below.bbox) == (2, (3.0, 0.0, 2.0, 1.0))
    assert (above.area, above.bbox) == (3, (0.0, 0.0, 3.0, 1.0))


def test_covered_and_empty_things_vanish_and_ids_stay_dense() -> None:
    masks = [_row("####"), _row("##.."), _row("..##"), _row("....")]
    label = merge_panoptic(masks, [0, 1, 2, 3], np.full((1, 4), VOID, np.uint8), SPACE, RULES)
    assert _found(label) == [(1, 2, 2), (2, 3, 2)]


def test_stuff_fills_what_things_leave() -> None:
    label = merge_panoptic([_row("##....")], [2], _stuff(0, 0, 0, 1, 1, VOID), SPACE, RULES)
    assert label.ids.tolist() == [[1, 1, 2, 3, 3, 0]]
    assert _found(label) == [(1, 3, 2), (2, 5, 1), (3, 6, 2)]
    assert [s.isthing for s in label.segments] == [True, False, False]
    assert label.segments[1].bbox == (2.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(("covered", "kept"), [(7, True), (8, False)])
def test_stuff_with_more_than_the_share_under_things_is_dropped(covered: int, kept: bool) -> None:
    # Exactly 7 of 10 is not more than 0.7.
    thing = _row("#" * covered + "." * (10 - covered))
    label = merge_panoptic([thing], [0], np.full((1, 10), 2, np.uint8), SPACE, RULES)
    assert [s.category_id for s in label.segments] == ([1, 7] if kept else [1])
    assert (label.ids[0, -1] == 0) is not kept


def test_disconnected_stuff_is_one_segment() -> None:
    label = merge_panoptic([_row(".##.")], [0], _stuff(1, 1, 1, 1), SPACE, RULES)
    assert label.ids.tolist() == [[2, 1, 1, 2]]
    assert label.segments[1].bbox == (0.0, 0.0, 4.0, 1.0)


def test_images_without_things_keep_their_stuff() -> None:
    label = merge_panoptic([], [], _stuff(2, 0, VOID), SPACE, RULES)
    assert label.ids.tolist() == [[2, 1, 0]]
    assert _found(label) == [(1, 5, 1), (2, 7, 1)]


def test_a_thing_below_the_minimum_area_gives_its_pixels_back() -> None:
    rules = PanopticSettings(min_thing_area=2)
    label = merge_panoptic([_row("####"), _row(".#..")], [0, 1], _stuff(0, 0, 0, 0), SPACE, rules)
    assert label.ids.tolist() == [[1, 1, 1, 1]]
    # Exactly the minimum stays.
    label = merge_panoptic([_row("##..")], [0], _stuff(0, 0, 0, 0), SPACE, rules)
    assert _found(label) == [(1, 1, 2), (2, 5, 2)]


def test_the_minimum_counts_visible_pixels_only() -> None:
    rules = PanopticSettings(min_thing_area=2)
    void = np.full((1, 4), VOID, np.uint8)
    label = merge_panoptic([_row("####"), _row("###.")], [0, 1], void, SPACE, rules)
    assert label.ids.tolist() == [[1, 1, 1, 0]]
    assert _found(label) == [(1, 2, 3)]


def test_small_stuff_is_dropped() -> None:
    rules = PanopticSettings(min_stuff_area=2)
    label = merge_panoptic([_row("#....")], [0], _stuff(0, 0, 1, 1, 2), SPACE, rules)
    assert label.ids.tolist() == [[1, 0, 2, 2, 0]]


def test_scores_follow_their_thing() -> None:
    masks = [_row("##..", 0.25), _row("####", 0.5)]
    label = merge_panoptic(masks, [1, 0], np.full((1, 4), VOID, np.uint8), SPACE, RULES)
    assert [(s.category_id, s.score) for s in label.segments] == [(1, 0.5), (2, 0.25)]


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
        merge_panoptic([_row("##")], clusters, stuff, SPACE, RULES)


@st.composite
def _scenes(draw: st.DrawFn) -> tuple[list[InstanceMask], list[int], np.ndarray, PanopticSettings]:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = []
    for _ in range(draw(st.integers(0, 6))):
        mask = np.zeros((height, width), dtype=bool)
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + rng.integers(0, 8), x : x + rng.integers(1, 8)] = True
        masks.append(InstanceMask.from_array(mask & (rng.random(mask.shape) < 0.9)))
    stuff = rng.choice([0, 1, 2, VOID], size=(height, width)).astype(np.uint8)
    rules = PanopticSettings(
        max_stuff_covered=draw(st.sampled_from([0.0, 0.5, 0.7, 1.0])),
        min_thing_area=draw(st.integers(1, 6)),
        min_stuff_area=draw(st.integers(1, 6)),
    )
    return masks, [int(c) for c in rng.integers(0, 4, len(masks))], stuff, rules


@given(_scenes())
@settings(max_examples=200, deadline=None)
def test_every_pixel_has_one_id_and_the_records_say_what_the_map_shows(scene: tuple) -> None:
    masks, clusters, stuff, rules = scene
    label = merge_panoptic(masks, clusters, stuff, SPACE, rules)
    assert label.ids.shape == stuff.shape
    assert label.ids.dtype == np.int32
    assert [s.id for s in label.segments] == list(range(1, len(label.segments) + 1))
    assert sum(s.area for s in label.segments) == np.count_nonzero(label.ids)
    for segment in label.segments:
        ys, xs = np.nonzero(label.ids == segment.id)
        assert segment.area == len(ys)
        assert segment.area >= (rules.min_thing_area if segment.isthing else rules.min_stuff_area)
        x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        assert segment.bbox == (x0, y0, x1 - x0, y1 - y0)
        if not segment.isthing:
            assert set(stuff[ys, xs].tolist()) == {segment.category_id - 5}
        else:
            assert any(m.to_array()[ys, xs].all() for m in masks)
    stuff_categories = [s.category_id for s in label.segments if not s.isthing]
    assert len(stuff_categories) == len(set(stuff_categories))


@pytest.mark.shared
@needs_shared("golden", "panoptic_merge")
def test_id_maps_equal_the_reference() -> None:
    folder = SHARED / "golden" / "panoptic_merge"
    inputs = json.loads((folder / "inputs.json").read_text())
    expected = {
        row["image_id"]: row
        for row in json.loads((folder / "expected_single.json").read_text())["annotations"]
    }
    space = LabelSpace(inputs["class_num"], 27)
    compared = 0
    with np.load(folder / "semantic.npz") as stuff:
        for case in inputs["cases"]:
            row = expected.get(case["image_id"])
            if row is None:
                continue  # the reference drops images without an entry in the instance file
            masks = [
                InstanceMask(i["segmentation"], 1.0, tuple(i["bbox"]), i["area"])
                for i in case["instances"]
            ]
            clusters = [i["category_id"] - 1 for i in case["instances"]]
            label = merge_panoptic(masks, clusters, stuff[str(case["image_id"])], space, RULES)
            segments = row["segments_info"]
            assert [s["category_id"] for s in segments] == [s.category_id for s in label.segments]
            # The reference counts on over dropped things; ours are dense, in the same order.
            table = np.zeros(2 + max(s["id"] for s in segments), dtype=np.int32)
            table[[s["id"] for s in segments]] = np.arange(1, len(segments) + 1)
            ids = read_panoptic_png(folder / "expected_single" / row["file_name"])
            np.testing.assert_array_equal(table[ids], label.ids, err_msg=row["file_name"])
            compared += 1
    assert compared == 20
