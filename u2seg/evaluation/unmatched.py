"""Segments of clusters that stand for no class, counted as false positives.

Panoptic quality is a mean over classes, so a false positive needs a class. It is charged to the
class that most of the segment truly is: a found object without a name is an object missed and a
segment too many of the same class, exactly as one with a wrong name costs twice. The other
treatment, void, needs no code: such segments claim no pixel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from u2seg.evaluation.overlap import Overlap
from u2seg.evaluation.panoptic import ClassCounts, TruthSegment
from u2seg.structures.labels import VOID_ID


def unmatched_positives(
    overlap: Overlap, truth: Mapping[int, TruthSegment], segments: Collection[int]
) -> dict[int, ClassCounts]:
    """Return the false positives of one image by class.

    Args:
        overlap: Pixels of true and predicted segments of the image.
        truth: True segment id -> segment.
        segments: Ids of predicted segments whose cluster has no class.

    Returns:
        Class -> counts, of which only ``fp`` is not 0. A segment is charged to the class with
        the most of its pixels (the lowest id of equals); as any other it is forgiven if more than
        half of it lies on void or on a crowd of that class.

    Examples:
        Segment 7 has one pixel on void and three on class 2: one false positive of class 2.

        >>> from u2seg.evaluation.overlap import count_overlaps
        >>> import numpy as np
        >>> overlap = count_overlaps(np.array([[0, 5, 5, 5]]), np.array([[7, 7, 7, 7]]))
        >>> unmatched_positives(overlap, {5: TruthSegment(category=2, area=3)}, {7})
        {2: ClassCounts(iou=0.0, tp=0, fp=1, fn=0)}
    """
    areas = dict.fromkeys(segments, 0)
    forgiven = dict.fromkeys(segments, 0)
    shares: dict[int, dict[int, int]] = {segment: {} for segment in segments}
    crowded: dict[tuple[int, int], int] = {}
    for t, p, pixels in zip(
        overlap.truth.tolist(), overlap.predicted.tolist(), overlap.pixels.tolist(), strict=True
    ):
        if p not in areas:
            continue
        areas[p] += pixels
        if t == VOID_ID:
            forgiven[p] += pixels
            continue
        category = truth[t].category
        shares[p][category] = shares[p].get(category, 0) + pixels
        if truth[t].crowd:
            crowded[p, category] = crowded.get((p, category), 0) + pixels
    counts: dict[int, ClassCounts] = {}
    for segment, classes in shares.items():
        if not classes:
            continue
        category = min(classes, key=lambda c: (-classes[c], c))
        if forgiven[segment] + crowded.get((segment, category), 0) <= 0.5 * areas[segment]:
            counts.setdefault(category, ClassCounts()).fp += 1
    return counts
