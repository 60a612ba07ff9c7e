"""Files beside ``metrics.json``: per class, per cluster, per image, and the worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from u2seg.evaluation.class_table import class_rows, per_class_csv
from u2seg.evaluation.confusion import ClusterCounts, clusters_csv
from u2seg.evaluation.figures import ImageCounts
from u2seg.evaluation.files import Predictions
from u2seg.evaluation.gather import ImageTable
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.truth import Truth
from u2seg.evaluation.worst import image_scores, images_csv, worst_images
from u2seg.io.atomic import write_json, write_text


def write_details(
    truth: Truth,
    predicted: Predictions,
    tables: Sequence[ImageTable],
    counts: Sequence[ImageCounts],
    clusters: ClusterCounts,
    mapping: ClusterMapping,
    metrics: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write ``per_class.csv``, ``clusters.csv``, ``images.csv``, ``worst.json`` and ``worst/``.

    Args:
        truth: The truth; the worst images are read again.
        predicted: The predictions; those of the worst images are read again.
        tables: Of the scored images.
        counts: Of the same images, under ``mapping``.
        clusters: From ``count_clusters``.
        mapping: Cluster -> class.
        metrics: ``panoptic``, ``semantic`` and ``instances`` under ``mapping``.
        folder: Gets the files.

    Raises:
        UserError: if a file cannot be written.
    """
    rows = class_rows(metrics, truth, mapping, tables, predicted.panoptic.names)
    write_text(folder / "per_class.csv", per_class_csv(rows))
    text = clusters_csv(clusters, predicted.panoptic, truth, mapping)
    write_text(folder / "clusters.csv", text)
    scores = image_scores(counts, truth)
    write_text(folder / "images.csv", images_csv(scores, truth))
    worst = worst_images(scores, truth, predicted, mapping, folder)
    write_json(folder / "worst.json", worst, indent=1)
