"""From tables and a mapping to metrics: panoptic and semantic counts per image, then figures.

All metrics are percentages, None where undefined. A segment of a cluster without a class is void
(as in U2Seg's released evaluation: its pixels belong to nobody, so it is no false positive but
its pixels count as wrong in the semantic metrics) or, with ``unmatched="false_positive"``, a
false positive of the class that most of it truly is (``unmatched_positives``).

A class set may collect several classes of the truth, so an image may have several true segments
of one stuff class. U2Seg's released evaluation (commit 8e9c709) merges neither true nor predicted
segments, so that one of several at most is matched; merging both lies nearer to the definition of
stuff. The numbers differ: both are in a result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.evaluation.collect import NONE, ImageTable
from u2seg.evaluation.metrics import panoptic, semantic
from u2seg.evaluation.metrics.bootstrap import (
    Matches,
    Source,
    confidence_intervals,
    detection_source,
    panoptic_source,
    semantic_source,
)
from u2seg.evaluation.metrics.instance import IOU_KINDS, match_instances
from u2seg.evaluation.metrics.overlap import Overlap, relabel, sum_pairs
from u2seg.evaluation.metrics.panoptic import (
    ClassCounts,
    add_counts,
    joined_segments,
    merge_targets,
    unmatched_positives,
)
from u2seg.evaluation.protocols.mapping import ClusterMapping
from u2seg.evaluation.protocols.task_rules import collects_stuff
from u2seg.evaluation.truth.base import INSTANCES, PANOPTIC, SEMANTIC, Truth, by_name
from u2seg.evaluation.truth.classes import class_view
from u2seg.evaluation.truth.predictions import Predictions

VOID, FALSE_POSITIVE = "void", "false_positive"
METHOD = "percentile bootstrap over images"
Rows = list[dict[int, ClassCounts]]
"""Panoptic counts of each image."""


@dataclass(frozen=True)
class Scoring:
    """How tables are scored once clusters have classes.

    Args:
        merge_stuff: Merge predicted segments that map to the same stuff class of an image.
        unmatched: What a segment of a cluster without a class is: ``void`` or
            ``false_positive``.
        instance_score: Instances below this are left out of AP, 0..1.
    """

    merge_stuff: bool = True
    unmatched: str = VOID
    instance_score: float = 0.0

    def __post_init__(self) -> None:
        if self.unmatched not in (VOID, FALSE_POSITIVE):
            raise ValueError(f"unmatched is {self.unmatched!r}, expected void or false_positive")


@dataclass(frozen=True)
class ImageCounts:
    """What one image adds to panoptic and semantic metrics under one mapping.

    Args:
        image_id: The image.
        panoptic: Class id -> counts, as ``Scoring.unmatched`` says.
        confusion: (3, N) int64: true class, predicted class (``NONE`` without one) and pixels;
            true void left out, crowds included.
        unmatched: Class id -> false positives of segments of clusters without a class; they are
            in ``panoptic`` already if ``Scoring.unmatched`` is ``false_positive``.
    """

    image_id: int
    panoptic: dict[int, ClassCounts]
    confusion: npt.NDArray[np.int64]
    unmatched: dict[int, ClassCounts] = field(default_factory=dict)


def image_counts(
    table: ImageTable, truth: Truth, mapping: ClusterMapping, scoring: Scoring
) -> ImageCounts:
    """Return the counts of one image."""
    classes = mapping.all
    nameless = [s for s, cluster in table.predicted.items() if cluster not in classes]
    categories = {s: classes[c] for s, c in table.predicted.items() if c in classes}
    merge = set(truth.stuff) if scoring.merge_stuff else set()
    overlap, categories = relabel(table.overlap, categories, merge)
    counts = panoptic.count_matches(overlap, table.truth, categories)
    unmatched = unmatched_positives(table.overlap, table.truth, nameless)
    if scoring.unmatched == FALSE_POSITIVE:
        add_counts(counts, unmatched)
    true = [table.truth[t].category if t in table.truth else NONE for t in overlap.truth.tolist()]
    found = [categories.get(p, NONE) for p in overlap.predicted.tolist()]
    classes_of = np.array([true, found], dtype=np.int64).reshape(2, -1)
    known = classes_of[0] != NONE
    confusion = sum_pairs(classes_of[0, known], classes_of[1, known], overlap.pixels[known])
    return ImageCounts(table.image_id, counts, confusion, unmatched)


def total(rows: Iterable[Mapping[int, ClassCounts]]) -> dict[int, ClassCounts]:
    """Return class -> sums over images."""
    totals: dict[int, ClassCounts] = {}
    for row in rows:
        add_counts(totals, row)
    return totals


def treated_rows(counts: Sequence[ImageCounts], scoring: Scoring) -> dict[str, Rows]:
    """Return ``void`` and ``false_positive`` -> the panoptic counts of each image."""
    counted = scoring.unmatched == FALSE_POSITIVE
    own, other = [image.panoptic for image in counts], []
    for image in counts:
        row = total([image.panoptic])
        add_counts(row, image.unmatched, -1 if counted else 1)
        other.append(row)
    return {VOID: other, FALSE_POSITIVE: own} if counted else {VOID: own, FALSE_POSITIVE: other}


def quality_of_parts(truth: Truth, rows: Iterable[Mapping[int, ClassCounts]]) -> dict[str, Any]:
    """Return panoptic quality of ``all``, ``things`` and ``stuff`` from counts of images."""
    totals = total(rows)
    parts = {"all": truth.names, "things": truth.things, "stuff": truth.stuff}
    return {part: panoptic.mean_quality(totals, ids) for part, ids in parts.items()}


def panoptic_block(truth: Truth, rows: Sequence[Mapping[int, ClassCounts]]) -> dict[str, Any]:
    """Return ``all``, ``things``, ``stuff`` and ``per_class`` of panoptic quality."""
    totals, per_class = total(rows), {}
    for category in truth.names:
        row = totals.get(category, ClassCounts())
        quality = panoptic.mean_quality(totals, [category])
        del quality["n"]
        per_class[category] = {**quality, "tp": row.tp, "fp": row.fp, "fn": row.fn}
    return {**quality_of_parts(truth, rows), "per_class": by_name(truth.names, per_class)}


def confusion_cells(truth: Truth, counts: Iterable[ImageCounts]) -> list[npt.NDArray[np.int64]]:
    """Return the confusion of each image by index: classes in the order of ``names``, C = none."""
    place = {category: index for index, category in enumerate(truth.names)}
    cells = []
    for image in counts:
        true, found, pixels = image.confusion
        columns = [place.get(c, len(place)) for c in found.tolist()]
        cells.append(np.array([[place[c] for c in true.tolist()], columns, pixels], np.int64))
    return cells


def semantic_block(truth: Truth, counts: Iterable[ImageCounts]) -> dict[str, Any]:
    """Return ``mIoU``, ``mIoU_all_classes`` (absent as 0), ``pixel_accuracy``, ``per_class``."""
    confusion = np.zeros((len(truth.names), len(truth.names) + 1), dtype=np.int64)
    for true, found, pixels in confusion_cells(truth, counts):
        np.add.at(confusion, (true, found), pixels)
    iou, accuracy = semantic.class_iou(confusion), semantic.class_accuracy(confusion)
    rows = {
        category: {"IoU": _number(iou[i]), "accuracy": _number(accuracy[i])}
        for i, category in enumerate(truth.names)
    }
    return {
        "mIoU": semantic.mean_iou(confusion),
        "mIoU_all_classes": semantic.mean_iou(confusion, absent=True),
        "pixel_accuracy": semantic.pixel_accuracy(confusion),
        "per_class": by_name(truth.names, rows),
    }


def instance_block(
    truth: Truth,
    predicted: Predictions,
    tables: Sequence[ImageTable],
    scoring: Scoring,
    mapping: ClusterMapping | None = None,
) -> tuple[dict[str, Any], dict[str, Matches]]:
    """Return AP and AR of ``box`` and ``segm``, and what average precision of each rests on.

    Args:
        truth: Names the classes.
        predicted: The predicted instances.
        tables: The true instances.
        scoring: Which instances count.
        mapping: Cluster -> class; detections of clusters without a class are dropped. None =
            classes are ignored.
    """
    results = [
        result
        for found in predicted.instances.values()
        for result in found
        if result["score"] >= scoring.instance_score
    ]
    if mapping is not None:
        given = mapping.things
        results = [
            {**r, "category_id": given[r["category_id"]]}
            for r in results
            if r["category_id"] in given
        ]
    true = [record for table in tables for record in table.instances]
    image_ids = [table.image_id for table in tables]
    classes = None if mapping is None else truth.things
    block, matches = {}, {}
    for kind in IOU_KINDS:
        row, matches[kind] = match_instances(true, results, image_ids, kind, classes)
        if "per_class" in row:
            row["per_class"] = by_name(truth.names, row["per_class"])
        block[kind] = row
    return block, matches


@dataclass(frozen=True)
class Scored:
    """Metrics under one mapping, and what they were computed from.

    Args:
        blocks: ``instances``, ``semantic``, ``panoptic`` and ``unmatched`` (panoptic quality
            with segments of clusters without a class treated either way, and the number of
            ``segments`` that make the difference); None for a task the truth cannot answer.
        counts: Of each image.
        matches: ``box`` and ``segm`` -> what average precision by class rests on.
    """

    blocks: dict[str, Any]
    counts: list[ImageCounts]
    matches: dict[str, Matches]


def score(
    truth: Truth,
    predicted: Predictions,
    tables: Sequence[ImageTable],
    mapping: ClusterMapping,
    scoring: Scoring,
) -> Scored:
    """Return the metrics under one mapping."""
    counts = [image_counts(table, truth, mapping, scoring) for table in tables]
    blocks: dict[str, Any] = dict.fromkeys(("instances", "semantic", "panoptic", "unmatched"))
    matches: dict[str, Matches] = {}
    if INSTANCES in truth.tasks:
        blocks["instances"], matches = instance_block(truth, predicted, tables, scoring, mapping)
    if SEMANTIC in truth.tasks:
        blocks["semantic"] = semantic_block(truth, counts)
    if PANOPTIC in truth.tasks:
        blocks["panoptic"] = panoptic_block(truth, [image.panoptic for image in counts])
        treated = treated_rows(counts, scoring).items()
        extra = sum(row.fp for image in counts for row in image.unmatched.values())
        blocks["unmatched"] = {name: quality_of_parts(truth, rows) for name, rows in treated}
        blocks["unmatched"]["segments"] = extra
    return Scored(blocks, counts, matches)


def merging_rows(
    truth: Truth, tables: Sequence[ImageTable], mapping: ClusterMapping, scoring: Scoring
) -> dict[str, Rows]:
    """Return the panoptic counts with stuff of one class merged in an image, and without.

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
    merged = view is None or view.merge_stuff
    if merged or PANOPTIC not in truth.tasks or not collects_stuff(truth):
        return {}
    sides = {"neither": tables, "both": [merged_truth(table, truth.stuff) for table in tables]}
    return {
        name: [
            image_counts(t, truth, mapping, replace(scoring, merge_stuff=name == "both")).panoptic
            for t in chosen
        ]
        for name, chosen in sides.items()
    }


def merged_truth(table: ImageTable, stuff: Collection[int]) -> ImageTable:
    """Return a table in which the true segments of each stuff class are one, crowds aside."""
    target = merge_targets(table.truth, stuff)
    segments = joined_segments(table.truth, target)
    if len(segments) == len(table.truth):
        return table
    overlap = table.overlap
    truth = np.array([target.get(t, t) for t in overlap.truth.tolist()], dtype=np.int64)
    joined = Overlap(*sum_pairs(truth, overlap.predicted, overlap.pixels))
    return replace(table, truth=segments, overlap=joined)


def figure_sources(truth: Truth, counts: Sequence[ImageCounts]) -> list[Source]:
    """Return the sources of intervals of the panoptic and semantic figures a truth can answer."""
    sources = []
    if PANOPTIC in truth.tasks:
        rows = [image.panoptic for image in counts]
        sources.append(panoptic_source(rows, truth.things, truth.stuff))
    if SEMANTIC in truth.tasks:
        sources.append(semantic_source(confusion_cells(truth, counts), len(truth.names)))
    return sources


def treatment_sources(truth: Truth, block: str, treatments: Mapping[str, Rows]) -> list[Source]:
    """Return the sources of panoptic quality under several treatments of the same segments."""
    return [
        panoptic_source(rows, truth.things, truth.stuff, (block, name))
        for name, rows in treatments.items()
    ]


def detection_sources(block: str, matches: Mapping[str, Matches]) -> list[Source]:
    """Return the sources of AP and AR of each kind of a block."""
    return [detection_source(found, block, kind) for kind, found in matches.items()]


def ci95(sources: Sequence[Source], images: int, resamples: int, seed: int) -> dict[str, Any]:
    """Return the block ``ci95``: intervals of figures over the same images.

    Returns:
        ``method``, ``resamples``, ``seed``, ``mapping`` (``kept``: fitted once, not anew in each
        resample), and the same tree as the figures with [low, high] in percent; empty without
        resamples.
    """
    if not resamples:
        return {}
    head = {"method": METHOD, "resamples": resamples, "seed": seed, "mapping": "kept"}
    return {**head, **confidence_intervals(sources, images, resamples, seed)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
