"""Panoptic quality.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019; the rules for void and crowds are
those of panopticapi (commit 7bb4655), so that numbers are comparable:

* a pair matches if its classes are equal and its IoU is above 0.5, where pixels of the
  prediction on void leave the union, and the area of the true segment is the JSON's;
* true crowds neither match nor count as missed;
* a prediction without a match is forgiven if more than half of it lies on void or on a crowd of
  its class (where one image has several crowds of a class, on the last in the JSON).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from u2seg.evaluation.overlap import Overlap
from u2seg.structures.labels import VOID_ID

MATCH_IOU = 0.5


@dataclass(frozen=True)
class TruthSegment:
    """A true segment: its class, area in pixels as the JSON says, and whether it is a crowd."""

    category: int
    area: int
    crowd: bool = False


@dataclass
class ClassCounts:
    """Sums over images of one class."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, other: ClassCounts) -> None:
        """Add the sums of ``other``."""
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn

    @property
    def occurs(self) -> bool:
        """Whether the class was seen in truth or prediction, crowds and void aside."""
        return self.tp + self.fp + self.fn > 0

    def quality(self) -> tuple[float, float, float]:
        """Return (PQ, SQ, RQ) in 0..1; zeros where nothing matched.

        Examples:
            >>> ClassCounts(iou=1.6, tp=2, fp=1, fn=3).quality()
            (0.4, 0.8, 0.5)
        """
        weight = self.tp + 0.5 * self.fp + 0.5 * self.fn
        if not weight or not self.tp:
            return (0.0, 0.0, 0.0)
        return (self.iou / weight, self.iou / self.tp, self.tp / weight)


def count_matches(
    overlap: Overlap, truth: Mapping[int, TruthSegment], predicted: Mapping[int, int]
) -> dict[int, ClassCounts]:
    """Return the counts of one image.

    Args:
        overlap: Its table; every predicted id but 0 must be in ``predicted``, every true id but
            0 in ``truth``.
        truth: Segment id -> true segment, in the order of the JSON.
        predicted: Segment id -> class.

    Returns:
        Class -> counts, for the classes that occur.
    """
    shared = {
        (int(t), int(p)): int(n)
        for t, p, n in zip(overlap.truth, overlap.predicted, overlap.pixels, strict=True)
    }
    areas = dict.fromkeys(predicted, 0)
    for (_, segment), pixels in shared.items():
        if segment != VOID_ID:
            areas[segment] += pixels
    counts: dict[int, ClassCounts] = {}
    pairs = _matches(shared, areas, truth, predicted)
    for (_, p), iou in pairs.items():
        counts.setdefault(predicted[p], ClassCounts()).add(ClassCounts(iou=iou, tp=1))
    found = {t for t, _ in pairs}
    for t, segment_truth in truth.items():
        if t not in found and not segment_truth.crowd:
            counts.setdefault(segment_truth.category, ClassCounts()).fn += 1
    crowds = {segment.category: t for t, segment in truth.items() if segment.crowd}
    for p in predicted.keys() - {p for _, p in pairs}:
        category = predicted[p]
        forgiven = shared.get((VOID_ID, p), 0) + shared.get((crowds.get(category, -1), p), 0)
        if forgiven <= 0.5 * areas[p]:
            counts.setdefault(category, ClassCounts()).fp += 1
    return counts


def _matches(
    shared: Mapping[tuple[int, int], int],
    areas: Mapping[int, int],
    truth: Mapping[int, TruthSegment],
    predicted: Mapping[int, int],
) -> dict[tuple[int, int], float]:
    """Return (true id, predicted id) -> IoU of the pairs that match."""
    pairs = {}
    for (t, p), pixels in shared.items():
        if VOID_ID in (t, p) or truth[t].crowd or truth[t].category != predicted[p]:
            continue
        union = areas[p] + truth[t].area - pixels - shared.get((VOID_ID, p), 0)
        if pixels / union > MATCH_IOU:
            pairs[t, p] = pixels / union
    return pairs


def mean_quality(
    counts: Mapping[int, ClassCounts], classes: Iterable[int]
) -> dict[str, float | int | None]:
    """Return the mean PQ, SQ and RQ over the classes that occur, in percent.

    Returns:
        ``{"PQ", "SQ", "RQ", "n"}``; n = number of classes in the mean; None where n is 0.

    Examples:
        >>> mean_quality({1: ClassCounts(iou=0.9, tp=1), 2: ClassCounts(fn=1)}, [1, 2, 3])
        {'PQ': 45.0, 'SQ': 45.0, 'RQ': 50.0, 'n': 2}
    """
    rows = [counts[c].quality() for c in classes if c in counts and counts[c].occurs]
    if not rows:
        return {"PQ": None, "SQ": None, "RQ": None, "n": 0}
    pq, sq, rq = (100.0 * np.mean(rows, axis=0)).tolist()
    return {"PQ": pq, "SQ": sq, "RQ": rq, "n": len(rows)}
