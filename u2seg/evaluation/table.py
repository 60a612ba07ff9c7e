"""Metrics as text for the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from u2seg.evaluation.files import PSEUDO_LABELS

Cell = str | float | int | None


def format_metrics(metrics: dict[str, Any], per_class: bool = False) -> str:
    """Return the result of ``evaluate_folder`` as aligned tables.

    Args:
        metrics: Its result; percentages.
        per_class: Add a row per class.

    Returns:
        Lines without a trailing newline; undefined values are shown as ``-``.
    """
    protocol = metrics["protocol"]
    clusters, classes = protocol["clusters"], protocol["classes"]
    head = (
        f"{protocol['images']} images; {_reference(protocol['reference'])}; "
        f"protocol {protocol['name']}, {protocol['matching']} matching, "
        f"{protocol['mapping_fitted_on']}: "
        f"{clusters['matched_things']} of {clusters['things']} thing clusters to "
        f"{classes['things']} classes, {clusters['matched_stuff']} of {clusters['stuff']} stuff "
        f"clusters to {classes['stuff']}"
    )
    parts = [head, _panoptic_table(metrics), _semantic_table(metrics), _instance_table(metrics)]
    if per_class:
        parts.append(_class_table(metrics))
    return "\n\n".join(parts)


def _reference(name: str) -> str:
    if name == PSEUDO_LABELS:
        return "compared with the pseudo-labels (agreement, not accuracy)"
    return f"compared with {name}"


def align(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return rows in columns: the first to the left, numbers to the right with two decimals.

    Examples:
        >>> print(align(["", "PQ", "n"], [["all", 41.236, 9], ["things", None, 0]]))
                   PQ  n
        all     41.24  9
        things      -  0
    """
    cells = [list(header), *[[_text(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def _panoptic_table(metrics: dict[str, Any]) -> str:
    keys = ("PQ", "SQ", "RQ", "n")
    rows = [
        [part, *(metrics["panoptic"][part][k] for k in keys)] for part in ("all", "things", "stuff")
    ]
    return align(["panoptic", *keys], rows)


def _semantic_table(metrics: dict[str, Any]) -> str:
    keys = ("mIoU", "pixel_accuracy")
    return align(["semantic", *keys], [["all", *(metrics["semantic"][k] for k in keys)]])


def _instance_table(metrics: dict[str, Any]) -> str:
    keys = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")
    rows = []
    for part in ("class_agnostic", "instances"):
        for kind, values in metrics[part].items():
            rows.append([f"{part} {kind}", *(values[k] for k in keys)])
    return align(["instances", *keys], rows)


def _class_table(metrics: dict[str, Any]) -> str:
    masks = metrics["instances"]["segm"]["per_class"]
    rows: list[list[Cell]] = []
    for name, quality in metrics["panoptic"]["per_class"].items():
        iou = metrics["semantic"]["per_class"][name]["IoU"]
        row = [name, quality["PQ"], quality["SQ"], quality["RQ"], iou]
        rows.append([*row, masks.get(name, {}).get("AP")])
    return align(["class", "PQ", "SQ", "RQ", "IoU", "mask AP"], rows)
