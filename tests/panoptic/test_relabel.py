"""One round of self-training: each clause by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from u2seg.config.rounds import AgreeSettings
from u2seg.config.schema import PanopticSettings, RoundSettings
from u2seg.errors import UserError
from u2seg.panoptic.relabel import relabel
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.structures.segmentation import Segmentation

SPACE = LabelSpace(num_things=4, num_stuff=3)
PLAIN = PanopticSettings(min_thing_area=0, min_stuff_area=0, min_visible=0, max_hole=0)
AGREE = AgreeSettings(score=0.7, agreed_score=0.5, agree_iou=0.5, keep_iou=0.5, stuff_score=0.9)
ROUNDS = RoundSettings(agree=AGREE)
Thing = tuple[str, int, float]
"""A mask of one row ('#' = object), its cluster and its score."""


def _segmentation(things: list[Thing], stuff: str, sure: float | None = None) -> Segmentation:
    """Return things and stuff clusters ('.' = none) of one row."""
    masks = tuple(
        InstanceMask.from_array(np.array([[c == "#" for c in row]]), score, cluster)
        for row, cluster, score in things
    )
    target = np.array([[0 if c == "." else int(c) + 1 for c in stuff]], dtype=np.uint8)
    confidence = None if sure is None else np.full(target.shape, sure, dtype=np.float32)
    return Segmentation(target.shape, masks, target, confidence)


def _relabel(  # a row of 8 pixels without stuff, unless told otherwise
    new: list[Thing],
    old: list[Thing],
    rounds: RoundSettings = ROUNDS,
    number: int = 1,
    stuff: tuple[str, str, float] = ("........", "........", 0.0),
) -> tuple[PanopticLabel, dict[str, int]]:
    prediction = _segmentation(new, stuff[0], stuff[2])
    return relabel(_segmentation(old, stuff[1]), prediction, SPACE, (rounds, PLAIN), number)


def _found(label: PanopticLabel) -> list[tuple[int, int, float]]:
    return [(s.category_id - 1, s.area, s.score) for s in label.segments]


def test_a_prediction_needs_the_score_of_its_round() -> None:
    new: list[Thing] = [("##......", 0, 0.70), ("...##...", 1, 0.66), ("......##", 2, 0.60)]
    for number, expected in ((1, 1), (2, 2), (3, 3)):
        label, counts = _relabel(new, [], number=number)
        assert counts["predicted"] == len(label.segments) == expected


def test_with_less_it_needs_a_previous_thing_of_its_cluster() -> None:
    old: list[Thing] = [("####....", 1, 1.0)]
    for thing, taken in (
        (("###.....", 1, 0.5), True),  # IoU 3/4
        (("##......", 1, 0.5), True),  # IoU 1/2, which is enough
        (("#.......", 1, 0.5), False),  # IoU 1/4
        (("###.....", 2, 0.5), False),  # of another cluster
        (("###.....", 1, 0.4), False),  # score too low
    ):
        _, counts = _relabel([thing], old)
        assert counts["agreed"] == int(taken), thing
        assert counts["predicted"] == 0


def test_previous_things_that_no_taken_prediction_overlaps_stay_below() -> None:
    old: list[Thing] = [("####....", 0, 1.0), (".....###", 3, 1.0)]
    # IoU 2/4 with the first: replaced. IoU 1/3 with the second: it stays, under the prediction.
    label, counts = _relabel([("##......", 1, 0.9), (".....#..", 2, 0.8)], old)
    assert (counts["kept"], counts["replaced"]) == (1, 1)
    assert sorted(_found(label)) == [(1, 2, 0.9), (2, 1, 0.8), (3, 2, 0.5)]


def test_a_prediction_that_is_not_taken_replaces_nothing() -> None:
    label, counts = _relabel([("####....", 1, 0.6)], [("####....", 0, 0.3)])
    assert (counts["kept"], counts["replaced"]) == (1, 0)
    assert _found(label) == [(0, 4, 0.3)]


def test_stuff_changes_where_the_model_is_sure() -> None:
    guessed = ("22..2222", "0011....", 0.9)
    label, counts = _relabel([], [], stuff=guessed)
    assert label.ids.tolist() == [[1, 1, 0, 0, 1, 1, 1, 1]]
    assert counts["stuff_changed"] == 8
    label, counts = _relabel([], [], stuff=(*guessed[:2], 0.89))
    assert label.ids.tolist() == [[1, 1, 2, 2, 0, 0, 0, 0]]
    assert counts["stuff_changed"] == 0
    off = replace(ROUNDS, agree=replace(AGREE, stuff_score=1.0))
    assert _relabel([], [], off, stuff=(*guessed[:2], 1.0))[1]["stuff_changed"] == 0


def test_an_image_without_anything_stays_without() -> None:
    label, counts = _relabel([], [])
    assert label.segments == () and set(counts.values()) == {0}


def test_labels_of_another_photograph_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(1, 8\) pixels .*\(1, 2\): .*other photographs"):
        relabel(_segmentation([], "........"), _segmentation([], ".."), SPACE, (ROUNDS, PLAIN), 1)


def test_a_model_without_stuff_and_an_image_without_label() -> None:
    things = [("##......", 1, 0.9)]
    alone = replace(_segmentation(things, "........"), stuff=None)
    label, counts = relabel(None, alone, SPACE, (ROUNDS, PLAIN), 1)
    assert _found(label) == [(1, 2, 0.9)] and counts["predicted"] == 1
    before = _segmentation([], "..000000")
    label, counts = relabel(before, alone, SPACE, (ROUNDS, PLAIN), 1)
    assert _found(label) == [(1, 2, 0.9), (4, 6, 1.0)] and counts["stuff_changed"] == 0
