"""Predictions -> matched clusters -> AP, mIoU, PQ. Works on files; knows no model.

Importing this package loads nothing heavy: a command line is checked before its libraries are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from u2seg.evaluation.evaluate import evaluate_folder
    from u2seg.evaluation.report.table import format_metrics
    from u2seg.evaluation.truth.coco import GroundTruth
    from u2seg.evaluation.truth.predictions import PSEUDO_LABELS

__all__ = ["PSEUDO_LABELS", "GroundTruth", "evaluate_folder", "format_metrics"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562), as that of u2seg itself.
    if name == "evaluate_folder":
        from u2seg.evaluation.evaluate import evaluate_folder

        return evaluate_folder
    if name == "PSEUDO_LABELS":
        from u2seg.evaluation.truth.predictions import PSEUDO_LABELS

        return PSEUDO_LABELS
    if name == "GroundTruth":
        from u2seg.evaluation.truth.coco import GroundTruth

        return GroundTruth
    if name == "format_metrics":
        from u2seg.evaluation.report.table import format_metrics

        return format_metrics
    raise AttributeError(f"module 'u2seg.evaluation' has no attribute {name!r}")
