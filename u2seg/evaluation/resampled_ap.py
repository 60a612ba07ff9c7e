"""Average precision of resampled images, from the matches pycocotools found once.

The matching of detections to instances is done inside an image and does not change when images
are drawn again; only the accumulation over images does. It is repeated here with a weight per
image. Precision need be known at true positives only: a false positive lowers the curve and
never starts a step of it, so the interpolated curve is the same.

Equal to pycocotools on the images drawn, each repeated as often as it was drawn, up to the order
of detections with equal scores (whose order is arbitrary there, too).

Shapes: N images, D detections of a class, T IoU thresholds, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.evaluation.bootstrap import Figures, Source, Values, Weights

AT_ONCE = 4_000_000
"""Weights gathered at a time: 32 MB."""
_STATS = {"AP": None, "AP50": 0.5, "AP75": 0.75}
_FIRST = (1, 10)
"""Detections of an image that AR1 and AR10 look at; AR100 looks at all there are."""

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class, from high to low score, in pycocotools' order.

    Args:
        images: (D,) index of the image of each detection.
        hits: Of each threshold, the positions of true positives, ascending.
        ignored: Of each threshold, the positions of detections that count for nothing.
        truths: (N,) instances of the class that count in each image.
        ranks: (D,) place of each detection among those of its image, from 0.
    """

    images: Positions
    hits: tuple[Positions, ...]
    ignored: tuple[Positions, ...]
    truths: npt.NDArray[np.int64]
    ranks: Positions


@dataclass(frozen=True)
class Matches:
    """What the average precision of one run of COCOeval rests on.

    Args:
        classes: The classes with at least one instance.
        thresholds: (T,) IoU.
        recalls: (101,) recall levels at which precision is read.
    """

    classes: tuple[ClassMatches, ...]
    thresholds: Values
    recalls: Values

    @classmethod
    def from_run(cls, run: Any) -> Matches:
        """Return the matches of a ``COCOeval`` after ``evaluate``, all areas, all detections.

        Args:
            run: Its images are ``run.params.imgIds``, in that order.
        """
        params = run._paramsEval
        images, areas = len(params.imgIds), len(params.areaRng)
        classes = []
        for number in range(len(params.catIds)):
            start = number * areas * images
            found = _class_matches(run.evalImgs[start : start + images], len(params.iouThrs))
            if found.truths.any():
                classes.append(found)
        return cls(tuple(classes), np.asarray(params.iouThrs), np.asarray(params.recThrs))

    def scores(self, weights: Weights) -> dict[str, Values]:
        """Return AP, AP50, AP75, AR1, AR10 and AR100 of weighted images.

        Args:
            weights: (R, N) int32, how often each image counts.

        Returns:
            Name -> (R,) percent, NaN where no image with a weight has an instance; the mean
            over the classes that have one.
        """
        shape = (len(weights), len(self.thresholds))
        precision, recall, classes = np.zeros(shape), np.zeros(shape), np.zeros(len(weights))
        firsts = {first: np.zeros(shape) for first in _FIRST}
        for part in self.classes:
            step = max(1, AT_ONCE // max(1, len(part.images)))
            for start in range(0, len(weights), step):
                rows = slice(start, start + step)
                truths = weights[rows].astype(np.int64) @ part.truths
                ap, ar = _accumulate(part, weights[rows], truths, self.recalls)
                precision[rows] += ap
                recall[rows] += ar
                for first, sums in firsts.items():
                    sums[rows] += _recall_of_first(part, weights[rows], truths, first)
                classes[rows] += truths > 0
        defined = np.where(classes > 0, classes, np.nan)[:, None]
        precision, recall = 100.0 * precision / defined, 100.0 * recall / defined
        found = {
            f"AR{first}": (100.0 * sums / defined).mean(axis=1) for first, sums in firsts.items()
        }
        found["AR100"] = recall.mean(axis=1)
        for name, threshold in _STATS.items():
            chosen = np.ones(shape[1], bool) if threshold is None else self.thresholds == threshold
            found[name] = precision[:, chosen].mean(axis=1)
        return found


def detection_source(matches: Matches, *name: str) -> Source:
    """Return the source of the figures ``(*name, "AP")`` and so on."""

    def figures(weights: Weights) -> Figures:
        return {(*name, key): values for key, values in matches.scores(weights).items()}

    return figures


def _class_matches(records: list[dict[str, Any] | None], thresholds: int) -> ClassMatches:
    """Return the detections of one class from its record of each image."""
    truths = np.zeros(len(records), dtype=np.int64)
    images, scores = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    ranks = [np.zeros(0, dtype=np.int64)]
    matched, ignored = [np.zeros((thresholds, 0), bool)], [np.zeros((thresholds, 0), bool)]
    for index, record in enumerate(records):
        if record is None:
            continue
        truths[index] = np.count_nonzero(np.asarray(record["gtIgnore"]) == 0)
        count = len(record["dtScores"])
        images.append(np.full(count, index))
        ranks.append(np.arange(count))
        scores.append(np.asarray(record["dtScores"], dtype=np.float64))
        matched.append(np.asarray(record["dtMatches"], dtype=bool))
        ignored.append(np.asarray(record["dtIgnore"], dtype=bool))
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    match = np.concatenate(matched, axis=1)[:, order]
    ignore = np.concatenate(ignored, axis=1)[:, order]
    return ClassMatches(
        images=np.concatenate(images)[order],
        hits=tuple(np.flatnonzero(row) for row in match & ~ignore),
        ignored=tuple(np.flatnonzero(row) for row in ignore),
        truths=truths,
        ranks=np.concatenate(ranks)[order],
    )


def _accumulate(
    part: ClassMatches, weights: Weights, truths: npt.NDArray[np.int64], recalls: Values
) -> tuple[Values, Values]:
    """Return the (R, T) average precision and recall, 0..1; 0 where there is no instance."""
    ap, ar = np.zeros((2, len(weights), len(part.hits)))
    needed = _least_hits(truths, recalls)
    before = np.cumsum(weights[:, part.images], axis=1, dtype=np.int64)
    for t, (hits, ignored) in enumerate(zip(part.hits, part.ignored, strict=True)):
        if not hits.size:
            continue
        found = np.cumsum(weights[:, part.images[hits]], axis=1, dtype=np.int64)
        left_out = np.zeros((len(weights), ignored.size + 1), dtype=np.int64)
        np.cumsum(weights[:, part.images[ignored]], axis=1, out=left_out[:, 1:])
        made = before[:, hits] - left_out[:, np.searchsorted(ignored, hits)]
        precision = found / (made + np.spacing(1))  # the same guard as pycocotools'
        curve = np.zeros((len(weights), hits.size + 1))
        curve[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        steps = _first_at_least(found, needed)
        ap[:, t] = np.take_along_axis(curve, steps, axis=1).mean(axis=1)
        ar[:, t] = found[:, -1] / np.maximum(truths, 1)
    return np.where(truths[:, None] > 0, ap, 0.0), ar


def _recall_of_first(
    part: ClassMatches, weights: Weights, truths: npt.NDArray[np.int64], first: int
) -> Values:
    """Return the (R, T) recall, 0..1, of the best detections of each image alone.

    pycocotools matches 100 detections of an image once and leaves the later ones out, too.
    """
    recall = np.zeros((len(weights), len(part.hits)))
    for t, hits in enumerate(part.hits):
        early = part.images[hits[part.ranks[hits] < first]]
        recall[:, t] = weights[:, early].sum(axis=1, dtype=np.int64) / np.maximum(truths, 1)
    return recall


def _least_hits(truths: npt.NDArray[np.int64], recalls: Values) -> npt.NDArray[np.int64]:
    """Return (R, 101) the least number of hits h with ``h / truths >= recall`` in floats."""
    total = np.maximum(truths, 1)[:, None]
    guess = np.floor(recalls * total).astype(np.int64)
    least = guess + 1
    for smaller in (guess, guess - 1):
        least = np.where(smaller / total >= recalls, smaller, least)
    return np.maximum(least, 0)


def _first_at_least(
    found: npt.NDArray[np.int64], needed: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return, row by row, the first column of ``found`` (ascending) not below each need."""
    rows, width = found.shape
    top = int(found[:, -1].max()) + 1
    shift = ((top + 1) * np.arange(rows))[:, None]
    flat = (found + shift).ravel()
    place: npt.NDArray[np.int64] = np.searchsorted(flat, np.minimum(needed, top) + shift)
    place -= width * np.arange(rows)[:, None]
    return place
