"""Predictions -> matched clusters -> AP, mIoU, PQ. Works on files; knows no model.

Importing this package loads nothing heavy: a command line is checked before its libraries are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from u2seg.evaluation.evaluate import evaluate_folder
    from u2seg.evaluation.report.table import format_metrics
    from u2seg.evaluation.truth.coco import GroundTruth
    from u2seg.evaluation.truth.predictions import PSEUDO_LABELS

__all__ = ["PSEUDO_LABELS", "GroundTruth", "evaluate_folder", "format_metrics"]


_PLACES = {
    "PSEUDO_LABELS": "truth.predictions",
    "GroundTruth": "truth.coco",
    "evaluate_folder": "evaluate",
    "format_metrics": "report.table",
}


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562), as that of u2seg itself.
    if name not in _PLACES:
        raise AttributeError(f"module 'u2seg.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
