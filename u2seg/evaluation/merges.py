"""Panoptic quality with stuff of one class merged in an image, and without.

A class set may collect several classes of the truth, so an image may have several true segments
of one stuff class. U2Seg's released evaluation (commit 8e9c709) merges neither true nor predicted
segments, so that one of several at most is matched; merging both lies nearer to the definition of
stuff. The numbers differ: both are in a result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from u2seg.evaluation.figures import Scoring, image_counts, quality_of_parts
from u2seg.evaluation.gather import ImageTable
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.overlap import Overlap
from u2seg.evaluation.panoptic import ClassCounts
from u2seg.evaluation.segments import joined_segments, merge_targets
from u2seg.evaluation.taskfit import class_view, collects_stuff
from u2seg.evaluation.truth import PANOPTIC, Truth

Rows = list[dict[int, ClassCounts]]
"""Panoptic counts of each image."""


def merging_rows(
    truth: Truth, tables: Sequence[ImageTable], mapping: ClusterMapping, scoring: Scoring
) -> dict[str, Rows]:
    """Return the panoptic counts under both treatments.

    Args:
        truth: Seen through a class set, its stuff not merged; else there is nothing to compare.
        tables: Of the scored images.
        mapping: Cluster -> class.
        scoring: Of the rest; its ``merge_stuff`` is not asked.

    Returns:
        ``neither`` (true and predicted segments as they are) and ``both`` (both merged); empty
        where no stuff class of the set collects several classes.
    """
    view = class_view(truth)
    if PANOPTIC not in truth.tasks or view is None or view.merge_stuff:
        return {}
    if not collects_stuff(truth):
        return {}
    merged = [merged_truth(table, truth.stuff) for table in tables]
    rows = {}
    for name, chosen, flag in (("neither", tables, False), ("both", merged, True)):
        treated = replace(scoring, merge_stuff=flag)
        rows[name] = [image_counts(t, truth, mapping, treated).panoptic for t in chosen]
    return rows


def stuff_merging(truth: Truth, rows: Mapping[str, Rows]) -> dict[str, Any] | None:
    """Return panoptic quality under both treatments: ``all``, ``things`` and ``stuff`` of each.

    Args:
        truth: Names the classes.
        rows: From ``merging_rows``; None is returned where they are empty.
    """
    return {name: quality_of_parts(truth, counts) for name, counts in rows.items()} or None


def merged_truth(table: ImageTable, stuff: Collection[int]) -> ImageTable:
    """Return a table in which the true segments of each stuff class are one, crowds aside.

    Args:
        table: Of one image.
        stuff: Stuff classes.
    """
    target = merge_targets(table.truth, stuff)
    segments = joined_segments(table.truth, target)
    if len(segments) == len(table.truth):
        return table
    overlap = table.overlap
    truth = np.array([target.get(t, t) for t in overlap.truth.tolist()], dtype=np.int64)
    pairs, place = np.unique(np.stack([truth, overlap.predicted]), axis=1, return_inverse=True)
    pixels = np.zeros(pairs.shape[1], dtype=np.int64)
    np.add.at(pixels, place.reshape(-1), overlap.pixels)
    return replace(table, truth=segments, overlap=Overlap(pairs[0], pairs[1], pixels))
