"""Score a folder of predictions against panoptic truth.

One pass over the images gathers overlap tables and votes; then clusters are matched to classes,
and panoptic, semantic and instance metrics follow from the tables.

Conventions, also stated in ``protocol`` of the result: all metrics are percentages, None where
undefined; a segment or instance whose cluster has no class is dropped (its pixels are void, as
in U2Seg's released evaluation, so it is no false positive but its pixels count as wrong in the
semantic metrics); an image without prediction counts as an empty prediction.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from u2seg.config.schema import EvalSettings
from u2seg.evaluation import panoptic, semantic
from u2seg.evaluation.files import (
    GroundTruth,
    PanopticSet,
    Predictions,
    by_name,
    check_shape,
    read_predictions,
    read_truth,
)
from u2seg.evaluation.instance import IOU_KINDS, instance_metrics, truth_instances
from u2seg.evaluation.mapping import ClusterMapping, fit_mapping, identity_mapping, read_mapping
from u2seg.evaluation.matching import Votes, instance_votes
from u2seg.evaluation.overlap import Overlap, count_overlaps, relabel
from u2seg.io.atomic import write_json

logger = logging.getLogger(__name__)


def evaluate_folder(
    predictions: Path,
    truth: GroundTruth,
    settings: EvalSettings,
    mapping: Path | None = None,
    reference: str = "",
) -> dict[str, Any]:
    """Return the metrics of a result folder; also written there.

    Args:
        predictions: Folder with ``panoptic.json``, ``panoptic/``, ``instances.json`` and, to
            vote with the semantic head, ``stuff/``; without it predicted stuff segments vote.
        truth: COCO panoptic truth; the annotated images are scored, all of them.
        settings: Matching and thresholds.
        mapping: ``mapping.json`` of an earlier evaluation (e.g. of a held-out split) to use
            instead of fitting one on this split; ``settings.matching`` is then not used.
        reference: What the predictions are compared with, for people; ``PSEUDO_LABELS`` if it
            is no ground truth; empty = the path of the truth.

    Returns:
        ``protocol``, ``class_agnostic`` and ``instances`` (each with ``box`` and ``segm``),
        ``semantic``, ``panoptic``. Also written: ``metrics.json``, ``mapping.json``.

    Raises:
        UserError: if a file is missing or garbled; predictions are for images without truth;
            sizes differ; or a PNG holds ids that its JSON lacks.
    """
    true_set = read_truth(truth)
    predicted = read_predictions(Path(predictions), true_set)
    gathered = _gather(true_set, predicted, settings)
    clusters = _mapping(true_set, predicted, settings, mapping, gathered)
    metrics = {
        "protocol": {
            "reference": reference or str(true_set.source),
            **_protocol(true_set, predicted, settings, clusters, gathered),
        },
        "class_agnostic": _class_agnostic(true_set, predicted, settings, gathered),
        "instances": _instances(true_set, predicted, settings, clusters, gathered),
        **_dense(true_set, predicted, settings, clusters, gathered),
    }
    write_json(predicted.folder / "mapping.json", clusters.to_json(), indent=1)
    write_json(predicted.folder / "metrics.json", metrics, indent=1)
    return metrics


@dataclass
class _Gathered:
    """What one pass over the images leaves.

    Args:
        thing_votes, stuff_votes: (K, C) and (S, D).
        overlaps: Image id -> table.
        instances: True instances as COCO annotations.
        empty: Images without prediction.
    """

    thing_votes: Votes
    stuff_votes: Votes
    overlaps: dict[int, Overlap] = field(default_factory=dict)
    instances: list[dict[str, Any]] = field(default_factory=list)
    empty: int = 0


def _gather(truth: PanopticSet, predicted: Predictions, settings: EvalSettings) -> _Gathered:
    clusters = predicted.panoptic
    gathered = _Gathered(
        np.zeros((len(clusters.things), len(truth.things)), dtype=np.int64),
        np.zeros((len(clusters.stuff), len(truth.stuff)), dtype=np.int64),
    )
    for image_id in tqdm(truth.segments, desc="evaluate", disable=None):
        ids = truth.read_ids(image_id)
        guess = _predicted_ids(predicted, image_id, ids.shape)
        if guess is None:
            gathered.empty += 1
        overlap = count_overlaps(ids, np.zeros_like(ids) if guess is None else guess)
        truth.check_ids(image_id, np.unique(overlap.truth).tolist())
        if guess is not None:
            clusters.check_ids(image_id, np.unique(overlap.predicted).tolist(), every=True)
            gathered.stuff_votes += _stuff_votes(truth, predicted, image_id, ids, overlap)
        gathered.overlaps[image_id] = overlap
        instances = truth_instances(ids, truth.segments[image_id], truth.things, image_id)
        gathered.instances.extend(instances)
        gathered.thing_votes += _thing_votes(truth, predicted, settings, image_id, instances)
    if gathered.empty:
        logger.warning(
            "%d of %d images have no prediction and count as empty",
            gathered.empty,
            len(truth.segments),
        )
    return gathered


def _predicted_ids(
    predicted: Predictions, image_id: int, shape: tuple[int, ...]
) -> npt.NDArray[np.int32] | None:
    if image_id not in predicted.panoptic.segments:
        return None
    ids = predicted.panoptic.read_ids(image_id)
    check_shape(predicted.panoptic.png_path(image_id), ids.shape, shape, "the true map has")
    return ids


def _thing_votes(
    truth: PanopticSet,
    predicted: Predictions,
    settings: EvalSettings,
    image_id: int,
    instances: list[dict[str, Any]],
) -> Votes:
    rows = {category: row for row, category in enumerate(predicted.panoptic.things)}
    cols = {category: col for col, category in enumerate(truth.things)}
    return instance_votes(
        [
            (rows[r["category_id"]], r["segmentation"])
            for r in predicted.instances.get(image_id, [])
            if r["score"] >= settings.match_score
        ],
        [(cols[r["category_id"]], r["segmentation"]) for r in instances if not r["iscrowd"]],
        (len(rows), len(cols)),
        settings.match_iou,
    )


def _stuff_votes(
    truth: PanopticSet,
    predicted: Predictions,
    image_id: int,
    ids: npt.NDArray[np.int32],
    overlap: Overlap,
) -> Votes:
    """Return pixels of each stuff cluster on each true stuff class; crowds and void left out."""
    clusters = predicted.panoptic
    table = overlap
    if predicted.has_stuff_maps:
        stuff = predicted.read_stuff(image_id, ids.shape)
        table = count_overlaps(ids, stuff)
        rows = {value + 1: value for value in range(len(clusters.stuff))}
    else:
        order = {category: row for row, category in enumerate(clusters.stuff)}
        segments = clusters.segments[image_id].items()
        rows = {s: order[info.category] for s, info in segments if info.category in order}
    order = {category: col for col, category in enumerate(truth.stuff)}
    cols = {
        s: order[info.category]
        for s, info in truth.segments[image_id].items()
        if info.category in order and not info.crowd
    }
    votes = np.zeros((len(clusters.stuff), len(truth.stuff)), dtype=np.int64)
    for t, p, pixels in zip(table.truth, table.predicted, table.pixels, strict=True):
        if int(t) in cols and int(p) in rows:
            votes[rows[int(p)], cols[int(t)]] += pixels
    return votes


def _mapping(
    truth: PanopticSet,
    predicted: Predictions,
    settings: EvalSettings,
    given: Path | None,
    gathered: _Gathered,
) -> ClusterMapping:
    if given is not None:
        return read_mapping(given, predicted.panoptic, truth)
    if settings.matching == "identity":
        return identity_mapping(predicted.panoptic, truth)
    return fit_mapping(
        settings.matching,
        predicted.panoptic,
        truth,
        gathered.thing_votes,
        gathered.stuff_votes,
    )


def _kept(predicted: Predictions, settings: EvalSettings) -> list[dict[str, Any]]:
    return [
        result
        for results in predicted.instances.values()
        for result in results
        if result["score"] >= settings.instance_score
    ]


def _class_agnostic(
    truth: PanopticSet, predicted: Predictions, settings: EvalSettings, gathered: _Gathered
) -> dict[str, Any]:
    results = _kept(predicted, settings)
    images = list(truth.segments)
    return {k: instance_metrics(gathered.instances, results, images, k) for k in IOU_KINDS}


def _instances(
    truth: PanopticSet,
    predicted: Predictions,
    settings: EvalSettings,
    clusters: ClusterMapping,
    gathered: _Gathered,
) -> dict[str, Any]:
    """Return class-aware AP; detections of clusters without a class are dropped."""
    results = [
        {**result, "category_id": clusters.things[result["category_id"]]}
        for result in _kept(predicted, settings)
        if result["category_id"] in clusters.things
    ]
    metrics = {}
    for kind in IOU_KINDS:
        row = instance_metrics(
            gathered.instances, results, list(truth.segments), kind, truth.things
        )
        row["per_class"] = by_name(truth.names, row["per_class"])
        metrics[kind] = row
    return metrics


def _dense(
    truth: PanopticSet,
    predicted: Predictions,
    settings: EvalSettings,
    clusters: ClusterMapping,
    gathered: _Gathered,
) -> dict[str, Any]:
    """Return the semantic and panoptic metrics."""
    classes = {category: index for index, category in enumerate(truth.names)}
    merge = set(truth.stuff) if settings.merge_stuff else set()
    counts: dict[int, panoptic.ClassCounts] = {}
    confusion = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
    for image_id, overlap in gathered.overlaps.items():
        found = predicted.panoptic.segments.get(image_id, {})
        mapped = {
            segment: clusters.all[info.category]
            for segment, info in found.items()
            if info.category in clusters.all
        }
        table, categories = relabel(overlap, mapped, merge)
        true_segments = truth.segments[image_id]
        for category, row in panoptic.count_matches(table, true_segments, categories).items():
            counts.setdefault(category, panoptic.ClassCounts()).add(row)
        true_class = {s: classes[info.category] for s, info in true_segments.items()}
        predicted_class = {s: classes[category] for s, category in categories.items()}
        confusion += semantic.confusion_matrix(
            _look_up(table.truth, true_class),
            _look_up(table.predicted, predicted_class),
            len(classes),
            table.pixels,
        )
    return {
        "semantic": _semantic(truth, confusion),
        "panoptic": _panoptic(truth, counts),
    }


def _look_up(ids: npt.NDArray[np.int64], classes: dict[int, int]) -> npt.NDArray[np.int64]:
    return np.array([classes.get(int(i), semantic.IGNORE) for i in ids], dtype=np.int64)


def _semantic(truth: PanopticSet, confusion: npt.NDArray[np.int64]) -> dict[str, Any]:
    iou, accuracy = semantic.class_iou(confusion), semantic.class_accuracy(confusion)
    rows = {
        category: {"IoU": _number(iou[i]), "accuracy": _number(accuracy[i])}
        for i, category in enumerate(truth.names)
    }
    return {
        "mIoU": semantic.mean_iou(confusion),
        "pixel_accuracy": semantic.pixel_accuracy(confusion),
        "per_class": by_name(truth.names, rows),
    }


def _panoptic(truth: PanopticSet, counts: dict[int, panoptic.ClassCounts]) -> dict[str, Any]:
    rows = {}
    for category in truth.names:
        row = counts.get(category, panoptic.ClassCounts())
        quality = panoptic.mean_quality(counts, [category])
        del quality["n"]
        rows[category] = {**quality, "tp": row.tp, "fp": row.fp, "fn": row.fn}
    return {
        "all": panoptic.mean_quality(counts, truth.names),
        "things": panoptic.mean_quality(counts, truth.things),
        "stuff": panoptic.mean_quality(counts, truth.stuff),
        "per_class": by_name(truth.names, rows),
    }


def _protocol(
    truth: PanopticSet,
    predicted: Predictions,
    settings: EvalSettings,
    clusters: ClusterMapping,
    gathered: _Gathered,
) -> dict[str, Any]:
    return {
        "matching": clusters.matching,
        "mapping_fitted_on": clusters.fitted_on,
        "thresholds": {
            "match_iou": settings.match_iou,
            "match_score": settings.match_score,
            "instance_score": settings.instance_score,
        },
        "merge_stuff": settings.merge_stuff,
        "unmatched_clusters": "dropped",
        "stuff_votes_from": "stuff maps" if predicted.has_stuff_maps else "panoptic segments",
        "images": len(truth.segments),
        "images_without_prediction": gathered.empty,
        "clusters": {
            "things": len(predicted.panoptic.things),
            "stuff": len(predicted.panoptic.stuff),
            "matched_things": len(clusters.things),
            "matched_stuff": len(clusters.stuff),
        },
        "classes": {"things": len(truth.things), "stuff": len(truth.stuff)},
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
