"""Votes of clusters for classes, counted from the tables of a pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from u2seg.evaluation.gather import ImageTable
from u2seg.evaluation.matching import Votes


def thing_votes(
    tables: Iterable[ImageTable],
    clusters: Sequence[int],
    classes: Sequence[int],
    *,
    score: float,
    iou: float,
    boxes: bool = False,
    crowds: bool = False,
) -> Votes:
    """Return votes by instance: every pair that overlaps enough votes once.

    Args:
        tables: Of all images.
        clusters: Category ids of the rows.
        classes: Class ids of the columns.
        score: A prediction votes from this score on.
        iou: A pair votes from this IoU on, 0..1; pairs without overlap never vote.
        boxes: Whether the IoU of boxes counts, not that of masks.
        crowds: Whether true crowds are voted for too.

    Returns:
        (K, C) int64. A prediction that covers two instances enough votes twice, as published.
    """
    votes = np.zeros((len(clusters), len(classes)), dtype=np.int64)
    rows, cols = _places(clusters), _places(classes)
    for table in tables:
        pairs = table.pairs
        overlap = pairs.box_iou if boxes else pairs.mask_iou
        voting = (pairs.score >= score) & (overlap >= iou) & (overlap > 0)
        if not crowds:
            voting &= ~pairs.crowd
        _count(votes, rows, cols, pairs.cluster[voting], pairs.true_class[voting])
    return votes


def stuff_votes(
    tables: Iterable[ImageTable], clusters: Sequence[int], classes: Sequence[int]
) -> Votes:
    """Return votes by pixel: of each stuff cluster on each stuff class.

    Args:
        tables: Of all images.
        clusters: Category ids of the rows.
        classes: Class ids of the columns.

    Returns:
        (S, D) int64; void and crowds have no vote.
    """
    votes = np.zeros((len(clusters), len(classes)), dtype=np.int64)
    rows, cols = _places(clusters), _places(classes)
    for table in tables:
        cells = table.stuff_pixels
        _count(votes, rows, cols, cells.cluster, cells.true_class, cells.pixels)
    return votes


def _places(ids: Sequence[int]) -> dict[int, int]:
    return {category: place for place, category in enumerate(ids)}


def _count(
    votes: Votes,
    rows: Mapping[int, int],
    cols: Mapping[int, int],
    clusters: npt.NDArray[np.int64],
    classes: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int64] | None = None,
) -> None:
    counts = [1] * len(clusters) if weights is None else weights.tolist()
    for cluster, true_class, count in zip(clusters.tolist(), classes.tolist(), counts, strict=True):
        if cluster in rows and true_class in cols:
            votes[rows[cluster], cols[true_class]] += count
