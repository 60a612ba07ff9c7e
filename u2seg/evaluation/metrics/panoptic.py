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

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from u2seg.evaluation.metrics.overlap import Overlap
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

    def add(self, other: ClassCounts, sign: int = 1) -> None:
        """Add the sums of ``other``, or take them away (-1)."""
        self.iou += sign * other.iou
        self.tp += sign * other.tp
        self.fp += sign * other.fp
        self.fn += sign * other.fn

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


def add_counts(
    totals: dict[int, ClassCounts], more: Mapping[int, ClassCounts], sign: int = 1
) -> None:
    """Add counts by class to others, or take them away (-1)."""
    for category, row in more.items():
        totals.setdefault(category, ClassCounts()).add(row, sign)


def count_matches(
    overlap: Overlap, truth: Mapping[int, TruthSegment], predicted: Mapping[int, int]
) -> dict[int, ClassCounts]:
    """Return the counts of one image by class, for the classes that occur.

    Args:
        overlap: Its table; every predicted id but 0 must be in ``predicted``, every true id but
            0 in ``truth``.
        truth: Segment id -> true segment, in the order of the JSON.
        predicted: Segment id -> class.
    """
    columns = (overlap.truth.tolist(), overlap.predicted.tolist(), overlap.pixels.tolist())
    shared = {(t, p): n for t, p, n in zip(*columns, strict=True)}
    areas = dict.fromkeys(predicted, 0)
    for (_, segment), pixels in shared.items():
        if segment != VOID_ID:
            areas[segment] += pixels
    counts: dict[int, ClassCounts] = {}
    matched: set[tuple[str, int]] = set()
    for (t, p), pixels in shared.items():
        if VOID_ID in (t, p) or truth[t].crowd or truth[t].category != predicted[p]:
            continue
        union = areas[p] + truth[t].area - pixels - shared.get((VOID_ID, p), 0)
        if pixels / union > MATCH_IOU:
            counts.setdefault(predicted[p], ClassCounts()).add(ClassCounts(pixels / union, tp=1))
            matched |= {("true", t), ("predicted", p)}
    for t, segment_truth in truth.items():
        if ("true", t) not in matched and not segment_truth.crowd:
            counts.setdefault(segment_truth.category, ClassCounts()).fn += 1
    crowds = {segment.category: t for t, segment in truth.items() if segment.crowd}
    for p, category in predicted.items():
        forgiven = shared.get((VOID_ID, p), 0) + shared.get((crowds.get(category, -1), p), 0)
        if ("predicted", p) not in matched and forgiven <= 0.5 * areas[p]:
            counts.setdefault(category, ClassCounts()).fp += 1
    return counts


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


def unmatched_positives(
    overlap: Overlap, truth: Mapping[int, TruthSegment], segments: Collection[int]
) -> dict[int, ClassCounts]:
    """Return the false positives of one image that segments of clusters without a class are.

    Panoptic quality is a mean over classes, so a false positive needs a class. It is charged to
    the class that most of the segment truly is (the lowest id of equals): a found object without
    a name is an object missed and a segment too many of the same class, exactly as one with a
    wrong name costs twice. As any other it is forgiven if more than half of it lies on void or on
    a crowd of that class. The other treatment, void, needs no code: such segments claim no pixel.

    Args:
        overlap: Pixels of true and predicted segments of the image.
        truth: True segment id -> segment.
        segments: Ids of predicted segments whose cluster has no class.

    Returns:
        Class -> counts, of which only ``fp`` is not 0.

    Examples:
        Segment 7 has one pixel on void and three on class 2: one false positive of class 2.

        >>> from u2seg.evaluation.metrics.overlap import count_overlaps
        >>> overlap = count_overlaps(np.array([[0, 5, 5, 5]]), np.array([[7, 7, 7, 7]]))
        >>> unmatched_positives(overlap, {5: TruthSegment(category=2, area=3)}, {7})
        {2: ClassCounts(iou=0.0, tp=0, fp=1, fn=0)}
    """
    counts: dict[int, ClassCounts] = {}
    for segment in segments:
        mine = overlap.predicted == segment
        pairs = zip(overlap.truth[mine].tolist(), overlap.pixels[mine].tolist(), strict=True)
        pixels = dict(pairs)
        shares: dict[int, int] = {}
        for t, n in pixels.items():
            if t != VOID_ID:
                shares[truth[t].category] = shares.get(truth[t].category, 0) + n
        if not shares:
            continue
        category = min(shares, key=lambda c: (-shares[c], c))
        crowds = (t for t, s in truth.items() if s.crowd and s.category == category)
        forgiven = pixels.get(VOID_ID, 0) + sum(pixels.get(t, 0) for t in crowds)
        if forgiven <= 0.5 * sum(pixels.values()):
            counts.setdefault(category, ClassCounts()).fp += 1
    return counts


def merge_targets(segments: Mapping[int, TruthSegment], stuff: Collection[int]) -> dict[int, int]:
    """Return segment id -> id of the first segment of its class, for stuff; others keep theirs.

    Examples:
        >>> sea, river = TruthSegment(9, 4), TruthSegment(9, 2)
        >>> merge_targets({5: sea, 6: TruthSegment(1, 3), 7: river}, {9})
        {5: 5, 6: 6, 7: 5}
    """
    first: dict[int, int] = {}
    return {
        i: first.setdefault(s.category, i) if s.category in stuff and not s.crowd else i
        for i, s in segments.items()
    }


def joined_segments(
    segments: Mapping[int, TruthSegment], target: Mapping[int, int]
) -> dict[int, TruthSegment]:
    """Return the segments that are left, with the areas of those they took in."""
    joined: dict[int, TruthSegment] = {}
    for i, segment in segments.items():
        before = joined.get(target[i])
        joined[target[i]] = replace(segment, area=segment.area + (before.area if before else 0))
    return joined
