"""``metrics.json`` as the rows of a table, and what they were measured against, in words."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from u2seg.evaluation.truth.predictions import PSEUDO_LABELS

UNDEFINED = "–"
_CLUSTER_NAME = re.compile(r"(thing|stuff)_\d+")
_AP = ("AP", "AP50", "AP75", "AR100")
_KINDS = (("box", "boxes"), ("segm", "masks"))
_PARTS = (("all", "all"), ("things", "things"), ("stuff", "stuff"))


@dataclass(frozen=True)
class MetricRow:
    """One row of texts in percent, or a dash.

    Args:
        name: What was measured.
        columns: Names of ``values``.
        values: Figures.
        intervals: Of each figure its 95 % interval, empty where there is none.
    """

    name: str
    columns: tuple[str, ...]
    values: tuple[str, ...]
    intervals: tuple[str, ...] = ()

    @property
    def cells(self) -> list[tuple[str, str]]:
        """(value, interval) of each column."""
        return list(itertools.zip_longest(self.values, self.intervals, fillvalue=""))


def metric_rows(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """Return the table of an evaluation; parts that are missing are left out.

    Args:
        metrics: Content of ``metrics.json``: ``class_agnostic``, ``instances``, ``semantic``
            and ``panoptic``; numbers in percent, None where undefined. ``ci95``: the same tree
            with [low, high].

    Examples:
        >>> metric_rows({"semantic": {"mIoU": 41.234, "pixel_accuracy": None}})
        [MetricRow(name='Semantic segmentation', columns=('mIoU', 'accuracy'), \
values=('41.2', '–'), intervals=('', ''))]
    """
    rows = []
    for key, name in (("class_agnostic", "Class-agnostic"), ("instances", "Instances by class")):
        for kind, plural in _KINDS:
            values = node(metrics, key, kind)
            if values:
                limits = node(metrics, "ci95", key, kind)
                rows.append(_row(f"{name}, {plural}", values, limits, _AP))
    semantic = node(metrics, "semantic")
    if semantic:
        keys = ("mIoU", "pixel_accuracy")
        limits = node(metrics, "ci95", "semantic")
        rows.append(_row("Semantic segmentation", semantic, limits, keys, ("mIoU", "accuracy")))
    for part, name in _PARTS:
        values = node(metrics, "panoptic", part)
        if values:
            limits = node(metrics, "ci95", "panoptic", part)
            row = _row(f"Panoptic, {name}", values, limits, ("PQ", "SQ", "RQ"))
            count = values.get("n")
            columns = (*row.columns, "classes")
            shown = str(int(count)) if isinstance(count, int | float) else UNDEFINED
            rows.append(MetricRow(row.name, columns, (*row.values, shown), (*row.intervals, "")))
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
    if node(metrics, "protocol").get("reference") == PSEUDO_LABELS:
        return True
    names = node(metrics, "panoptic", "per_class")
    return bool(names) and all(_CLUSTER_NAME.fullmatch(str(name)) for name in names)


def reference_word(metrics: Mapping[str, Any]) -> str:
    """Return what to call the labels that the predictions were compared with.

    Examples:
        >>> reference_word({"protocol": {"reference": "pseudo-labels"}}), reference_word({})
        ('pseudo-labels', 'truth')
    """
    return PSEUDO_LABELS if is_agreement(metrics) else "truth"


def reference_sentence(metrics: Mapping[str, Any]) -> str:
    """Return in plain words what the numbers compare the predictions with."""
    if is_agreement(metrics):
        return (
            "Agreement with the pseudo-labels, not accuracy: there was no ground truth. The "
            "numbers say how well the model reproduces the labels it was trained on."
        )
    reference = node(metrics, "protocol").get("reference")
    if reference:
        return f"Measured against: {reference}."
    if node(metrics, "panoptic", "per_class"):
        return "Measured against the ground truth named in the training settings below."
    return "metrics.json does not say what the predictions were compared with."


def node(tree: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the mapping under some keys of a tree; an empty one where there is none."""
    found: Any = tree
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def interval_text(limits: Any) -> str:
    """Return a 95 % interval as text; empty if there is none.

    Examples:
        >>> interval_text([3.14, 41.26]), interval_text(None)
        ('[3.1, 41.3]', '')
    """
    if not isinstance(limits, Sequence) or isinstance(limits, str) or len(limits) != 2:
        return ""
    low, high = (number_text(value) for value in limits)
    return "" if UNDEFINED in (low, high) else f"[{low}, {high}]"


def _row(
    name: str,
    values: Mapping[str, Any],
    limits: Mapping[str, Any],
    keys: Sequence[str],
    columns: Sequence[str] = (),
) -> MetricRow:
    return MetricRow(
        name,
        tuple(columns or keys),
        tuple(number_text(values.get(key)) for key in keys),
        tuple(interval_text(limits.get(key)) for key in keys),
    )


def number_text(value: Any) -> str:
    """Return a percentage with one decimal, a dash for anything that is no finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:.1f}" if good else UNDEFINED
