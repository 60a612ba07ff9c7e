"""Panoptic quality of two COCO panoptic files with the same classes, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from u2seg.errors import UserError
from u2seg.evaluation.figures import panoptic_block
from u2seg.evaluation.metrics.overlap import Overlap, count_overlaps
from u2seg.evaluation.metrics.panoptic import ClassCounts, count_matches
from u2seg.evaluation.truth.base import check_ids, check_shape, some
from u2seg.evaluation.truth.coco import GroundTruth, PanopticSet, read_panoptic_set, read_truth
from u2seg.io.progress import Bar


def panoptic_quality(
    truth: GroundTruth, predicted: GroundTruth, threads: int = 1
) -> dict[str, Any]:
    """Return what panopticapi's ``pq_compute`` returns, in percent, from the same files.

    Args:
        truth: Its annotated images are scored.
        predicted: A prediction of every one of them, with category ids of the truth.
        threads: Decode and count in so many at once; the result does not depend on it.

    Returns:
        ``all``, ``things``, ``stuff`` and ``per_class``, as ``panoptic`` of ``metrics.json``.

    Raises:
        UserError: if a file is missing or garbled, an image has no prediction, a category is
            unknown, sizes differ, or a map holds ids that its JSON lacks or the other way round.
    """
    right = read_truth(truth)
    guess = read_panoptic_set(predicted.panoptic_json, predicted.panoptic_pngs)
    missing = set(right.segments) - set(guess.segments)
    if missing:
        raise UserError(f"{guess.source} has no prediction of image id {some(missing)}")
    strange = set(guess.names) - set(right.names)
    if strange:
        raise UserError(
            f"{guess.source} has the category id {some(strange)}, which {right.source} lacks: "
            "predictions need the truth's categories here"
        )
    totals: dict[int, ClassCounts] = {}
    counted = _counted(right, guess, threads)
    for counts in Bar(counted, total=len(right.segments), desc="PQ", unit="image"):
        for category, row in counts.items():
            totals.setdefault(category, ClassCounts()).add(row)
    return panoptic_block(right, totals)


def _counted(
    truth: PanopticSet, predicted: PanopticSet, threads: int
) -> Iterator[dict[int, ClassCounts]]:
    if threads <= 1:
        for image_id in truth.segments:
            yield _image(truth, predicted, image_id)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda image_id: _image(truth, predicted, image_id), truth.segments)


def _image(truth: PanopticSet, predicted: PanopticSet, image_id: int) -> dict[int, ClassCounts]:
    overlap = _overlap(truth, predicted, image_id)
    check_ids(truth, image_id, truth.segments[image_id], overlap.truth.tolist())
    predicted.check_ids(image_id, overlap.predicted.tolist(), every=True)
    classes = {segment: info.category for segment, info in predicted.segments[image_id].items()}
    return count_matches(overlap, truth.segments[image_id], classes)


def _overlap(truth: PanopticSet, predicted: PanopticSet, image_id: int) -> Overlap:
    ids, guess = truth.read_ids(image_id), predicted.read_ids(image_id)
    check_shape(predicted.path(image_id), guess.shape, ids.shape, "the true map has")
    return count_overlaps(ids, guess)
