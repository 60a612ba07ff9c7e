"""Write the folders of a labelling run, a training and an evaluation from synthetic shapes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from u2seg.io.atomic import write_json
from u2seg.io.png import write_label_png, write_panoptic_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask, encode_mask, mask_box

SPACE = LabelSpace(num_things=6, num_stuff=4)
SHAPE_COLORS = ((210, 60, 50), (60, 90, 200), (230, 190, 40))


@dataclass
class Folders:
    labels: Path
    train: Path
    predictions: Path


def write_run(root: Path, count: int, names: tuple[str, ...] = ()) -> Folders:
    """Write everything a report can read; ``names`` replace the first file names."""
    folders = Folders(root / "labels", root / "train", root / "predictions")
    photos = root / "photos"
    rng = np.random.default_rng(0)
    images, masks, instances, annotations = [], [], [], []
    for number in range(count):
        name = names[number] if number < len(names) else f"holiday/photo_{number:03d}.png"
        stem = str(Path(name).with_suffix(""))
        image, things, stuff = scene(rng, wide=number % 3 != 2, empty=number % 4 == 3)
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, format="PNG")
        height, width = stuff.shape
        images.append(
            {"id": number + 1, "file_name": name, "height": height, "width": width, "sha256": ""}
        )
        ids, segments = np.zeros(stuff.shape, np.int32), []
        for cluster in range(SPACE.num_stuff):
            where = (stuff == cluster) & ~np.any([m for m, _ in things] or [ids < 0], axis=0)
            if where.any():
                _segment(ids, segments, where, SPACE.stuff_category(cluster), 1.0)
        for mask, cluster in things:
            record = InstanceMask.from_array(mask, 0.9).to_result(number + 1)
            masks.append(record)
            instances.append({
                "id": len(instances) + 1, "image_id": number + 1, "category_id": cluster + 1,
                "segmentation": encode_mask(mask), "bbox": list(mask_box(mask)),
                "area": int(mask.sum()), "iscrowd": 0,
            })  # fmt: skip
            _segment(ids, segments, mask, SPACE.thing_category(cluster), 1.0)
        write_label_png(folders.labels / "semantics" / f"{stem}.png", stuff)
        png = f"{stem}.png"
        write_panoptic_png(folders.labels / "panoptic" / "panoptic" / png, ids)
        predicted = np.roll(ids, 6, axis=1)
        write_panoptic_png(folders.predictions / "panoptic" / png, predicted)
        annotations.append({"image_id": number + 1, "file_name": png, "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": SPACE.categories()}
    write_json(
        folders.labels / "images.json", {"info": {"image_root": str(photos)}, "images": images}
    )
    write_json(folders.labels / "masks" / "part-00000.json", masks)
    write_json(
        folders.labels / "panoptic" / "instances.json", {**content, "annotations": instances}
    )
    _labels_extra(folders.labels)
    for folder in (folders.labels / "panoptic", folders.predictions):
        write_json(folder / "panoptic.json", _scored(content, folder == folders.predictions))
        write_json(folder / "labelspace.json", SPACE.to_json())
    _training(folders.train)
    write_json(folders.predictions / "metrics.json", METRICS)
    return folders


def scene(rng: np.random.Generator, *, wide: bool, empty: bool):
    """Return (image, [(mask, cluster)], stuff map) with textured ground, sky and shapes."""
    height, width = (240, 360) if wide else (360, 240)
    y, x = np.mgrid[:height, :width]
    horizon = int(height * rng.uniform(0.4, 0.6))
    stuff = np.where(y < horizon, 0, 1).astype(np.uint8)
    stuff[(y > horizon) & (np.hypot(x - 30, y - height) < 90)] = 2
    base = np.array([[150, 190, 230], [110, 150, 80], [170, 140, 100], [0, 0, 0]])[stuff]
    image = np.clip(base + rng.normal(0, 12, (height, width, 1)), 0, 255).astype(np.uint8)
    things = []
    for kind in range(0 if empty else int(rng.integers(1, 4))):
        cx, cy = rng.uniform(50, width - 50), rng.uniform(60, height - 60)
        radius = rng.uniform(22, 50)
        if kind == 0:
            mask = np.hypot(x - cx, y - cy) < radius
        elif kind == 1:
            mask = (abs(x - cx) < radius) & (abs(y - cy) < 0.7 * radius)
        else:
            mask = (y - cy < radius) & (y - cy > 2 * abs(x - cx) - radius)
        for other, _ in things:
            mask &= ~other
        if mask.sum() < 20:
            continue
        stripes = 25 * np.sin((x + y) / (3 + 2 * kind))
        color = np.array(SHAPE_COLORS[kind]) + stripes[..., None]
        image[mask] = np.clip(color, 0, 255).astype(np.uint8)[mask]
        things.append((mask, kind))
    return image, things, stuff


def _segment(
    ids: np.ndarray, segments: list, where: np.ndarray, category: int, score: float
) -> None:
    number = len(segments) + 1
    ids[where] = number
    segments.append({
        "id": number, "category_id": category, "isthing": int(SPACE.is_thing(category)),
        "iscrowd": 0, "area": int(where.sum()), "bbox": list(mask_box(where)), "score": score,
    })  # fmt: skip


def _scored(content: dict[str, Any], predicted: bool) -> dict[str, Any]:
    if not predicted:
        return content
    rows = [
        {**row, "segments_info": [{**s, "score": 0.87} for s in row["segments_info"]]}
        for row in content["annotations"]
    ]
    return {**content, "annotations": rows}


def _labels_extra(labels: Path) -> None:
    skipped = [
        {"file_name": "broken/half.jpg", "reason": "corrupt or truncated: image file is truncated"},
        {"file_name": "bomb.png", "reason": "too large: 30000x30000 = 900000000 pixels"},
    ]
    (labels / "skipped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in skipped))
    steps = np.arange(600)
    noise = np.random.default_rng(1).normal(0, 0.02, 600)
    losses = {"correspondence": (0.2 * np.exp(-steps / 150) - 0.1 + noise).tolist()}
    write_json(labels / "semantics" / "losses.json", losses)
    write_json(labels / "clusters" / "quality.json", QUALITY)
    write_json(
        labels / "timings.json",
        {"masks": 31.2, "clusters": 2.5, "semantics": 41.0, "panoptic": 0.8},
    )
    for stage in ("masks", "clusters", "semantics", "panoptic"):
        write_json(labels / stage / "manifest.json", {
            "stage": stage, "settings_hash": "0" * 64, "inputs": {}, "files": {}, "counts": {},
            "version": "0.1.0", "seed": 0, "libraries": {"numpy": "2.4.6", "torch": "2.11.0"},
            "settings": {"MASKS": {"MASKCUT": {"TAU": 0.15, "NUM_MASKS": 3}}},
        })  # fmt: skip


def _training(train: Path) -> None:
    train.mkdir(parents=True)
    lines = []
    for step in range(0, 400, 20):
        decay = math.exp(-step / 120)
        row = {"iteration": step, "lr": 0.01 * min(1, step / 100), "data_time": 0.01}
        row |= {"total_loss": 4 * decay + 0.8, "loss_mask": 0.7 * decay + 0.2}
        lines.append(json.dumps(row))
    (train / "metrics.json").write_text("\n".join(lines) + '\n{"iteration": 400, "total_l')
    (train / "config.yaml").write_text("MODEL:\n  META_ARCHITECTURE: PanopticCascadeRCNN\n")
    write_json(train / "timings.json", {"train": 190.0, "evaluate": 22.5})


QUALITY: dict[str, Any] = {
    "descriptors": 9, "clusters": 6, "inertia": 12.5, "empty": [3, 4, 5],
    "near_duplicates": [[1, 2, None], [0, 1, 22.5]], "near_duplicate_pairs": 2,
    "sizes": {"min": 0, "median": 1.0, "max": 4, "effective": 2.75}, "sample": 9,
    "silhouette": 0.3125, "margin": {"mean": 0.4567, "median": 0.4, "below_0.05": 0.125},
}  # fmt: skip
METRICS: dict[str, Any] = {
    "protocol": {"matching": "hungarian", "reference": "pseudo-labels", "images": 6,
                 "thresholds": {"iou": 0.5, "score": 0.3}, "mapping_fitted_on": "same images"},
    "class_agnostic": {
        "box": {"AP": 31.25, "AP50": 50.1, "AP75": 33.0, "AR1": 20.0, "AR10": 40.0, "AR100": 44.4},
        "segm": {"AP": 28.0, "AP50": 47.5, "AP75": 30.0, "AR1": 18.0, "AR10": 38.0, "AR100": 41.0},
    },
    "instances": {"box": {"AP": 12.0, "AP50": 22.0, "AP75": 11.0, "AR100": 30.0},
                  "segm": {"AP": 11.0, "AP50": 21.0, "AP75": 10.0, "AR100": 28.0}, "per_class": {}},
    "semantic": {"mIoU": 52.0, "pixel_accuracy": 80.3, "per_class": {}},
    "panoptic": {"all": {"PQ": 38.25, "SQ": 70.0, "RQ": 51.0, "n": 10},
                 "things": {"PQ": 33.0, "SQ": 68.0, "RQ": 47.0, "n": 6},
                 "stuff": {"PQ": None, "SQ": None, "RQ": None, "n": 0}, "per_class": {}},
}  # fmt: skip
