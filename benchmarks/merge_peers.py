"""What others do: paint with a loop over masks and classes, load everything, dump one dictionary.

Written plainly from the method of the released merge script (U2Seg commit 8e9c709,
``datasets/prepare_ours/generate_pseudo_panoptic.py``).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.merge_inputs import SPACE, ImageRecords, Unmerged
from u2seg.io.atomic import atomic_file

COVERED = 0.7


def loop_merge(raw: Unmerged) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]], list[bytes]]:
    """Return the (H, W) id map, its segments and two PNGs, by the released rule.

    Args:
        raw: Masks, cluster ids and stuff of one image.
    """
    ids = np.zeros(raw.stuff.shape, dtype=np.int32)
    segments = []
    areas = [mask.bbox[2] * mask.bbox[3] for mask in raw.masks]
    order = sorted(range(len(areas)), key=lambda i: areas[i], reverse=True)
    for identity, index in enumerate(order, 1):
        ids[coco_mask.decode(raw.masks[index].rle) == 1] = identity
    for identity, index in enumerate(order, 1):
        if np.any(ids == identity):
            segments.append(_segment(ids, identity, raw.clusters[index] + 1))
    painted = ids > 0
    identity = len(order)
    for cluster in range(SPACE.num_stuff):
        region = raw.stuff == cluster
        if not region.any() or (region & painted).sum() / region.sum() > COVERED:
            continue
        identity += 1
        ids[region & ~painted] = identity
        segments.append(_segment(ids, identity, SPACE.num_things + 1 + cluster))
    return ids, segments, [_png(_colors(ids)), _png(_stuff_map(ids, segments))]


def _segment(ids: npt.NDArray[np.int32], identity: int, category: int) -> dict[str, Any]:
    region = (ids == identity).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(region))
    return {
        "id": identity,
        "category_id": category,
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
    }


def _colors(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    rest = ids.copy()
    colors = np.zeros((*ids.shape, 3), dtype=np.uint8)
    for channel in range(3):
        colors[..., channel] = rest % 256
        rest //= 256
    return colors


def _stuff_map(ids: npt.NDArray[np.int32], segments: list[dict[str, Any]]) -> npt.NDArray[np.uint8]:
    stuff = np.full(ids.shape, 255, dtype=np.uint8)
    for segment in segments:
        category = segment["category_id"]
        stuff[ids == segment["id"]] = max(0, category - SPACE.num_things)
    return stuff


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def load_all_join(parts: Iterable[Path], folder: Path, images: ImageRecords) -> int:
    """Read all parts, then write two dictionaries with the ``json`` module; return the instances.

    Args:
        parts: Part files in order.
        folder: Where ``instances.json`` and ``panoptic.json`` are written.
        images: Records of the images.
    """
    rows = list(images)
    instances: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for part in parts:
        for row in json.loads(part.read_text()):
            if isinstance(row, list):  # id of the image, numbers of segments and instances
                continue
            if "segments_info" in row:
                labels.append(row)
            else:
                instances.append({**row, "id": len(instances) + 1})
    for name, rows_of in (("instances", instances), ("panoptic", labels)):
        content = {"images": rows, "annotations": rows_of, "categories": SPACE.categories()}
        with atomic_file(folder / f"{name}.json") as file:
            text = io.TextIOWrapper(file, encoding="utf-8")
            json.dump(content, text)
            text.detach()
    return len(instances)
