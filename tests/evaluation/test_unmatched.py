"""Segments without a class as false positives: each rule by hand."""

from __future__ import annotations

import numpy as np
import pytest

from u2seg.evaluation.metrics.overlap import count_overlaps
from u2seg.evaluation.metrics.panoptic import TruthSegment, unmatched_positives

CAT, GRASS = 1, 3
TRUTH = {11: TruthSegment(CAT, 4), 12: TruthSegment(CAT, 2), 13: TruthSegment(GRASS, 3)}
ROW = [11, 11, 11, 11, 12, 12, 13, 13, 13, 0, 0, 0]


def charged(predicted: list[int], segments: set[int], truth=TRUTH) -> dict[int, int]:
    overlap = count_overlaps(np.array([ROW]), np.array([predicted]))
    counts = unmatched_positives(overlap, truth, segments)
    assert all((c.iou, c.tp, c.fn) == (0.0, 0, 0) for c in counts.values())
    return {category: c.fp for category, c in counts.items()}


@pytest.mark.parametrize(
    ("predicted", "segments", "expected"),
    [
        # 4 cat, 3 grass: cat, though no single true segment holds more than 2 of the pixels
        ([0, 0, 5, 5, 5, 5, 5, 5, 5, 0, 0, 0], {5}, {CAT: 1}),
        # 2 cat, 2 grass: the lower id
        ([0, 0, 0, 0, 5, 5, 5, 5, 0, 0, 0, 0], {5}, {CAT: 1}),
        # two segments of one class, one of another
        ([5, 5, 6, 6, 0, 0, 7, 7, 7, 0, 0, 0], {5, 6, 7}, {CAT: 2, GRASS: 1}),
        # 3 grass, 3 void: half is not more than half
        ([0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5], {5}, {GRASS: 1}),
        # 2 grass, 3 void: forgiven
        ([0, 0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5], {5}, {}),
        # void alone
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5], {5}, {}),
        # matched segments are not this function's
        ([5, 5, 5, 5, 0, 0, 7, 7, 7, 0, 0, 0], {7}, {GRASS: 1}),
        ([5] * 12, set(), {}),
    ],
)
def test_class_of_most_pixels(predicted, segments, expected) -> None:
    assert charged(predicted, segments) == expected


def test_a_crowd_of_the_same_class_forgives() -> None:
    truth = {**TRUTH, 11: TruthSegment(CAT, 4, crowd=True)}
    # 4 of 6 pixels on the crowd
    assert charged([5, 5, 5, 5, 5, 5, 0, 0, 0, 0, 0, 0], {5}, truth) == {}
    # 2 of 4 pixels: not more than half
    assert charged([0, 0, 5, 5, 5, 5, 0, 0, 0, 0, 0, 0], {5}, truth) == {CAT: 1}
    # most is grass; the cat crowd does not help
    assert charged([0, 0, 0, 5, 0, 0, 5, 5, 0, 0, 0, 0], {5}, truth) == {GRASS: 1}
