"""Results of one pass under several protocols, side by side."""

from __future__ import annotations

from typing import Any

from u2seg.evaluation.table import Cell, align, compared_with, interval_cell

_HEADER = (
    "protocol", "PQ", "SQ", "RQ", "PQ things", "PQ stuff", "PQ, unmatched = fp", "mIoU",
    "pixel acc.", "box AP50", "mask AP50", "PQ, 95 %", "clusters used",
)  # fmt: skip


def format_protocols(metrics: dict[str, Any]) -> str:
    """Return the result of ``evaluate_folder`` with several protocols as a table.

    Args:
        metrics: Its result; percentages.

    Returns:
        A row per protocol, then a line on how each was fitted. ``PQ`` is the headline of the
        protocol; beside it stands PQ with the segments of clusters without a class counted as
        false positives. Undefined values are shown as ``-``.
    """
    results, shared = metrics["protocols"], metrics["protocol"]
    head = f"{shared['images']} images; {compared_with(shared['reference'])}"
    table = align(_HEADER, [_row(name, result) for name, result in results.items()])
    width = max(len(name) for name in results)
    notes = [
        f"{name.ljust(width)}  {_note(result['protocol'])}" for name, result in results.items()
    ]
    return "\n\n".join([head, table, "\n".join(notes)])


def _row(name: str, result: dict[str, Any]) -> list[Cell]:
    clusters = result["protocol"]["clusters"]
    used = clusters["matched_things"] + clusters["matched_stuff"]
    return [
        name,
        *(_value(result, "panoptic", "all", key) for key in ("PQ", "SQ", "RQ")),
        _value(result, "panoptic", "things", "PQ"),
        _value(result, "panoptic", "stuff", "PQ"),
        _value(result, "unmatched", "false_positive", "all", "PQ"),
        _value(result, "semantic", "mIoU"),
        _value(result, "semantic", "pixel_accuracy"),
        _value(result, "instances", "box", "AP50"),
        _value(result, "instances", "segm", "AP50"),
        interval_cell(result, "panoptic", "all", "PQ"),
        f"{used} of {clusters['things'] + clusters['stuff']}",
    ]


def _value(result: dict[str, Any], *keys: str) -> Cell:
    """Return a figure, or None where the truth cannot answer."""
    node: Any = result
    for key in keys:
        if node is None:
            return None
        node = node[key]
    return node if isinstance(node, float) else None


def _note(protocol: dict[str, Any]) -> str:
    return f"{protocol['matching']} matching, {protocol['mapping_fitted_on']}; {protocol['note']}"
