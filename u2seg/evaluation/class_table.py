"""The figures of each class in one table, for ``per_class.csv`` and the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from u2seg.evaluation.csvfile import Cell, csv_text
from u2seg.evaluation.files import by_name
from u2seg.evaluation.gather import ImageTable
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.truth import Truth

COLUMNS = (
    "class_id", "class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", "accuracy",
    "box_AP", "box_AP50", "box_AR100", "AP", "AP50", "AR100", "clusters", "pixels",
)  # fmt: skip
_AP = ("AP", "AP50", "AR100")


def class_rows(
    metrics: Mapping[str, Any],
    truth: Truth,
    mapping: ClusterMapping,
    tables: Iterable[ImageTable],
    cluster_names: Mapping[int, str],
) -> list[list[Cell]]:
    """Return a row for each class, in the order of the truth.

    Args:
        metrics: ``panoptic``, ``semantic`` and ``instances`` with ``per_class``, or None.
        truth: Names the classes.
        mapping: Cluster -> class.
        tables: Of the scored images.
        cluster_names: Cluster -> name.

    Returns:
        Rows of ``COLUMNS``: percentages, None where undefined; ``clusters`` are the names of
        those that were given the class, ``pixels`` its true pixels, crowds included.
    """
    pixels = class_pixels(tables)
    named = by_name(truth.names, {c: c for c in truth.names})
    rows: list[list[Cell]] = []
    for name, category in named.items():
        quality = _of_class(metrics, name, "panoptic")
        semantic = _of_class(metrics, name, "semantic")
        given = [cluster_names[k] for k, c in mapping.all.items() if c == category]
        rows.append(
            [
                category,
                name,
                "thing" if category in truth.things else "stuff",
                *(quality.get(key) for key in ("PQ", "SQ", "RQ", "tp", "fp", "fn")),
                *(semantic.get(key) for key in ("IoU", "accuracy")),
                *(_of_class(metrics, name, "instances", "box").get(key) for key in _AP),
                *(_of_class(metrics, name, "instances", "segm").get(key) for key in _AP),
                " ".join(given),
                pixels.get(category, 0),
            ]
        )
    return rows


def per_class_csv(rows: Iterable[list[Cell]]) -> str:
    """Return the content of ``per_class.csv``."""
    return csv_text(COLUMNS, rows)


def class_pixels(tables: Iterable[ImageTable]) -> dict[int, int]:
    """Return class -> true pixels, crowds included."""
    sums: dict[int, int] = {}
    for table in tables:
        for true, pixels in zip(
            table.overlap.truth.tolist(), table.overlap.pixels.tolist(), strict=True
        ):
            if true in table.truth:
                category = table.truth[true].category
                sums[category] = sums.get(category, 0) + pixels
    return sums


def _of_class(metrics: Mapping[str, Any], name: str, *path: str) -> Mapping[str, Any]:
    node: Any = metrics
    for key in (*path, "per_class", name):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}
