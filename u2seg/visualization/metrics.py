"""``metrics.json`` as the rows of a table, and what they were measured against, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from u2seg.evaluation.files import PSEUDO_LABELS

UNDEFINED = "–"
_CLUSTER_NAME = re.compile(r"(thing|stuff)_\d+")
_AP = ("AP", "AP50", "AP75", "AR100")
_KINDS = (("box", "boxes"), ("segm", "masks"))
_PARTS = (("all", "all"), ("things", "things"), ("stuff", "stuff"))


@dataclass(frozen=True)
class MetricRow:
    """One row: ``columns`` are the names of ``values``; texts in percent, or a dash."""

    name: str
    columns: tuple[str, ...]
    values: tuple[str, ...]


def metric_rows(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """Return the table of an evaluation; parts that are missing are left out.

    Args:
        metrics: Content of ``metrics.json``: ``class_agnostic``, ``instances``, ``semantic``
            and ``panoptic``; numbers in percent, None where undefined.

    Examples:
        >>> metric_rows({"semantic": {"mIoU": 41.234, "pixel_accuracy": None}})
        [MetricRow(name='Semantic segmentation', columns=('mIoU', 'accuracy'), \
values=('41.2', '–'))]
    """
    rows = []
    for key, name in (("class_agnostic", "Class-agnostic"), ("instances", "Instances by class")):
        for kind, plural in _KINDS:
            values = _node(metrics, key, kind)
            if values:
                rows.append(_row(f"{name}, {plural}", values, _AP))
    semantic = _node(metrics, "semantic")
    if semantic:
        keys = ("mIoU", "pixel_accuracy")
        rows.append(_row("Semantic segmentation", semantic, keys, ("mIoU", "accuracy")))
    for part, name in _PARTS:
        values = _node(metrics, "panoptic", part)
        if values:
            row = _row(f"Panoptic, {name}", values, ("PQ", "SQ", "RQ"))
            count = values.get("n")
            columns = (*row.columns, "classes")
            shown = str(int(count)) if isinstance(count, int | float) else UNDEFINED
            rows.append(MetricRow(row.name, columns, (*row.values, shown)))
    return rows


def is_agreement(metrics: Mapping[str, Any]) -> bool:
    """Return whether the predictions were compared with pseudo-labels, not ground truth.

    ``protocol.reference`` says so, and so do classes that all bear the names of clusters
    (``thing_0``, ``stuff_3``): no ground truth is named like that.

    Examples:
        >>> is_agreement({"panoptic": {"per_class": {"thing_0": {}, "stuff_1": {}}}})
        True
        >>> is_agreement({"panoptic": {"per_class": {"person": {}, "stuff_1": {}}}})
        False
    """
    if _node(metrics, "protocol").get("reference") == PSEUDO_LABELS:
        return True
    names = _node(metrics, "panoptic", "per_class")
    return bool(names) and all(_CLUSTER_NAME.fullmatch(str(name)) for name in names)


def reference_sentence(metrics: Mapping[str, Any]) -> str:
    """Return in plain words what the numbers compare the predictions with."""
    if is_agreement(metrics):
        return (
            "Agreement with the pseudo-labels, not accuracy: there was no ground truth. The "
            "numbers say how well the model reproduces the labels it was trained on."
        )
    reference = _node(metrics, "protocol").get("reference")
    if reference:
        return f"Measured against: {reference}."
    if _node(metrics, "panoptic", "per_class"):
        return "Measured against the ground truth named in the training settings below."
    return "metrics.json does not say what the predictions were compared with."


def _node(tree: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    node: Any = tree
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _row(
    name: str, values: Mapping[str, Any], keys: Sequence[str], columns: Sequence[str] = ()
) -> MetricRow:
    return MetricRow(name, tuple(columns or keys), tuple(_number(values.get(k)) for k in keys))


def _number(value: Any) -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:.1f}" if good else UNDEFINED
