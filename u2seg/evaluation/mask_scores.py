"""Masks and baselines in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from u2seg.evaluation.baselines import baseline_results
from u2seg.evaluation.masks import mask_metrics, read_mask_results, read_mask_truth
from u2seg.evaluation.table import align

_RECALLS = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
_COLUMNS = ("AP", "AP50", *_RECALLS, "best_mask_iou", "hits")


def score_masks(results: Path, truth: Path, images: Path | None = None) -> dict[str, Any]:
    """Return name -> ``mask_metrics`` of the given masks and, with ``images``, of baselines.

    Args:
        results: COCO results or instances JSON, or the folder of a labelling run.
        truth: COCO instances JSON.
        images: Folder of the photographs; None = no baselines. Baselines are scored on exactly
            the images the masks are scored on.

    Raises:
        UserError: as ``read_mask_truth``, ``read_mask_results`` and ``baseline_results``.
    """
    masks, scored = read_mask_results(results, read_mask_truth(truth))
    scores = {"masks": mask_metrics(scored, masks)}
    if images is not None:
        for name, records in baseline_results(scored, images).items():
            scores[name] = mask_metrics(scored, records)
    return scores


def format_mask_metrics(scores: dict[str, Any]) -> str:
    """Return the result of ``score_masks`` as a table; percent."""
    head = next(iter(scores.values()))
    rows = [
        [name, row["masks"] / max(row["images"], 1), *(row[c] for c in _COLUMNS)]
        for name, row in scores.items()
    ]
    table = align(["class-agnostic", "masks/image", *_COLUMNS], rows)
    return f"{head['images']} images, {head['instances']} true instances\n\n{table}"
