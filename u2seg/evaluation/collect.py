"""What one image contributes to any metric of any protocol, in a small table.

A table holds no pixels, so all of them fit into memory, travel between processes, and give every
protocol and every mapping from one reading of the files (``passes.gather``).

How one pass over the images is shared: among processes of a machine, or ranks of a run.

The tables come back in the order of the image ids, whoever made them, so what follows from them
is the same to the last bit for any number of processes.
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
from u2seg.evaluation.metrics.overlap import Overlap, count_overlaps
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import TrueImage, Truth, check_ids, check_shape, settled_areas
from u2seg.evaluation.truth.predictions import Predictions, check_maps
from u2seg.io.progress import Bar

NONE = -1
"""Class or cluster of a pixel that has none: void, true crowds, no segment."""

ANY_THING = -2
"""Cluster of a pixel that the stuff map gives to some thing."""

Ints = npt.NDArray[np.int64]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StuffPixels:
    """Pixels of one image by predicted stuff cluster and true class; the sum is the image.

    Args:
        cluster: (N,) int64 category ids of stuff clusters, ``ANY_THING`` or ``NONE``.
        true_class: (N,) int64 class ids, things too; ``NONE`` for void and crowds.
        pixels: (N,) int64, > 0.
    """

    cluster: Ints
    true_class: Ints
    pixels: Ints


@dataclass(frozen=True)
class Pairs:
    """Predicted and true thing instances that overlap, crowds too.

    Args:
        detection: (N,) int64 index among the image's detections.
        instance: (N,) int64 index among the image's true instances.
        cluster: (N,) int64 category id of the prediction.
        true_class: (N,) int64 class id of the true instance.
        crowd: (N,) bool, whether the true instance is a crowd.
        score: (N,) float64 of the prediction.
        mask_iou, box_iou: (N,) float64, 0..1; one of them is > 0.
        mask_match, box_match: (N,) float64, the same, but with crowds the share of the
            prediction that lies in the crowd, as COCO's AP counts it.
    """

    detection: Ints
    instance: Ints
    cluster: Ints
    true_class: Ints
    crowd: npt.NDArray[np.bool_]
    score: Floats
    mask_iou: Floats
    box_iou: Floats
    mask_match: Floats
    box_match: Floats


@dataclass(frozen=True)
class Detections:
    """Predicted thing instances of one image, in the order of the file.

    Args:
        cluster: (D,) int64 category ids.
        score: (D,) float64.
        mask_area, box_area: (D,) float64 in pixels.
    """

    cluster: Ints
    score: Floats
    mask_area: Floats
    box_area: Floats


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
        detections: Predicted instances.
        instances: True instances as COCO annotations without ``id``.
        empty: Whether the image has no prediction.
    """

    image_id: int
    overlap: Overlap
    truth: dict[int, TruthSegment]
    predicted: dict[int, int]
    stuff_pixels: StuffPixels
    pairs: Pairs
    detections: Detections
    instances: list[dict[str, Any]]
    empty: bool


def image_table(truth: Truth, predicted: Predictions, image_id: int) -> ImageTable:
    """Return the table of one image.

    Args:
        truth: Read here.
        predicted: The same.
        image_id: An image of the truth.

    Raises:
        UserError: if a file is missing or unreadable, sizes differ, a map holds ids that its
            list of segments lacks or the other way round, or a true segment has another area
            than the truth declares.
    """
    true = truth.read(image_id)
    guess = _predicted_ids(predicted, image_id, true.ids.shape)
    found = np.zeros_like(true.ids) if guess is None else guess
    overlap = count_overlaps(true.ids, found)
    check_ids(truth, image_id, true.segments, overlap.truth.tolist())
    true = replace(true, segments=settled_areas(truth, image_id, true.segments, overlap))
    if guess is not None:
        predicted.panoptic.check_ids(image_id, overlap.predicted.tolist(), every=True)
    segments = predicted.panoptic.segments.get(image_id, {})
    instances = true.instances
    if instances is None:
        instances = truth_instances(true.ids, true.segments, truth.things, image_id)
    results = predicted.instances.get(image_id, [])
    return ImageTable(
        image_id=image_id,
        overlap=overlap,
        truth=true.segments,
        predicted={segment: info.category for segment, info in segments.items()},
        stuff_pixels=_stuff_pixels(predicted, image_id, true, overlap, guess is None),
        pairs=_pairs(results, instances),
        detections=_detections(results),
        instances=instances,
        empty=guess is None,
    )


def _predicted_ids(
    predicted: Predictions, image_id: int, shape: tuple[int, ...]
) -> npt.NDArray[np.int32] | None:
    if image_id not in predicted.panoptic.segments:
        return None
    ids = predicted.panoptic.read_ids(image_id)
    check_shape(predicted.panoptic.path(image_id), ids.shape, shape, "the true map has")
    return ids


def _stuff_pixels(
    predicted: Predictions, image_id: int, true: TrueImage, overlap: Overlap, empty: bool
) -> StuffPixels:
    if empty:
        nothing = np.zeros(0, dtype=np.int64)
        return StuffPixels(nothing, nothing, nothing)
    stuff = predicted.panoptic.stuff
    if predicted.has_stuff_maps:
        found = predicted.read_stuff(image_id)
        overlap = count_overlaps(true.ids, found)
        clusters = {0: ANY_THING, **dict(enumerate(stuff, 1))}
    else:
        known = set(stuff)
        clusters = {
            segment: info.category if info.category in known else ANY_THING
            for segment, info in predicted.panoptic.segments[image_id].items()
        }
    return stuff_pixels(overlap, clusters, true.segments)


def stuff_pixels(
    overlap: Overlap, clusters: Mapping[int, int], truth: Mapping[int, TruthSegment]
) -> StuffPixels:
    """Return the pixels of an image by cluster and true class.

    Args:
        overlap: True segments against ids of a map.
        clusters: Id of the map -> category id of its stuff cluster, or ``ANY_THING``; ids that
            are missing are ``NONE``.
        truth: True segment id -> segment.
    """
    classes = {s: info.category for s, info in truth.items() if not info.crowd}
    cluster = np.array([clusters.get(p, NONE) for p in overlap.predicted.tolist()], np.int64)
    true_class = np.array([classes.get(t, NONE) for t in overlap.truth.tolist()], np.int64)
    return stuff_cells(cluster, true_class, overlap.pixels)


def stuff_cells(cluster: Ints, true_class: Ints, pixels: Ints) -> StuffPixels:
    """Return the pixels of equal cluster and class summed up; (N,) each, N > 0.

    Examples:
        >>> cells = stuff_cells(np.array([5, 5, 4]), np.array([3, 3, 3]), np.array([1, 2, 4]))
        >>> cells.cluster.tolist(), cells.true_class.tolist(), cells.pixels.tolist()
        ([4, 5], [3, 3], [4, 3])
    """
    cells, inverse = np.unique(np.stack([cluster, true_class]), axis=1, return_inverse=True)
    sums = np.zeros(cells.shape[1], dtype=np.int64)
    np.add.at(sums, inverse.reshape(-1), pixels)
    return StuffPixels(cells[0], cells[1], sums)


def _detections(results: Sequence[dict[str, Any]]) -> Detections:
    boxes = np.array([r["bbox"] for r in results], dtype=np.float64).reshape(-1, 4)
    areas = coco_mask.area([r["segmentation"] for r in results]) if results else []
    return Detections(
        cluster=np.array([r["category_id"] for r in results], dtype=np.int64),
        score=np.array([r["score"] for r in results], dtype=np.float64),
        mask_area=np.asarray(areas, dtype=np.float64),
        box_area=boxes[:, 2] * boxes[:, 3],
    )


def _pairs(results: Sequence[dict[str, Any]], instances: Sequence[dict[str, Any]]) -> Pairs:
    shape = (len(results), len(instances))
    crowd = np.array([r["iscrowd"] for r in instances], dtype=bool)
    plain, match = {}, {}
    for key in ("segmentation", "bbox"):
        plain[key] = _ious(results, instances, key, crowded=False)
        match[key] = plain[key]
        if crowd.any() and results:
            match[key] = np.where(
                crowd[None], _ious(results, instances, key, crowded=True), plain[key]
            )
    masks, boxes = plain["segmentation"], plain["bbox"]
    d, t = np.nonzero((masks > 0) | (boxes > 0)) if min(shape) else (np.zeros(0, np.int64),) * 2
    clusters = np.array([r["category_id"] for r in results], dtype=np.int64)
    classes = np.array([r["category_id"] for r in instances], dtype=np.int64)
    scores = np.array([r["score"] for r in results], dtype=np.float64)
    return Pairs(
        detection=d.astype(np.int64),
        instance=t.astype(np.int64),
        cluster=clusters[d],
        true_class=classes[t],
        crowd=crowd[t],
        score=scores[d],
        mask_iou=masks[d, t],
        box_iou=boxes[d, t],
        mask_match=match["segmentation"][d, t],
        box_match=match["bbox"][d, t],
    )


def _ious(
    results: Sequence[dict[str, Any]],
    instances: Sequence[dict[str, Any]],
    key: str,
    *,
    crowded: bool,
) -> Floats:
    """Return the (D, T) overlaps; ``crowded``: over the prediction's area, not the union."""
    if not results or not instances:
        return np.zeros((len(results), len(instances)))
    found = coco_mask.iou(
        [r[key] for r in results], [r[key] for r in instances], [int(crowded)] * len(instances)
    )
    return np.asarray(found, dtype=np.float64)


CHUNK = 8
"""Images a worker takes at once."""

AHEAD = 4
"""Chunks handed out per worker before the first is back: what a slow reader may pile up."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a distributed run, of which this is one.

    Args:
        rank, size: Which one, of how many.
        everybody: Gives an object of this rank to all; returns those of all ranks in order.
        first: Gives an object to rank 0, which gets those of all; the others get ``[]``.
    """

    rank: int
    size: int
    everybody: Callable[[Any], list[Any]]
    first: Callable[[Any], list[Any]]


def gather(
    truth: Truth,
    predicted: Predictions,
    image_ids: Sequence[int] | None = None,
    workers: int = 1,
    ranks: Ranks | None = None,
) -> list[ImageTable]:
    """Return the tables of images, sorted by image id.

    Args:
        truth: Read image by image.
        predicted: The same.
        image_ids: Images of the truth; None = all.
        workers: Processes of this machine; 1 = this one alone.
        ranks: Of a distributed run: each makes a share of the tables, and the first gets all of
            them; the others get an empty list. None = there is no such run.

    Raises:
        UserError: if ``workers`` is below 1, a file is missing or unreadable, sizes differ, or a
            map holds ids that its list of segments lacks, or the other way round; of sizes,
            before any pixel is read. In a distributed run every rank raises what one found.
        StageError: if a worker process dies.
    """
    if workers < 1:
        raise UserError(f"the number of workers is {workers}, expected at least 1")
    chosen = sorted(truth.stems if image_ids is None else image_ids)
    if ranks is None:
        return _tables(truth, predicted, chosen, workers, quiet=False)
    tables: list[ImageTable] = []
    error: UserError | StageError | None = None
    try:
        share = chosen[ranks.rank :: ranks.size]
        tables = _tables(truth, predicted, share, workers, quiet=ranks.rank > 0)
    except (UserError, StageError) as caught:
        error = caught
    for found in ranks.everybody(error):
        if found is not None:
            raise found
    parts = ranks.first(tables)
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
    todo = iter(chunks)
    waiting: deque[Future[list[ImageTable]]] = deque()
    with ProcessPoolExecutor(workers, context, _start, (truth, bare)) as pool:
        try:
            for _ in range(AHEAD * workers):
                _hand_out(pool, predicted, todo, waiting)
            while waiting:
                yield from waiting.popleft().result()
                _hand_out(pool, predicted, todo, waiting)
        except BrokenProcessPool as error:
            raise StageError(
                "a worker process of the evaluation died (killed for memory?): use fewer workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _hand_out(
    pool: ProcessPoolExecutor,
    predicted: Predictions,
    todo: Iterator[Sequence[int]],
    waiting: deque[Future[list[ImageTable]]],
) -> None:
    image_ids = next(todo, None)
    if image_ids is not None:
        found = {i: predicted.instances[i] for i in image_ids if i in predicted.instances}
        waiting.append(pool.submit(_work, image_ids, found))


_sides: list[Any] = []
"""Of a worker process: the truth and the predictions without instances."""


def _start(truth: Truth, predicted: Predictions) -> None:
    _sides[:] = [truth, predicted]


def _work(image_ids: Sequence[int], instances: dict[int, Any]) -> list[ImageTable]:
    truth, bare = _sides
    predicted = replace(bare, instances=instances)
    return [image_table(truth, predicted, image_id) for image_id in image_ids]
