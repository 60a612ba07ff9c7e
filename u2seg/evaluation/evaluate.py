"""Score a folder of predictions against truth.

One pass over the images gathers tables (``gather``); then clusters are matched to classes, and
panoptic, semantic and instance metrics follow from the tables (``figures``).

Conventions, also stated in ``protocol`` of the result: all metrics are percentages, None where
undefined; a segment or instance whose cluster has no class is dropped (its pixels are void, as
in U2Seg's released evaluation, so it is no false positive but its pixels count as wrong in the
semantic metrics); an image without prediction counts as an empty prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from u2seg.config.schema import EvalSettings
from u2seg.evaluation.figures import Scoring, blocks, class_agnostic_block
from u2seg.evaluation.files import GroundTruth, Predictions, read_predictions, read_truth
from u2seg.evaluation.gather import ImageTable, gather
from u2seg.evaluation.mapping import ClusterMapping, fit_mapping, identity_mapping, read_mapping
from u2seg.evaluation.truth import INSTANCES, Truth
from u2seg.evaluation.votes import stuff_votes, thing_votes
from u2seg.io.atomic import write_json

logger = logging.getLogger(__name__)


def evaluate_folder(
    predictions: Path,
    truth: GroundTruth | Truth,
    settings: EvalSettings,
    mapping: Path | None = None,
    reference: str = "",
    *,
    workers: int = 1,
) -> dict[str, Any]:
    """Return the metrics of a result folder; also written there.

    Args:
        predictions: Folder with ``panoptic.json``, ``panoptic/``, ``instances.json`` and, to
            vote with the semantic head, ``stuff/``; without it predicted stuff segments vote.
        truth: COCO panoptic files, or any truth; the annotated images are scored, all of them.
        settings: Matching and thresholds.
        mapping: ``mapping.json`` of an earlier evaluation (e.g. of a held-out split) to use
            instead of fitting one on this split; ``settings.matching`` is then not used.
        reference: What the predictions are compared with, for people; ``PSEUDO_LABELS`` if it
            is no ground truth; empty = the path of the truth.
        workers: Processes that read the images; the result does not depend on it.

    Returns:
        ``protocol``, ``class_agnostic`` and ``instances`` (each with ``box`` and ``segm``),
        ``semantic``, ``panoptic``; None for a task the truth cannot answer. Also written:
        ``metrics.json``, ``mapping.json``.

    Raises:
        UserError: if a file is missing or garbled; predictions are for images without truth;
            sizes differ; or a PNG holds ids that its JSON lacks.
    """
    true_set = read_truth(truth) if isinstance(truth, GroundTruth) else truth
    predicted = read_predictions(Path(predictions), true_set)
    tables = gather(true_set, predicted, workers=workers)
    empty = sum(table.empty for table in tables)
    if empty:
        logger.warning("%d of %d images have no prediction and count as empty", empty, len(tables))
    clusters = _mapping(true_set, predicted, settings, mapping, tables)
    scoring = Scoring(settings.merge_stuff, instance_score=settings.instance_score)
    metrics = {
        "protocol": {
            "reference": reference or str(true_set.source),
            **_protocol(true_set, predicted, settings, clusters, tables),
        },
        "class_agnostic": class_agnostic_block(predicted, tables, scoring)
        if INSTANCES in true_set.tasks
        else None,
        **blocks(true_set, predicted, tables, clusters, scoring),
    }
    write_json(predicted.folder / "mapping.json", clusters.to_json(), indent=1)
    write_json(predicted.folder / "metrics.json", metrics, indent=1)
    return metrics


def _mapping(
    truth: Truth,
    predicted: Predictions,
    settings: EvalSettings,
    given: Path | None,
    tables: Sequence[ImageTable],
) -> ClusterMapping:
    clusters = predicted.panoptic
    if given is not None:
        return read_mapping(given, clusters, truth)
    if settings.matching == "identity":
        return identity_mapping(clusters, truth)
    things = thing_votes(
        tables,
        clusters.things,
        truth.things,
        score=settings.match_score,
        iou=settings.match_iou,
    )
    stuff = stuff_votes(tables, clusters.stuff, truth.stuff)
    return fit_mapping(settings.matching, clusters, truth, things, stuff)


def _protocol(
    truth: Truth,
    predicted: Predictions,
    settings: EvalSettings,
    clusters: ClusterMapping,
    tables: Sequence[ImageTable],
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
        "images": len(tables),
        "images_without_prediction": sum(table.empty for table in tables),
        "clusters": {
            "things": len(predicted.panoptic.things),
            "stuff": len(predicted.panoptic.stuff),
            "matched_things": len(clusters.things),
            "matched_stuff": len(clusters.stuff),
        },
        "classes": {"things": len(truth.things), "stuff": len(truth.stuff)},
    }
