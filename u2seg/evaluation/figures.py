"""From tables and a mapping to metrics: panoptic and semantic counts per image, then figures.

All metrics are percentages, None where undefined. A segment of a cluster without a class is void
(as in U2Seg's released evaluation: its pixels belong to nobody, so it is no false positive but
its pixels count as wrong in the semantic metrics) or, with ``unmatched="false_positive"``, a
false positive of the class that most of it truly is (``unmatched``).

Panoptic quality with stuff of one class merged in an image, and without.

A class set may collect several classes of the truth, so an image may have several true segments
of one stuff class. U2Seg's released evaluation (commit 8e9c709) merges neither true nor predicted
segments, so that one of several at most is matched; merging both lies nearer to the definition of
stuff. The numbers differ: both are in a result.

The block ``ci95`` of ``metrics.json``: intervals of the headline figures.
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
from u2seg.evaluation.metrics.instance import IOU_KINDS, instance_metrics
from u2seg.evaluation.metrics.overlap import Overlap, relabel
from u2seg.evaluation.metrics.panoptic import (
    ClassCounts,
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
class Confusion:
    """Pixels of one image by true and predicted class; true void left out, crowds included.

    Args:
        true_class: (N,) int64 class ids.
        predicted: (N,) int64 class ids, ``NONE`` where no class was predicted.
        pixels: (N,) int64, > 0.
    """

    true_class: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageCounts:
    """What one image adds to panoptic and semantic metrics under one mapping.

    Args:
        image_id: The image.
        panoptic: Class id -> counts, as ``Scoring.unmatched`` says.
        confusion: Pixels.
        unmatched: Class id -> false positives of segments of clusters without a class; they are
            in ``panoptic`` already if ``Scoring.unmatched`` is ``false_positive``.
    """

    image_id: int
    panoptic: dict[int, ClassCounts]
    confusion: Confusion
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
        _add(counts, unmatched)
    true_classes = {s: info.category for s, info in table.truth.items()}
    confusion = _confusion(overlap, true_classes, categories)
    return ImageCounts(table.image_id, counts, confusion, unmatched)


def _add(totals: dict[int, ClassCounts], more: Mapping[int, ClassCounts], sign: int = 1) -> None:
    for category, row in more.items():
        signed = ClassCounts(sign * row.iou, sign * row.tp, sign * row.fp, sign * row.fn)
        totals.setdefault(category, ClassCounts()).add(signed)


def _confusion(
    overlap: Overlap, true_classes: Mapping[int, int], categories: Mapping[int, int]
) -> Confusion:
    cells: dict[tuple[int, int], int] = {}
    rows = (overlap.truth.tolist(), overlap.predicted.tolist(), overlap.pixels.tolist())
    for t, p, pixels in zip(*rows, strict=True):
        if t in true_classes:
            cell = true_classes[t], max(categories.get(p, NONE), NONE)
            cells[cell] = cells.get(cell, 0) + pixels
    keys = np.array(sorted(cells), dtype=np.int64).reshape(-1, 2)
    pixels = np.array([cells[cell] for cell in sorted(cells)], dtype=np.int64)
    return Confusion(keys[:, 0], keys[:, 1], pixels)


def panoptic_totals(counts: Iterable[ImageCounts]) -> dict[int, ClassCounts]:
    """Return class -> sums over images."""
    totals: dict[int, ClassCounts] = {}
    for image in counts:
        _add(totals, image.panoptic)
    return totals


def both_treatments(
    truth: Truth, counts: Sequence[ImageCounts], scoring: Scoring
) -> dict[str, Any]:
    """Return panoptic quality with segments of clusters without a class treated either way.

    Args:
        truth: Names the classes.
        counts: Of all images.
        scoring: With which they were counted.

    Returns:
        ``void`` and ``false_positive``, each with ``all``, ``things`` and ``stuff``; and
        ``segments``, the number of false positives that make the difference.
    """
    extra = sum(row.fp for image in counts for row in image.unmatched.values())
    quality = {
        name: quality_of_parts(truth, rows) for name, rows in treated_rows(counts, scoring).items()
    }
    return {**quality, "segments": extra}


def treated_rows(
    counts: Sequence[ImageCounts], scoring: Scoring
) -> dict[str, list[dict[int, ClassCounts]]]:
    """Return ``void`` and ``false_positive`` -> the panoptic counts of each image.

    Args:
        counts: Of all images.
        scoring: With which they were counted.
    """
    counted = scoring.unmatched == FALSE_POSITIVE
    own = [image.panoptic for image in counts]
    other = []
    for image in counts:
        row: dict[int, ClassCounts] = {}
        _add(row, image.panoptic)
        _add(row, image.unmatched, -1 if counted else 1)
        other.append(row)
    return {VOID: other, FALSE_POSITIVE: own} if counted else {VOID: own, FALSE_POSITIVE: other}


def quality_of_parts(truth: Truth, rows: Iterable[Mapping[int, ClassCounts]]) -> dict[str, Any]:
    """Return panoptic quality of ``all``, ``things`` and ``stuff``.

    Args:
        truth: Names the classes.
        rows: Counts of each image.
    """
    totals: dict[int, ClassCounts] = {}
    for row in rows:
        _add(totals, row)
    parts = {"all": truth.names, "things": truth.things, "stuff": truth.stuff}
    return {part: panoptic.mean_quality(totals, ids) for part, ids in parts.items()}


def confusion_totals(truth: Truth, counts: Iterable[ImageCounts]) -> npt.NDArray[np.int64]:
    """Return the (C, C + 1) confusion matrix over images, classes in the order of ``names``."""
    place = {category: index for index, category in enumerate(truth.names)}
    matrix = np.zeros((len(place), len(place) + 1), dtype=np.int64)
    for image in counts:
        cells = image.confusion
        rows = [place[c] for c in cells.true_class.tolist()]
        cols = [place.get(c, len(place)) for c in cells.predicted.tolist()]
        np.add.at(matrix, (rows, cols), cells.pixels)
    return matrix


def panoptic_block(truth: Truth, totals: Mapping[int, ClassCounts]) -> dict[str, Any]:
    """Return ``all``, ``things``, ``stuff`` and ``per_class`` of panoptic quality.

    Args:
        truth: Names the classes.
        totals: From ``panoptic_totals``.
    """
    rows = {}
    for category in truth.names:
        row = totals.get(category, ClassCounts())
        quality = panoptic.mean_quality(totals, [category])
        del quality["n"]
        rows[category] = {**quality, "tp": row.tp, "fp": row.fp, "fn": row.fn}
    return {
        "all": panoptic.mean_quality(totals, truth.names),
        "things": panoptic.mean_quality(totals, truth.things),
        "stuff": panoptic.mean_quality(totals, truth.stuff),
        "per_class": by_name(truth.names, rows),
    }


def semantic_block(truth: Truth, confusion: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return ``mIoU``, ``mIoU_all_classes`` (absent ones as 0), ``pixel_accuracy``, ``per_class``.

    Args:
        truth: Names the classes.
        confusion: From ``confusion_totals``.
    """
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


def class_agnostic_block(
    predicted: Predictions,
    tables: Sequence[ImageTable],
    scoring: Scoring,
    matches: dict[str, Matches],
) -> dict[str, Any]:
    """Return AP and AR of ``box`` and ``segm``, classes ignored; ``matches`` gets their kinds."""
    results = _kept(predicted, scoring)
    metrics = {}
    for kind in IOU_KINDS:
        found: list[Matches] = []
        metrics[kind] = instance_metrics(*_sides(tables, results), kind, matches=found)
        matches[kind] = found[0]
    return metrics


def instance_block(
    truth: Truth,
    predicted: Predictions,
    tables: Sequence[ImageTable],
    mapping: ClusterMapping,
    scoring: Scoring,
    matches: dict[str, Matches],
) -> dict[str, Any]:
    """Return class-aware AP and AR; detections of clusters without a class are dropped.

    Args:
        truth: Names the classes.
        predicted: The predicted instances.
        tables: The true instances.
        mapping: Cluster -> class.
        scoring: Which instances count.
        matches: Gets ``box`` and ``segm`` -> what average precision rests on.
    """
    results = [
        {**result, "category_id": mapping.things[result["category_id"]]}
        for result in _kept(predicted, scoring)
        if result["category_id"] in mapping.things
    ]
    metrics = {}
    for kind in IOU_KINDS:
        found: list[Matches] = []
        row = instance_metrics(*_sides(tables, results), kind, truth.things, matches=found)
        row["per_class"] = by_name(truth.names, row["per_class"])
        metrics[kind], matches[kind] = row, found[0]
    return metrics


@dataclass(frozen=True)
class Scored:
    """Metrics under one mapping, and what they were computed from.

    Args:
        blocks: ``instances``, ``semantic``, ``panoptic`` and ``unmatched``
            (``both_treatments``); None for a task the truth cannot answer.
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
    matches: dict[str, Matches] = {}
    tasks = truth.tasks
    metrics = {
        "instances": instance_block(truth, predicted, tables, mapping, scoring, matches)
        if INSTANCES in tasks
        else None,
        "semantic": semantic_block(truth, confusion_totals(truth, counts))
        if SEMANTIC in tasks
        else None,
        "panoptic": panoptic_block(truth, panoptic_totals(counts)) if PANOPTIC in tasks else None,
        "unmatched": both_treatments(truth, counts, scoring) if PANOPTIC in tasks else None,
    }
    return Scored(metrics, counts, matches)


def _kept(predicted: Predictions, scoring: Scoring) -> list[dict[str, Any]]:
    return [
        result
        for results in predicted.instances.values()
        for result in results
        if result["score"] >= scoring.instance_score
    ]


def _sides(
    tables: Sequence[ImageTable], results: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[int]]:
    truth = [record for table in tables for record in table.instances]
    return truth, results, [table.image_id for table in tables]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


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


METHOD = "percentile bootstrap over images"


def figure_sources(
    truth: Truth,
    counts: Sequence[ImageCounts],
) -> list[Source]:
    """Return the sources of the panoptic and semantic figures that a truth can answer.

    Args:
        truth: Names the classes.
        counts: Of all images, by image id.
    """
    sources = []
    if PANOPTIC in truth.tasks:
        rows = [image.panoptic for image in counts]
        sources.append(panoptic_source(rows, truth.things, truth.stuff))
    if SEMANTIC in truth.tasks:
        place = {category: index for index, category in enumerate(truth.names)}
        cells = [
            (
                [place[c] for c in image.confusion.true_class.tolist()],
                [place.get(c, -1) for c in image.confusion.predicted.tolist()],
                image.confusion.pixels,
            )
            for image in counts
        ]
        sources.append(semantic_source(cells, len(place)))
    return sources


def treatment_sources(
    truth: Truth, block: str, treatments: Mapping[str, Sequence[Mapping[int, ClassCounts]]]
) -> list[Source]:
    """Return the sources of panoptic quality under several treatments of the same segments.

    Args:
        truth: Names the classes.
        block: ``unmatched`` or ``stuff_merging``.
        treatments: Name -> counts of each image.
    """
    return [
        panoptic_source(rows, truth.things, truth.stuff, (block, name))
        for name, rows in treatments.items()
    ]


def detection_sources(matches: Mapping[str, Mapping[str, Matches]]) -> list[Source]:
    """Return the sources of AP and AR.

    Args:
        matches: ``instances`` or ``class_agnostic`` -> kind (``box``, ``segm``) -> matches.
    """
    return [
        detection_source(found, part, kind)
        for part, kinds in matches.items()
        for kind, found in kinds.items()
    ]


def ci95(sources: Sequence[Source], images: int, resamples: int, seed: int) -> dict[str, Any]:
    """Return the block ``ci95``.

    Args:
        sources: From ``figure_sources`` and ``detection_sources``, over the same images.
        images: Scored images.
        resamples: B >= 1.
        seed: Of the draws.

    Returns:
        ``method``, ``resamples``, ``seed``, ``mapping`` (``kept``: fitted once, not anew in each
        resample), and the same tree as the figures with [low, high] in percent.
    """
    head = {"method": METHOD, "resamples": resamples, "seed": seed, "mapping": "kept"}
    return {**head, **confidence_intervals(sources, images, resamples, seed)}
