"""Predictions -> matched clusters -> AP, mIoU, PQ. Works on files; knows no model."""

from u2seg.evaluation.evaluate import evaluate_folder
from u2seg.evaluation.files import PSEUDO_LABELS, GroundTruth
from u2seg.evaluation.table import format_metrics

__all__ = ["PSEUDO_LABELS", "GroundTruth", "evaluate_folder", "format_metrics"]
