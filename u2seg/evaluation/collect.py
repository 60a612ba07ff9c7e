"""What each image contributes to any metric of any protocol, collected in one pass.

A table holds no pixels, so all of them fit into memory, travel between processes, and give every
protocol and every mapping from one reading of the files. They come back in the order of the image
ids, whoever made them, so what follows is the same to the last bit for any number of processes.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.errors import StageError, UserError
from u2seg.evaluation.metrics.instance import truth_instances
from u2seg.evaluation.metrics.overlap import Overlap, count_overlaps, sum_pairs
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import TrueImage, Truth, check_ids, check_shape, settled_areas
from u2seg.evaluation.truth.predictions import Predictions, check_maps
from u2seg.io.progress import Bar

NONE = -1
"""Class or cluster of a pixel that has none: void, true crowds, no segment."""
ANY_THING = -2
"""Cluster of a pixel that the stuff map gives to some thing."""
CHUNK = 8
"""Images a worker takes at once."""
AHEAD = 4
"""Chunks handed out per worker before the first is back: what a slow reader may pile up."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StuffPixels:
    """Pixels of one image by predicted stuff cluster and true class; the sum is the image.

    Three (N,) int64: ``cluster`` category ids, ``ANY_THING`` or ``NONE``; ``true_class`` ids,
    things too, ``NONE`` for void and crowds; ``pixels`` > 0.
    """

    cluster: Ints
    true_class: Ints
    pixels: Ints


@dataclass(frozen=True)
class Pairs:
    """Predicted and true thing instances that overlap, crowds too; all arrays are (N,).

    ``detection`` and ``instance`` are places among the image's, ``cluster`` and ``true_class`` the
    category ids of both, ``crowd`` that of the true one; one of the IoUs (0..1) is > 0.
    """

    detection: Ints
    instance: Ints
    cluster: Ints
    true_class: Ints
    crowd: npt.NDArray[np.bool_]
    score: Floats
    mask_iou: Floats
    box_iou: Floats


@dataclass(frozen=True)
class ImageTable:
    """What one image contributes to any metric.

    Args:
        image_id: The image.
        overlap: Pixels of every pair of true and predicted segment.
        truth: True segment id -> segment, in the order of the file.
        predicted: Predicted segment id -> category id of its cluster.
        stuff_pixels: From the semantic head's map, or without one from the predicted segments;
            empty for an image without prediction.
        pairs: Overlaps of instances.
        detections: (D,) int64 category ids of predicted instances, in the order of the file.
        instances: True instances as COCO annotations without ``id``.
        empty: Whether the image has no prediction.
    """

    image_id: int
    overlap: Overlap
    truth: dict[int, TruthSegment]
    predicted: dict[int, int]
    stuff_pixels: StuffPixels
    pairs: Pairs
    detections: Ints
    instances: list[dict[str, Any]]
    empty: bool


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a distributed run, of which this is one.

    ``everybody`` gives an object of this rank to all and returns those of all ranks in order;
    ``first`` gives it to rank 0, which gets those of all; the others get ``[]``.
    """

    rank: int
    size: int
    everybody: Callable[[Any], list[Any]]
    first: Callable[[Any], list[Any]]


def collect(
    truth: Truth,
    predicted: Predictions,
    image_ids: Sequence[int] | None = None,
    workers: int = 1,
    group: ProcessGroup | None = None,
) -> list[ImageTable]:
    """Return the tables of images (None = all of the truth), sorted by image id.

    The images are read by ``workers`` processes of this machine (1 = this one alone). In a
    distributed run each of the ``group`` makes a share, and the first gets all of them, the others
    an empty list; every rank raises what one found. UserError as ``image_table``, wrong sizes
    before any pixel is read; StageError if a worker process dies.
    """
    if workers < 1:
        raise UserError(f"the number of workers is {workers}, expected at least 1")
    chosen = sorted(truth.stems if image_ids is None else image_ids)
    if group is None:
        return _tables(truth, predicted, chosen, workers, quiet=False)
    tables: list[ImageTable] = []
    error: UserError | StageError | None = None
    try:
        share = chosen[group.rank :: group.size]
        tables = _tables(truth, predicted, share, workers, quiet=group.rank > 0)
    except (UserError, StageError) as caught:
        error = caught
    for raised in group.everybody(error):
        if raised is not None:
            raise raised
    parts = group.first(tables)
    return sorted((table for part in parts for table in part), key=lambda table: table.image_id)


def _tables(
    truth: Truth, predicted: Predictions, image_ids: Sequence[int], workers: int, *, quiet: bool
) -> list[ImageTable]:
    check_maps(truth, predicted, image_ids)
    chunks = [image_ids[i : i + CHUNK] for i in range(0, len(image_ids), CHUNK)]
    workers = min(workers, len(chunks))
    made = (
        (image_table(truth, predicted, image_id) for image_id in image_ids)
        if workers <= 1
        else _by_workers(truth, predicted, chunks, workers)
    )
    return list(Bar(made, total=len(image_ids), desc="evaluate", unit="image", disable=quiet))


def _by_workers(
    truth: Truth, predicted: Predictions, chunks: Sequence[Sequence[int]], workers: int
) -> Iterator[ImageTable]:
    """Yield the tables in order; instances travel with their chunk, all else once per worker."""
    context = multiprocessing.get_context("spawn")  # a fork could copy locks held by threads
    bare = replace(predicted, instances={})
    todo, waiting = iter(chunks), deque[Future[list[ImageTable]]]()
    with ProcessPoolExecutor(workers, context, _start, (truth, bare)) as pool:

        def hand_out() -> None:
            if (image_ids := next(todo, None)) is not None:
                known = predicted.instances
                waiting.append(
                    pool.submit(_work, image_ids, {i: known[i] for i in image_ids if i in known})
                )

        try:
            for _ in range(AHEAD * workers):
                hand_out()
            while waiting:
                yield from waiting.popleft().result()
                hand_out()
        except BrokenProcessPool as error:
            raise StageError(
                "a worker process of the evaluation died (killed for memory?): use fewer workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


_sides: list[Any] = []
"""Of a worker process: the truth and the predictions without instances."""


def _start(truth: Truth, predicted: Predictions) -> None:
    _sides[:] = [truth, predicted]


def _work(image_ids: Sequence[int], instances: dict[int, Any]) -> list[ImageTable]:
    truth, bare = _sides
    predicted = replace(bare, instances=instances)
    return [image_table(truth, predicted, image_id) for image_id in image_ids]


def image_table(truth: Truth, predicted: Predictions, image_id: int) -> ImageTable:
    """Return the table of one image of the truth.

    UserError if a file is missing or unreadable, sizes differ, or a map and its list of segments
    (ids, true areas) do not belong together.
    """
    true = truth.read(image_id)
    panoptic = predicted.panoptic
    segments = panoptic.segments.get(image_id)
    ids = np.zeros_like(true.ids)
    if segments is not None:
        ids = panoptic.read_ids(image_id)
        check_shape(panoptic.path(image_id), ids.shape, true.ids.shape, "the true map has")
    overlap = count_overlaps(true.ids, ids)
    check_ids(truth, image_id, true.segments, overlap.truth.tolist())
    true = replace(true, segments=settled_areas(truth, image_id, true.segments, overlap))
    if segments is not None:
        panoptic.check_ids(image_id, overlap.predicted.tolist(), every=True)
    instances = true.instances
    if instances is None:
        instances = truth_instances(true.ids, true.segments, truth.things, image_id)
    results = predicted.instances.get(image_id, [])
    return ImageTable(
        image_id=image_id,
        overlap=overlap,
        truth=true.segments,
        predicted={segment: info.category for segment, info in (segments or {}).items()},
        stuff_pixels=_stuff_pixels(predicted, image_id, true, overlap),
        pairs=_pairs(results, instances),
        detections=np.array([r["category_id"] for r in results], dtype=np.int64),
        instances=instances,
        empty=segments is None,
    )


def _stuff_pixels(
    predicted: Predictions, image_id: int, true: TrueImage, overlap: Overlap
) -> StuffPixels:
    segments, stuff = predicted.panoptic.segments.get(image_id), predicted.panoptic.stuff
    if segments is None:
        return StuffPixels(*np.zeros((3, 0), dtype=np.int64))
    if predicted.has_stuff_maps:
        overlap = count_overlaps(true.ids, predicted.read_stuff(image_id))
        clusters = {0: ANY_THING, **dict(enumerate(stuff, 1))}
    else:
        known = set(stuff)
        clusters = {
            i: s.category if s.category in known else ANY_THING for i, s in segments.items()
        }
    return stuff_pixels(overlap, clusters, true.segments)


def stuff_pixels(
    overlap: Overlap, clusters: Mapping[int, int], truth: Mapping[int, TruthSegment]
) -> StuffPixels:
    """Return the pixels of an image by cluster and true class.

    ``clusters``: id of the map -> category id of its stuff cluster, or ``ANY_THING``; ids that are
    missing are ``NONE``.
    """
    classes = {s: info.category for s, info in truth.items() if not info.crowd}
    cluster = np.array([clusters.get(p, NONE) for p in overlap.predicted.tolist()], np.int64)
    true_class = np.array([classes.get(t, NONE) for t in overlap.truth.tolist()], np.int64)
    return StuffPixels(*sum_pairs(cluster, true_class, overlap.pixels))


def _pairs(results: Sequence[dict[str, Any]], instances: Sequence[dict[str, Any]]) -> Pairs:
    masks, boxes = (_ious(results, instances, key) for key in ("segmentation", "bbox"))
    d, t = np.nonzero((masks > 0) | (boxes > 0))
    return Pairs(
        detection=d,
        instance=t,
        cluster=np.array([r["category_id"] for r in results], dtype=np.int64)[d],
        true_class=np.array([r["category_id"] for r in instances], dtype=np.int64)[t],
        crowd=np.array([r["iscrowd"] for r in instances], dtype=bool)[t],
        score=np.array([r["score"] for r in results], dtype=np.float64)[d],
        mask_iou=masks[d, t],
        box_iou=boxes[d, t],
    )


def _ious(
    results: Sequence[dict[str, Any]], instances: Sequence[dict[str, Any]], key: str
) -> Floats:
    """Return the (D, T) IoU of masks or boxes, crowds as any other."""
    if not results or not instances:
        return np.zeros((len(results), len(instances)))
    sides = [r[key] for r in results], [r[key] for r in instances]
    return np.asarray(coco_mask.iou(*sides, [0] * len(instances)), dtype=np.float64)
