"""Predictions -> matched clusters -> AP, mIoU, PQ. Works on files; knows no model.

Importing this package loads nothing heavy: a command line is checked before its libraries are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from u2seg.evaluation.evaluate import evaluate_folder
    from u2seg.evaluation.files import PSEUDO_LABELS, GroundTruth
    from u2seg.evaluation.table import format_metrics

__all__ = ["PSEUDO_LABELS", "GroundTruth", "evaluate_folder", "format_metrics"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562), as that of u2seg itself.
    if name == "evaluate_folder":
        from u2seg.evaluation.evaluate import evaluate_folder

        return evaluate_folder
    if name in ("PSEUDO_LABELS", "GroundTruth"):
        from u2seg.evaluation import files

        return getattr(files, name)
    if name == "format_metrics":
        from u2seg.evaluation.table import format_metrics

        return format_metrics
    raise AttributeError(f"module 'u2seg.evaluation' has no attribute {name!r}")
