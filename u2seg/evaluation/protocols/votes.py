"""Votes of clusters for classes, counted from the tables of a pass by the rules of a protocol.

Shapes: K thing clusters, S stuff clusters, C thing classes, D stuff classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from u2seg.evaluation.collect import ImageTable, Pairs, StuffPixels
from u2seg.evaluation.metrics.matching import Votes
from u2seg.evaluation.protocols.rules import StuffRule, ThingRule

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of the predicted panoptic maps on the true ones; true void and crowds left out.

    Args:
        votes: (K + S, C + D) int64, pixels of each cluster on each class.
        clusters: (K + S,) int64, all pixels of the cluster.
        classes: (C + D,) int64, all pixels of the class, without prediction too.
    """

    votes: Votes
    clusters: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]

    def iou(self, cluster: int, category: int) -> float | None:
        """Return the IoU of a row and a column in percent; None if both are empty."""
        shared = int(self.votes[cluster, category])
        union = int(self.clusters[cluster]) + int(self.classes[category]) - shared
        return 100.0 * shared / union if union else None


def thing_votes(
    tables: Iterable[ImageTable],
    clusters: Sequence[int],
    classes: Sequence[int],
    rule: ThingRule,
) -> Votes:
    """Return votes by instance, (K, C) int64: of every pair that overlaps enough, one.

    Unless only the best pair votes, a prediction that covers two instances enough votes twice, as
    in U2Seg's released code. Pairs without overlap never vote.
    """
    votes = np.zeros((len(clusters), len(classes)), dtype=np.int64)
    rows, cols = _places(clusters), _places(classes)
    for table in tables:
        voting = _voting(table.pairs, rule)
        pairs = table.pairs.cluster[voting], table.pairs.true_class[voting]
        _count(votes, rows, cols, *pairs)
    return votes


def stuff_votes(
    tables: Iterable[ImageTable],
    clusters: Sequence[int],
    classes: Sequence[int],
    rule: StuffRule,
) -> Votes:
    """Return votes of stuff clusters for stuff classes, (S, D) int64.

    Args:
        tables: Of all images of the fit.
        clusters: S category ids, the rows.
        classes: D class ids, the columns.
        rule: ``pixels``: of the cluster on the class. ``images``: one for each image in which
            all pixels of the cluster and all of the class have an IoU above ``rule.iou``; pixels
            of things and void belong to neither but widen the union.
    """
    votes = np.zeros((len(clusters), len(classes)), dtype=np.int64)
    rows, cols = _places(clusters), _places(classes)
    for table in tables:
        cells = table.stuff_pixels
        if rule.votes == "pixels":
            _count(votes, rows, cols, cells.cluster, cells.true_class, cells.pixels)
        else:
            voting = _cell_iou(cells) > rule.iou
            _count(votes, rows, cols, cells.cluster[voting], cells.true_class[voting])
    return votes


def pixel_counts(
    tables: Iterable[ImageTable], clusters: Sequence[int], classes: Sequence[int]
) -> PixelCounts:
    """Return the pixels of K + S clusters on C + D classes, things first in both."""
    rows, cols = _places(clusters), _places(classes)
    votes = np.zeros((len(rows) + 1, len(cols)), dtype=np.int64)
    nobody = len(rows)
    for table in tables:
        overlap = table.overlap
        true = {s: cols[i.category] for s, i in table.truth.items() if not i.crowd}
        found = {s: rows[cluster] for s, cluster in table.predicted.items()}
        columns = np.array([true.get(t, -1) for t in overlap.truth.tolist()], dtype=np.int64)
        lines = np.array([found.get(p, nobody) for p in overlap.predicted.tolist()], np.int64)
        valid = columns >= 0
        np.add.at(votes, (lines[valid], columns[valid]), overlap.pixels[valid])
    return PixelCounts(votes[:-1], votes[:-1].sum(axis=1), votes.sum(axis=0))


def _voting(pairs: Pairs, rule: ThingRule) -> Bools:
    overlap = pairs.box_iou if rule.overlap == "box" else pairs.mask_iou
    voting = (overlap > rule.iou) if rule.strict else (overlap >= rule.iou)
    voting &= overlap > 0
    voting &= (pairs.score > rule.score) if rule.strict_score else (pairs.score >= rule.score)
    if not rule.crowds:
        voting &= ~pairs.crowd
    if rule.pairs == "best":
        voting &= _best(pairs, overlap, voting)
    return voting


def _best(pairs: Pairs, overlap: npt.NDArray[np.float64], voting: Bools) -> Bools:
    """Return of each detection the pair with the largest overlap, the first true one of equals."""
    order = np.lexsort((pairs.instance, -overlap, ~voting, pairs.detection))
    first = np.ones(len(order), dtype=bool)
    first[1:] = pairs.detection[order][1:] != pairs.detection[order][:-1]
    best = np.zeros(len(order), dtype=bool)
    best[order[first]] = True
    return best


def _cell_iou(cells: StuffPixels) -> npt.NDArray[np.float64]:
    """Return the IoU of cluster and class of each cell within the image, 0..1."""
    _, row = np.unique(cells.cluster, return_inverse=True)
    _, col = np.unique(cells.true_class, return_inverse=True)
    pixels = cells.pixels.astype(np.float64)
    union = np.bincount(row, pixels)[row] + np.bincount(col, pixels)[col] - pixels
    return pixels / union if len(pixels) else pixels


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
