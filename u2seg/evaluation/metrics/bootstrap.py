"""Confidence intervals of evaluation figures: the images are drawn again, with replacement.

A figure of N images is computed anew for each of B resamples of N images; the interval is the
2.5th to the 97.5th percentile of these B numbers. It says how far the figure would move with
another choice of images from the same source. It does not cover the mapping from clusters to
classes (kept as it is in every resample), nor the training.

A resample is a row of integer weights (how often each image was drawn), so sums over images are
one matrix product for all resamples. Average precision is no such sum: pycocotools matches
detections inside an image, once, and only the accumulation over images is repeated here, with a
weight per image. A false positive lowers the curve and never starts a step of it, so precision
need be known at true positives only. Equal to pycocotools on the images drawn, each repeated as
often as it was drawn, up to the order of detections with equal scores (arbitrary there, too).

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile
interval). Not BCa, nor a bias correction alone: figures that average over classes change with the
classes a resample happens to lose, which such a correction takes for a bias of the figure. On a
simulated long tail of 60 classes in 100 images the percentile interval of PQ, SQ and RQ covered
the expected figure in 9 of 10 cases, bias-corrected and reflected intervals in 8. For the same
reason a figure carried by rare classes, SQ above all, can lie outside its own interval.

Shapes: N images, C classes, B resamples, R of them at a time; D detections of a class, T IoU
thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from u2seg.evaluation.metrics.panoptic import ClassCounts

TAILS = (0.025, 0.975)
BLOCK = 50
"""Resamples computed at a time."""
Weights = npt.NDArray[np.int32]
Values = npt.NDArray[np.float64]
Figures = dict[tuple[str, ...], Values]
Source = Callable[[Weights], Figures]
"""(R, N) weights -> name -> (R,) values in percent, NaN where undefined."""
_COUNTS = 4
AT_ONCE = 4_000_000
"""Weights gathered at a time: 32 MB."""
_STATS = {"AP": None, "AP50": 0.5, "AP75": 0.75}
_FIRST = (1, 10)
"""Detections of an image that AR1 and AR10 look at; AR100 looks at all there are."""
Positions = npt.NDArray[np.int64]


def resample_weights(images: int, resamples: int, seed: int) -> Iterator[Weights]:
    """Yield how often each image is drawn in each resample, a block of resamples at a time.

    Yields:
        (R, N) int32, R <= 50; every row adds up to N. The blocks together do not depend on R.

    Examples:
        >>> block = next(resample_weights(4, 3, seed=0))
        >>> block.shape, block.sum(axis=1).tolist()
        ((3, 4), [4, 4, 4])
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        rows = min(BLOCK, resamples - start)
        drawn = generator.integers(images, size=(rows, images))
        drawn += images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * images)
        yield counts.reshape(rows, images).astype(np.int32)


def percentile_interval(values: Values) -> list[float] | None:
    """Return the interval that leaves out 2.5 % at each end; None if no value is defined (NaN).

    Examples:
        >>> percentile_interval(np.arange(41.0))
        [1.0, 39.0]
    """
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, TAILS).tolist()
    return [low, high]


def confidence_intervals(
    sources: Sequence[Source], images: int, resamples: int, seed: int
) -> dict[str, Any]:
    """Return the 95 % intervals of all figures of some sources, over the same resamples.

    Returns:
        A tree with a level per word of a figure's name and ``[low, high]`` in percent, or None
        where the figure is undefined in every resample.

    Examples:
        >>> def mean(weights):
        ...     return {("mean", "of 2"): weights @ np.array([0.0, 100.0]) / 2}
        >>> confidence_intervals([mean], images=2, resamples=200, seed=0)
        {'mean': {'of 2': [0.0, 100.0]}}
    """
    blocks: dict[tuple[str, ...], list[Values]] = {}
    for weights in resample_weights(images, resamples, seed):
        for source in sources:
            for name, values in source(weights).items():
                blocks.setdefault(name, []).append(values)
    tree: dict[str, Any] = {}
    for name, parts in blocks.items():
        node = tree
        for word in name[:-1]:
            node = node.setdefault(word, {})
        node[name[-1]] = percentile_interval(np.concatenate(parts))
    return tree


def panoptic_source(
    counts: Sequence[Mapping[int, ClassCounts]],
    things: Sequence[int],
    stuff: Sequence[int],
    name: Sequence[str] = ("panoptic",),
) -> Source:
    """Return the source of PQ, SQ and RQ of all, thing and stuff classes.

    Args:
        counts: Counts of each image.
        things: Class ids.
        stuff: Class ids, none of them a thing.
        name: First words of the figures' names.

    Returns:
        Figures ``(*name, part, "PQ")`` and so on, as ``mean_quality`` defines them: the
        classes that occur in a resample are averaged.
    """
    order = {category: column for column, category in enumerate([*things, *stuff])}
    cells = [
        (image, order[category] + len(order) * part, value)
        for image, row in enumerate(counts)
        for category, c in row.items()
        for part, value in enumerate((c.iou, c.tp, c.fp, c.fn))
        if category in order and value
    ]
    sums = _sums(cells, len(counts), _COUNTS * len(order))
    split = {"all": slice(None), "things": slice(0, len(things)), "stuff": slice(len(things), None)}

    def figures(weights: Weights) -> Figures:
        iou, tp, fp, fn = np.split(sums(weights), _COUNTS, axis=1)
        occurs = tp + fp + fn > 0
        weight = tp + 0.5 * fp + 0.5 * fn
        quality = {"PQ": _ratio(iou, weight), "SQ": _ratio(iou, tp), "RQ": _ratio(tp, weight)}
        return {
            (*name, part, measure): _mean(values[:, columns], occurs[:, columns])
            for part, columns in split.items()
            for measure, values in quality.items()
        }

    return figures


def semantic_source(confusions: Sequence[npt.NDArray[np.int64]], num_classes: int) -> Source:
    """Return the source of ``("semantic", "mIoU")`` and ``("semantic", "pixel_accuracy")``.

    Args:
        confusions: Of each image the filled cells of its confusion matrix, (3, n): true class
            0..C-1, predicted class 0..C-1 or anything else for none, pixels.
        num_classes: C. Averaged are the classes in truth or prediction of a resample.
    """
    cells: list[tuple[int, int, float]] = []
    for image, columns in enumerate(confusions):
        for t, p, n in np.asarray(columns, dtype=np.int64).T.tolist():
            cells.append((image, t, n))
            if 0 <= p < num_classes:
                cells.append((image, num_classes + p, n))
            if t == p:
                cells.append((image, 2 * num_classes + t, n))
    sums = _sums(cells, len(confusions), 3 * num_classes)

    def figures(weights: Weights) -> Figures:
        true, predicted, hits = np.split(sums(weights), 3, axis=1)
        union = true + predicted - hits
        total = true.sum(axis=1)
        right = np.full(len(weights), np.nan)
        np.divide(100.0 * hits.sum(axis=1), total, out=right, where=total > 0)
        mean = _mean(_ratio(hits, union), union > 0)
        return {("semantic", "mIoU"): mean, ("semantic", "pixel_accuracy"): right}

    return figures


def _sums(
    cells: Sequence[tuple[int, int, float]], rows: int, columns: int
) -> Callable[[Weights], Values]:
    """Return the function from (R, rows) weights to the (R, columns) weighted sums of cells."""
    table = np.array(cells, dtype=np.float64).reshape(-1, 3)
    place = (table[:, 0].astype(np.int64), table[:, 1].astype(np.int64))
    by_column = sparse.csr_array((table[:, 2], place), shape=(rows, columns)).T.tocsr()

    def sums(weights: Weights) -> Values:
        result: Values = (by_column @ weights.T.astype(np.float64)).T
        return result

    return sums


def _ratio(part: Values, whole: Values) -> Values:
    result = np.zeros_like(part)
    np.divide(100.0 * part, whole, out=result, where=whole > 0)
    return result


def _mean(values: Values, present: npt.NDArray[np.bool_]) -> Values:
    """Return the mean of each row over the present columns; NaN where there is none."""
    count = present.sum(axis=1)
    result = np.full(len(values), np.nan)
    np.divide(np.where(present, values, 0.0).sum(axis=1), count, out=result, where=count > 0)
    return result


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
        """Return the matches of a ``COCOeval`` after ``evaluate``, all areas, all detections."""
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
        """Return AP, AP50, AP75, AR1, AR10 and AR100 in percent of (R, N) weighted images.

        Each is (R,), the mean over the classes that have an instance; NaN where no class has one.
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
