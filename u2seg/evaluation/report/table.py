"""Metrics as text for the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from u2seg.evaluation.truth.predictions import PSEUDO_LABELS

Cell = str | float | int | None
INTERVAL = "  95 %"
"""Name of a row of intervals."""
_QUALITY = ("PQ", "SQ", "RQ", "n")
_DETECTION = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")
_CLASS = {
    **dict.fromkeys(("PQ", "SQ", "RQ", "tp", "fp", "fn"), ("panoptic", "per_class")),
    **dict.fromkeys(("IoU", "accuracy"), ("semantic", "per_class")),
    **dict.fromkeys(("AP", "AP50", "AR100"), ("instances", "segm", "per_class")),
}
"""Column of a table of classes -> where the figure is."""
_HEADS = {"tp": "TP", "fp": "FP", "fn": "FN", "AP": "mask AP"}
_PROTOCOL = {
    "PQ": ("panoptic", "all", "PQ"),
    "SQ": ("panoptic", "all", "SQ"),
    "RQ": ("panoptic", "all", "RQ"),
    "PQ things": ("panoptic", "things", "PQ"),
    "PQ stuff": ("panoptic", "stuff", "PQ"),
    "PQ, unmatched = fp": ("unmatched", "false_positive", "all", "PQ"),
    "mIoU": ("semantic", "mIoU"),
    "pixel acc.": ("semantic", "pixel_accuracy"),
    "box AP50": ("instances", "box", "AP50"),
    "mask AP50": ("instances", "segm", "AP50"),
}
"""Column of a table of protocols -> where the figure is."""
_BASELINE = {
    "PQ": ("panoptic", "all", "PQ"),
    "things PQ": ("panoptic", "things", "PQ"),
    "stuff PQ": ("panoptic", "stuff", "PQ"),
    "mIoU": ("semantic", "mIoU"),
    "pixel_accuracy": ("semantic", "pixel_accuracy"),
    "box AP50": ("instances", "box", "AP50"),
    "segm AP50": ("instances", "segm", "AP50"),
}
"""The same of a table of baselines."""


def format_metrics(metrics: dict[str, Any], per_class: bool = False) -> str:
    """Return the result of ``evaluate_folder`` as aligned tables.

    Returns:
        Lines without a trailing newline; undefined values are shown as ``-``. A line ``95 %``
        holds the intervals of the figures above it. What the truth cannot answer has no table.
    """
    protocol = metrics["protocol"]
    head = (
        f"{protocol['images']} images; {compared_with(protocol['reference'])}; {_classes(protocol)}"
        f"protocol {protocol['name']}, {protocol['matching']} matching, "
        f"{protocol['mapping_fitted_on']}: {_matched(protocol)}{_note(protocol)}"
    )
    parts = [head]
    if metrics["panoptic"]:
        parts.append(_panoptic_table(metrics))
    if metrics.get("stuff_merging"):
        parts.append(_merging_table(metrics))
    if metrics["semantic"]:
        parts.append(_semantic_table(metrics))
    if metrics["instances"]:
        parts.append(_instance_table(metrics))
    if per_class:
        parts.append(format_classes(metrics))
    return "\n\n".join(parts)


def compared_with(name: str) -> str:
    """Return what the predictions are compared with, from ``protocol.reference``, in words.

    Examples:
        >>> compared_with("val.json")
        'compared with val.json'
        >>> compared_with("pseudo-labels")
        'compared with the pseudo-labels (agreement, not accuracy)'
    """
    if name == PSEUDO_LABELS:
        return "compared with the pseudo-labels (agreement, not accuracy)"
    return f"compared with {name}"


def _classes(protocol: dict[str, Any]) -> str:
    """Return class set and crop, where they are not the truth's own, with a separator."""
    words = []
    if protocol.get("class_set", "truth") != "truth":
        words.append(f"classes of {protocol['class_set']}")
    if protocol.get("crop"):
        words.append(f"crops of {protocol['crop']} pixels")
    return "".join(f"{word}; " for word in words)


def _matched(protocol: dict[str, Any]) -> str:
    clusters, classes = protocol["clusters"], protocol["classes"]
    things = f"{clusters['matched_things']} of {clusters['things']} thing clusters"
    stuff = f"{clusters['matched_stuff']} of {clusters['stuff']} stuff clusters"
    if protocol.get("apart") is False:
        return f"{things} and {stuff} to {classes['things'] + classes['stuff']} classes"
    return f"{things} to {classes['things']} classes, {stuff} to {classes['stuff']}"


def _note(protocol: dict[str, Any]) -> str:
    """Return where the rules come from, unless it is the settings, with a separator."""
    note = protocol.get("note", "")
    return "" if note in ("", "U2SEG.EVAL") else f"; {note}"


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
    rows: list[list[Cell]] = []
    for part in ("all", "things", "stuff"):
        rows.append([part, *(metrics["panoptic"][part][k] for k in _QUALITY)])
        rows += _interval_row(metrics, ("panoptic", part), _QUALITY)
    return align(["panoptic", *_QUALITY], rows)


def _merging_table(metrics: dict[str, Any]) -> str:
    rows = [
        [f"{label}, {part}", *(metrics["stuff_merging"][name][part][k] for k in _QUALITY)]
        for name, label in {"neither": "as they are", "both": "merged"}.items()
        for part in ("all", "stuff")
    ]
    return align(["stuff segments", *_QUALITY], rows)


def _semantic_table(metrics: dict[str, Any]) -> str:
    found = metrics["semantic"]
    keys = ["mIoU", "mIoU_all_classes", "pixel_accuracy"]
    if found["mIoU"] is None or found.get(keys[1], found["mIoU"]) == found["mIoU"]:
        del keys[1]
    rows: list[list[Cell]] = [["all", *(found[k] for k in keys)]]
    return align(["semantic", *keys], [*rows, *_interval_row(metrics, ("semantic",), keys)])


def _instance_table(metrics: dict[str, Any]) -> str:
    rows: list[list[Cell]] = []
    for part in ("class_agnostic", "instances"):
        for kind, values in metrics[part].items():
            rows.append([f"{part} {kind}", *(values[k] for k in _DETECTION)])
            rows += _interval_row(metrics, (part, kind), _DETECTION)
    return align(["instances", *_DETECTION], rows)


def _at(node: Any, *path: str) -> Any:
    """Return what lies at a path of a tree; None where it ends before."""
    for key in path:
        node = node.get(key) if node else None
    return node


def _interval_row(
    metrics: dict[str, Any], path: Sequence[str], keys: Sequence[str]
) -> list[list[Cell]]:
    """Return the 95 % intervals of a row as a row of its own; none without intervals."""
    if not _at(metrics, "ci95", *path):
        return []
    return [[INTERVAL, *(interval_cell(metrics, *path, key) or "" for key in keys)]]


def interval_cell(metrics: dict[str, Any], *path: str) -> Cell:
    """Return the 95 % interval of a figure for a table; None if there is none.

    Examples:
        >>> interval_cell({"ci95": {"semantic": {"mIoU": [20.04, 31.0]}}}, "semantic", "mIoU")
        '20.0-31.0'
    """
    limits = _at(metrics, "ci95", *path)
    return f"{limits[0]:.1f}-{limits[1]:.1f}" if limits else None


def format_classes(metrics: dict[str, Any]) -> str:
    """Return a row per class of whatever the truth can answer, as an aligned table."""
    tables = {key: _at(metrics, *path) or {} for key, path in _CLASS.items()}
    names = dict.fromkeys(name for table in tables.values() for name in table)
    rows = [[name, *(_at(table, name, key) for key, table in tables.items())] for name in names]
    return align(["class", *(_HEADS.get(key, key) for key in _CLASS)], rows)


def format_protocols(metrics: dict[str, Any]) -> str:
    """Return the result of ``evaluate_folder`` with several protocols as a table.

    Returns:
        A row per protocol, then a line on how each was fitted. ``PQ`` is the headline of the
        protocol; beside it stands PQ with the segments of clusters without a class counted as
        false positives. Undefined values are shown as ``-``.
    """
    results, shared = metrics["protocols"], metrics["protocol"]
    rows, notes, width = [], [], max(len(name) for name in results)
    for name, result in results.items():
        rule = result["protocol"]
        clusters = rule["clusters"]
        used = clusters["matched_things"] + clusters["matched_stuff"]
        share = f"{used} of {clusters['things'] + clusters['stuff']}"
        rows.append([name, *_figures(result, _PROTOCOL), share])
        fit = f"{rule['matching']} matching, {rule['mapping_fitted_on']}; {rule['note']}"
        notes.append(f"{name.ljust(width)}  {fit}")
    head = f"{shared['images']} images; {compared_with(shared['reference'])}"
    table = align(["protocol", *_PROTOCOL, "PQ, 95 %", "clusters used"], rows)
    return "\n\n".join([head, table, "\n".join(notes)])


def format_baselines(metrics: dict[str, Any]) -> str:
    """Return the model and the baselines under each protocol as a table; percent."""
    protocols = metrics.get("protocols") or {metrics["protocol"]["name"]: metrics}
    rows: list[list[Cell]] = []
    for protocol, model in protocols.items():
        rows.append([f"{protocol}: model", *_figures(model, _BASELINE)])
        for name, row in metrics["baselines"].items():
            figures = _figures(row["protocols"][protocol], _BASELINE)
            rows.append([f"{protocol}: {name}", *figures])
    return align(["baselines", *_BASELINE, "PQ, 95 %"], rows)


def _figures(blocks: dict[str, Any], columns: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Return the figures of some columns, None where there is none, and the interval of PQ."""
    found = [_at(blocks, *path) for path in columns.values()]
    cells: list[Cell] = [value if isinstance(value, float) else None for value in found]
    return [*cells, interval_cell(blocks, "panoptic", "all", "PQ")]
