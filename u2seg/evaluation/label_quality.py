"""Score pseudo-labels before any training: masks, their clusters, panoptic segments.

Used to judge labels only: nothing that makes labels reads the result. Masks are scored without
classes, beside masks that know nothing of objects. Before training there is no mapping from
clusters to classes, and a rule of merging changes no cluster, so of panoptic labels every segment
counts as one class ("segment"), and things and stuff as two.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.errors import UserError
from u2seg.evaluation.metrics.clustering import cluster_scores
from u2seg.evaluation.metrics.instance import instance_metrics
from u2seg.evaluation.metrics.matching import UNMATCHED
from u2seg.evaluation.metrics.overlap import Overlap, count_overlaps
from u2seg.evaluation.metrics.panoptic import (
    ClassCounts,
    TruthSegment,
    count_matches,
    mean_quality,
)
from u2seg.evaluation.report.table import align
from u2seg.evaluation.truth.base import check_shape, settled_areas
from u2seg.evaluation.truth.coco import (
    GroundTruth,
    PanopticSet,
    read_panoptic_set,
    read_truth,
)
from u2seg.evaluation.truth.predictions import compressed_result
from u2seg.io.coco import image_sizes, read_instances, read_results, segmentation_rle
from u2seg.io.images import BadImageError, read_image
from u2seg.io.jsonfile import read_json, read_json_object
from u2seg.io.packaged import install_command
from u2seg.io.paths import safe_join
from u2seg.io.progress import Bar
from u2seg.structures.labels import VOID_ID
from u2seg.structures.masks import InstanceMask

logger = logging.getLogger(__name__)
Record = dict[str, Any]
MATCH_IOU = 0.5
BOX_SIDE = 0.5
"""Sides of the centred box as a share of the image's sides; a quarter of its area."""
SLIC_SEGMENTS = 25
SLIC_COMPACTNESS = 10.0
"""Settings of the superpixels: scikit-image's default compactness, 5 x 5 cells on average."""
SEGMENT, THING, STUFF = 0, 1, 2
NAMES = {"segments": SEGMENT, "things": THING, "stuff": STUFF}
_MASK_COLUMNS = (
    "AP", "AP50", "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large", "best_mask_iou",
    "hits",
)  # fmt: skip
_CLUSTER_COLUMNS = ("NMI", "ARI", "purity", "matched_accuracy")
_LABEL_COLUMNS = ("PQ", "SQ", "RQ", "tp", "fp", "fn")


@dataclass(frozen=True)
class MaskTruth:
    """True instances.

    Args:
        source: The JSON they came from.
        images: COCO image records (id, file_name, height, width) to score.
        annotations: COCO annotations with compressed RLEs, crowds included.
    """

    source: Path
    images: tuple[Record, ...]
    annotations: tuple[Record, ...]


def read_mask_truth(path: Path) -> MaskTruth:
    """Return the truth of a COCO instances JSON; UserError if it is missing or garbled."""
    content = read_instances(path)
    sizes = image_sizes(content["images"])
    annotations = tuple(
        {
            **record,
            "segmentation": segmentation_rle(record["segmentation"], sizes[record["image_id"]]),
            "iscrowd": int(record.get("iscrowd", 0)),
        }
        for record in content["annotations"]
    )
    return MaskTruth(Path(path), tuple(content["images"]), annotations)


def read_mask_results(path: Path, truth: MaskTruth) -> tuple[list[Record], MaskTruth]:
    """Return masks and the part of the truth they are to be scored on.

    Args:
        path: A COCO results JSON (a list), whose image ids are the truth's: every image of the
            truth is scored. Or masks that name their photographs: a COCO instances JSON (a
            mask without ``score`` has 1, crowds are left out) or the output folder of a
            labelling run. Of these the photographs that the truth knows, by file name, are
            scored, the others passed over.
        truth: The truth.

    Raises:
        UserError: if a file is missing or garbled, a result is for an unknown image, a mask
            has another size than the true image, or no photograph is in the truth.
    """
    path = Path(path)
    if path.is_dir():
        images, records = _read_run(path)
        return _join(path, images, records, truth)
    if isinstance(read_json(path), dict):
        content = read_instances(path)
        records = [{"score": 1.0, **r} for r in content["annotations"] if not r.get("iscrowd")]
        return _join(path, content["images"], records, truth)
    sizes = image_sizes(truth.images)
    results = read_results(path, sizes)
    return [compressed_result(r, sizes[r["image_id"]]) for r in results], truth


def _read_run(folder: Path) -> tuple[list[Record], list[Record]]:
    """Return the image records and COCO results of a labelling run, with ``cluster`` if known."""
    images: list[Record] = read_json_object(folder / "images.json", "images")["images"]
    parts = sorted((folder / "masks").glob("part-*.json"))
    if not parts:
        raise UserError(
            f"{folder / 'masks'} holds no part-*.json: run u2seg label with "
            f"--output-dir {folder} --stages masks first"
        )
    sizes = image_sizes(images)
    results = []
    for part in parts:
        found = read_results(part, sizes)
        path = folder / "clusters" / part.with_suffix(".npy").name.replace("part", "assigned")
        results += _with_clusters(found, part, path) if path.is_file() else found
    return images, results


def _with_clusters(results: list[Record], part: Path, path: Path) -> list[Record]:
    try:
        ids: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a readable .npy array: {error}") from error
    if ids.shape != (len(results),):
        raise UserError(
            f"{path} holds {ids.shape} cluster ids, {part} {len(results)} masks: run the clusters "
            "stage anew (--overwrite)"
        )
    return [{**r, "cluster": int(cluster)} for r, cluster in zip(results, ids, strict=True)]


def _join(
    source: Path, images: Sequence[Record], records: Sequence[Record], truth: MaskTruth
) -> tuple[list[Record], MaskTruth]:
    """Return the records of images that the truth knows by file name, under its ids."""
    by_file = {image["file_name"]: image["id"] for image in truth.images}
    true_ids = {i["id"]: by_file[i["file_name"]] for i in images if i["file_name"] in by_file}
    if not true_ids:
        raise UserError(f"none of the {len(images)} photographs of {source} is in {truth.source}")
    if len(true_ids) < len(images):
        logger.info("%d of %d photographs have truth", len(true_ids), len(images))
    own, sizes = image_sizes(images), image_sizes(truth.images)
    results = []
    for record in records:
        image_id = record["image_id"]
        if image_id not in true_ids:
            continue
        size = sizes[true_ids[image_id]]
        if own[image_id] != size:
            raise UserError(
                f"{source}: a mask of image {image_id} is {own[image_id]}, the true image {size} "
                "(height, width): the photographs are not those of the truth"
            )
        results.append(compressed_result({**record, "image_id": true_ids[image_id]}, size))
    kept = set(true_ids.values())
    part = MaskTruth(
        truth.source,
        tuple(i for i in truth.images if i["id"] in kept),
        tuple(a for a in truth.annotations if a["image_id"] in kept),
    )
    return results, part


def best_ious(
    queries: Sequence[Mapping[str, Any]], pool: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return for every mask the best IoU with any of a pool in its image, 0..1; 0 without one.

    Both are COCO records with compressed RLEs, of which scores and crowds are not looked at.
    """
    masks: dict[int, list[Any]] = {}
    for record in pool:
        masks.setdefault(record["image_id"], []).append(record["segmentation"])
    return [
        float(np.max(coco_mask.iou(found, [record["segmentation"]], [0])))
        if (found := masks.get(record["image_id"]))
        else 0.0
        for record in queries
    ]


def mask_metrics(truth: MaskTruth, results: Sequence[Record]) -> dict[str, Any]:
    """Return class-agnostic mask AP and AR and the mean of the best mask's IoU, in percent.

    Returns:
        ``images``, ``instances`` (without crowds), ``masks``: counts; ``AP``, ``AP50``,
        ``AP75``, ``AR1``, ``AR10``, ``AR100``, ``AR_small``, ``AR_medium``, ``AR_large`` (see
        ``instance_metrics``), ``best_mask_iou`` (mean over true instances of the best mask's
        IoU): percent, None without true instances (of that size); ``hits``: percent of the masks
        that reach IoU 0.5 with a true instance, None without masks.
    """
    instances = [record for record in truth.annotations if not record["iscrowd"]]
    best, reached = best_ious(instances, results), best_ious(results, instances)
    image_ids = [image["id"] for image in truth.images]
    return {
        "images": len(image_ids),
        "instances": len(best),
        "masks": len(results),
        **instance_metrics(truth.annotations, results, image_ids, "segm", by_size=True),
        "hits": 100.0 * float(np.mean(np.array(reached) >= MATCH_IOU)) if reached else None,
        "best_mask_iou": 100.0 * float(np.mean(best)) if best else None,
    }


def score_masks(results: Path, truth: Path, images: Path | None = None) -> dict[str, Any]:
    """Return name -> ``mask_metrics`` of the given masks and, with ``images``, of baselines.

    Args:
        results: COCO results or instances JSON, or the folder of a labelling run.
        truth: COCO instances JSON.
        images: Folder of the photographs; None = no baselines. Baselines are scored on exactly
            the images the masks are scored on.

    Raises:
        UserError: as ``read_mask_truth``, ``read_mask_results`` and ``baseline_results``.
    """
    masks, scored = read_mask_results(results, read_mask_truth(truth))
    scores = {"masks": mask_metrics(scored, masks)}
    if images is not None:
        for name, records in baseline_results(scored, images).items():
            scores[name] = mask_metrics(scored, records)
    return scores


def format_mask_metrics(scores: dict[str, Any]) -> str:
    """Return the result of ``score_masks`` as a table; percent."""
    head = next(iter(scores.values()))
    rows = [
        [name, row["masks"] / max(row["images"], 1), *(row[c] for c in _MASK_COLUMNS)]
        for name, row in scores.items()
    ]
    table = align(["class-agnostic", "masks/image", *_MASK_COLUMNS], rows)
    return f"{head['images']} images, {head['instances']} true instances\n\n{table}"


def centered_box(size: tuple[int, int]) -> InstanceMask:
    """Return one box in the middle of an (H, W) image, half as high and wide; score 1.

    Examples:
        >>> centered_box((4, 8)).bbox
        (2.0, 1.0, 4.0, 2.0)
    """
    height, width = size
    mask = np.zeros(size, dtype=bool)
    top, left = round(height * (1 - BOX_SIDE) / 2), round(width * (1 - BOX_SIDE) / 2)
    mask[top : height - top, left : width - left] = True
    return InstanceMask.from_array(mask)


def slic_superpixels(image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
    """Return about 25 superpixels that cover an (H, W, 3) image; the score is their share of it.

    Source: Achanta et al., "SLIC Superpixels", PAMI 2012; computed by scikit-image.

    Raises:
        UserError: if scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise UserError(f"superpixels need scikit-image: {install_command('labels')}") from error
    cells = slic(image, n_segments=SLIC_SEGMENTS, compactness=SLIC_COMPACTNESS, start_label=1)
    masks = (cells == cell for cell in np.unique(cells))
    return [InstanceMask.from_array(m, score=np.count_nonzero(m) / cells.size) for m in masks]


def baseline_results(truth: MaskTruth, images: Path) -> dict[str, list[Record]]:
    """Return the COCO results of each baseline on the images of a truth.

    Raises:
        UserError: if an image is missing, unreadable or of another size than the truth says.
    """
    results: dict[str, list[Record]] = {"centered_box": [], "slic_superpixels": []}
    for record in Bar(truth.images, desc="baselines"):
        path = safe_join(images, record["file_name"])
        try:
            image = read_image(path)
        except BadImageError as error:
            raise UserError(f"{path}: {error}; --images must be the truth's folder") from error
        size = (record["height"], record["width"])
        if image.shape[:2] != size:
            raise UserError(f"{path} is {image.shape[:2]}, {truth.source} says {size} (H, W)")
        results["centered_box"].append(centered_box(size).to_result(record["id"]))
        cells = slic_superpixels(image)
        results["slic_superpixels"].extend(mask.to_result(record["id"]) for mask in cells)
    return results


def score_clusters(results: Path, truth: Path, match_iou: float = MATCH_IOU) -> dict[str, Any]:
    """Return how well clusters agree with classes, and a control.

    A mask has the class of the true instance it overlaps most, if their IoU reaches
    ``match_iou``; masks without class are left out.

    Args:
        results: Folder of a labelling run with clusters, or a COCO instances JSON whose
            categories are clusters.
        truth: COCO instances JSON.
        match_iou: 0..1.

    Returns:
        ``masks`` and those ``with_class``; ``clusters`` and ``classes`` among the latter;
        ``match_iou``; ``scores`` and ``shuffled``: ``cluster_scores`` of the clusters, and of the
        same ids given to the masks in random order (seed 0). NMI and purity rise with the number
        of clusters, so they mean nothing without this control.

    Raises:
        UserError: as ``read_mask_truth`` and ``read_mask_results``; if the run has no clusters,
            or no mask has a class.
    """
    masks, scored = read_mask_results(results, read_mask_truth(truth))
    ids = np.array([_cluster(results, mask) for mask in masks], dtype=np.int64)
    classes = true_classes(masks, scored, match_iou)
    known = classes >= 0
    if not known.any():
        raise UserError(
            f"none of the {len(masks)} masks of {results} overlaps a true instance with IoU "
            f"{match_iou} or more: clusters cannot be scored"
        )
    ids, classes = ids[known], classes[known]
    shuffled = np.random.default_rng(0).permutation(ids)
    return {
        "masks": len(masks),
        "with_class": len(ids),
        "clusters": len(np.unique(ids)),
        "classes": len(np.unique(classes)),
        "match_iou": match_iou,
        "scores": cluster_scores(ids, classes),
        "shuffled": cluster_scores(shuffled, classes),
    }


def true_classes(
    masks: Sequence[Record], truth: MaskTruth, match_iou: float
) -> npt.NDArray[np.int64]:
    """Return the class of every mask (n,), -1 for one that overlaps no true instance enough."""
    instances: dict[int, list[Record]] = {}
    for record in truth.annotations:
        if not record["iscrowd"]:
            instances.setdefault(record["image_id"], []).append(record)
    classes = np.full(len(masks), UNMATCHED, dtype=np.int64)
    for index, mask in enumerate(masks):
        if found := instances.get(mask["image_id"]):
            rles = [record["segmentation"] for record in found]
            overlap = np.asarray(coco_mask.iou([mask["segmentation"]], rles, [0] * len(rles)))[0]
            best = int(np.argmax(overlap))
            if overlap[best] >= match_iou:
                classes[index] = int(found[best]["category_id"])
    return classes


def _cluster(source: Path, mask: Record) -> int:
    if "cluster" in mask:
        return int(mask["cluster"])
    if Path(source).is_dir() or "category_id" not in mask:
        raise UserError(f"{source} holds no clusters: run u2seg label with --stages clusters first")
    return int(mask["category_id"])


def format_cluster_scores(found: dict[str, Any]) -> str:
    """Return the result of ``score_clusters`` as a table; percent."""
    head = (
        f"{found['with_class']} of {found['masks']} masks have a class (IoU "
        f"{found['match_iou']:g}): {found['clusters']} clusters, {found['classes']} classes"
    )
    names = ("scores", "shuffled")
    rows = [[name, *(found[name][c] for c in _CLUSTER_COLUMNS)] for name in names]
    return f"{head}\n\n{align(['clusters', *_CLUSTER_COLUMNS], rows)}"


def score_labels(labels: Path, truth: GroundTruth) -> dict[str, Any]:
    """Return the class-agnostic panoptic quality of a labelling run.

    Images are paired by their PNG's name, and the images that both know are scored.

    Returns:
        ``images``, ``unlabelled`` (share of the pixels with truth that have no segment,
        percent), and for ``segments`` (all one class), ``things`` and ``stuff``: ``PQ``,
        ``SQ``, ``RQ`` in percent, and ``tp``, ``fp``, ``fn``.

    Raises:
        UserError: if a file is missing or garbled, sizes or true areas differ, or no image is
            known to both.
    """
    true_set = read_truth(truth)
    folder = Path(labels) / "panoptic"
    found = read_panoptic_set(folder / "panoptic.json", folder / "panoptic")
    by_stem = {stem: i for i, stem in found.stems.items()}
    pairs = {t: by_stem[stem] for t, stem in true_set.stems.items() if stem in by_stem}
    if not pairs:
        raise UserError(f"none of the images of {found.source} is in {true_set.source}")
    totals = {name: ClassCounts() for name in NAMES}
    missing = pixels = 0
    for true_id, found_id in Bar(sorted(pairs.items()), desc="score"):
        overlap = _overlap(true_set, true_id, found, found_id)
        known = overlap.truth != VOID_ID
        missing += int(overlap.pixels[known & (overlap.predicted == VOID_ID)].sum())
        pixels += int(overlap.pixels[known].sum())
        for kinds in ((SEGMENT, SEGMENT), (THING, STUFF)):
            classes = {i: s.category for i, s in _collapsed(found, found_id, kinds).items()}
            counts = count_matches(overlap, _collapsed(true_set, true_id, kinds), classes)
            for name, kind in NAMES.items():
                totals[name].add(counts.get(kind, ClassCounts()))
    scores = {}
    for name, row in totals.items():
        quality = mean_quality({SEGMENT: row}, [SEGMENT])
        del quality["n"]
        scores[name] = {**quality, "tp": row.tp, "fp": row.fp, "fn": row.fn}
    return {"images": len(pairs), "unlabelled": 100.0 * missing / max(pixels, 1), **scores}


def format_label_scores(scores: dict[str, Any]) -> str:
    """Return the result of ``score_labels`` as a table; percent."""
    rows = [[n, *(scores[n][c] for c in _LABEL_COLUMNS)] for n in NAMES]
    table = align(["class-agnostic", *_LABEL_COLUMNS], rows)
    return f"{scores['images']} images, {scores['unlabelled']:.2f} % unlabelled\n\n{table}"


def _overlap(true_set: PanopticSet, true_id: int, found: PanopticSet, found_id: int) -> Overlap:
    ids, other = true_set.read_ids(true_id), found.read_ids(found_id)
    check_shape(found.path(found_id), other.shape, ids.shape, "the true map has")
    overlap = count_overlaps(ids, other)
    true_set.check_ids(true_id, overlap.truth.tolist())
    segments = true_set.segments[true_id]
    true_set.segments[true_id] = settled_areas(true_set, true_id, segments, overlap)
    found.check_ids(found_id, overlap.predicted.tolist(), every=True)
    return overlap


def _collapsed(
    panoptic: PanopticSet, image_id: int, kinds: tuple[int, int]
) -> dict[int, TruthSegment]:
    """Return the segments of an image with one category for things and one for stuff."""
    things = set(panoptic.things)
    return {
        i: TruthSegment(kinds[s.category not in things], s.area, s.crowd)
        for i, s in panoptic.segments[image_id].items()
    }
