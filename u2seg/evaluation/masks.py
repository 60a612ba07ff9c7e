"""Score class-agnostic masks, e.g. pseudo-labels before any training, against true instances.

Used to judge labels only: nothing that makes labels reads the result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from u2seg.errors import UserError
from u2seg.evaluation.files import compressed_result
from u2seg.evaluation.instance import instance_metrics
from u2seg.io.coco import image_sizes, read_instances, read_results, segmentation_rle
from u2seg.io.jsonfile import read_json, read_json_object

logger = logging.getLogger(__name__)
Record = dict[str, Any]


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

    def only(self, image_ids: Iterable[int]) -> MaskTruth:
        """Return the truth of some of the images."""
        kept = set(image_ids)
        return MaskTruth(
            self.source,
            tuple(i for i in self.images if i["id"] in kept),
            tuple(a for a in self.annotations if a["image_id"] in kept),
        )


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
        results += [{**r, **c} for r, c in zip(found, _clusters(part, len(found)), strict=True)]
    return images, results


def _clusters(part: Path, count: int) -> list[Record]:
    """Return ``{"cluster": id}`` for every mask of a part, ``{}`` before the clusters stage."""
    path = part.parents[1] / "clusters" / part.with_suffix(".npy").name.replace("part", "assigned")
    if not path.is_file():
        return [{}] * count
    try:
        ids: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a readable .npy array: {error}") from error
    if ids.shape != (count,):
        raise UserError(
            f"{path} holds {ids.shape} cluster ids, {part} {count} masks: run the clusters stage "
            "anew (--overwrite)"
        )
    return [{"cluster": int(cluster)} for cluster in ids]


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
        if record["image_id"] in true_ids:
            true_id = true_ids[record["image_id"]]
            _check_size(source, record["image_id"], own[record["image_id"]], sizes[true_id])
            results.append(compressed_result({**record, "image_id": true_id}, sizes[true_id]))
    return results, truth.only(true_ids.values())


def _check_size(source: Path, image: int, found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != size:
        raise UserError(
            f"{source}: a mask of image {image} is {found}, the true image {size} "
            "(height, width): the photographs are not those of the truth"
        )


def best_mask_ious(
    truth: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return for every true instance the best IoU of any mask of its image, 0..1.

    Args:
        truth: COCO annotations with compressed RLEs; crowds are left out.
        results: COCO results with compressed RLEs; scores are not used.

    Returns:
        One number per instance, in the order of ``truth``; 0 where the image has no mask.
    """
    return _best_ious([record for record in truth if not record["iscrowd"]], results)


def best_instance_ious(
    truth: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return for every mask the best IoU with any true instance of its image, 0..1.

    Args:
        truth: COCO annotations with compressed RLEs; crowds are left out.
        results: COCO results with compressed RLEs.

    Returns:
        One number per mask, in the order of ``results``; 0 where the image has no instance.
    """
    return _best_ious(results, [record for record in truth if not record["iscrowd"]])


def _best_ious(
    queries: Sequence[Mapping[str, Any]], pool: Sequence[Mapping[str, Any]]
) -> list[float]:
    masks: dict[int, list[Any]] = {}
    for record in pool:
        masks.setdefault(record["image_id"], []).append(record["segmentation"])
    best = []
    for record in queries:
        found = masks.get(record["image_id"])
        if found is None:
            best.append(0.0)
        else:
            best.append(float(np.max(coco_mask.iou(found, [record["segmentation"]], [0]))))
    return best


def mask_metrics(truth: MaskTruth, results: Sequence[Record]) -> dict[str, Any]:
    """Return class-agnostic mask AP and AR and the mean of the best mask's IoU, in percent.

    Returns:
        ``images``, ``instances`` (without crowds), ``masks``: counts; ``AP``, ``AP50``,
        ``AP75``, ``AR1``, ``AR10``, ``AR100``, ``AR_small``, ``AR_medium``, ``AR_large`` (see
        ``instance_metrics``), ``best_mask_iou``: percent, None without true instances (of that
        size); ``hits``: percent of the masks that reach IoU 0.5 with a true instance, None
        without masks.
    """
    best = best_mask_ious(truth.annotations, results)
    reached = best_instance_ious(truth.annotations, results)
    image_ids = [image["id"] for image in truth.images]
    return {
        "images": len(image_ids),
        "instances": len(best),
        "masks": len(results),
        **instance_metrics(truth.annotations, results, image_ids, "segm", by_size=True),
        "hits": 100.0 * float(np.mean(np.array(reached) >= 0.5)) if reached else None,
        "best_mask_iou": 100.0 * float(np.mean(best)) if best else None,
    }
