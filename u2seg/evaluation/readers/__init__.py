"""Readers of other data sets' own files: each gives a ``Truth``."""

from u2seg.evaluation.readers.formats import FORMATS, open_truth, scored_truth

__all__ = ["FORMATS", "open_truth", "scored_truth"]
