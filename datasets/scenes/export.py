"""Write scenes as a COCO-panoptic data set.

Layout::

    <output>/images/{train,val}/000001.png
    <output>/annotations/panoptic_{train,val}.json + panoptic_{train,val}/000001.png
    <output>/annotations/instances_{train,val}.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenes.compose import REFERENCE_SIDE, Scene, compose_scene
from scenes.kinds import SCENE_LABELS
from u2seg.errors import UserError
from u2seg.io.atomic import atomic_file, write_json
from u2seg.io.png import write_panoptic_png
from u2seg.io.progress import Bar
from u2seg.structures.masks import encode_mask

MIN_SIDE, MAX_SIDE = 32, 2048
INFO = {"description": "u2seg composed scenes", "license": "CC0-1.0"}


@dataclass(frozen=True)
class SceneSettings:
    """How many scenes, how large.

    Args:
        train, val: Scenes of each split, >= 0, not both 0.
        size: Side in pixels, 32..2048.
        seed: >= 0. A scene depends on the seed and its own number only, so more scenes do not
            change the first ones.

    Raises:
        UserError: if a value is out of range.
    """

    train: int = 200
    val: int = 50
    size: int = REFERENCE_SIDE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train < 0 or self.val < 0 or self.train + self.val == 0:
            raise UserError(
                f"--train {self.train} --val {self.val}: both must be >= 0 and one must be > 0"
            )
        if not MIN_SIDE <= self.size <= MAX_SIDE:
            raise UserError(f"--size is {self.size}, expected {MIN_SIDE}..{MAX_SIDE} pixels")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}, expected >= 0")


def write_scenes(output: Path, settings: SceneSettings) -> dict[str, int]:
    """Write both splits; the JSON of a split comes after its pictures.

    Returns:
        Count of images, things and stuff segments over both splits.

    Raises:
        UserError: if ``output`` cannot be written.
    """
    counts = {"images": 0, "things": 0, "stuff": 0}
    first = 1
    for number, (split, size) in enumerate((("train", settings.train), ("val", settings.val))):
        ids = range(first, first + size)
        first += size
        annotations = []
        for index, image_id in enumerate(Bar(ids, desc=f"{split} scenes")):
            rng = np.random.default_rng([settings.seed, number, index])
            annotations.append(_write_scene(output, split, image_id, rng, settings.size))
        images = [
            {"id": i, "file_name": f"{i:06d}.png", "height": settings.size, "width": settings.size}
            for i in ids
        ]
        _write_annotations(output, split, images, annotations)
        things = sum(len(record["instances"]) for record in annotations)
        segments = sum(len(record["panoptic"]["segments_info"]) for record in annotations)
        counts["images"] += size
        counts["things"] += things
        counts["stuff"] += segments - things
    return counts


def _write_scene(
    output: Path, split: str, image_id: int, rng: np.random.Generator, size: int
) -> dict[str, Any]:
    scene = compose_scene(rng, size)
    name = f"{image_id:06d}.png"
    with atomic_file(output / "images" / split / name) as file:
        Image.fromarray(scene.image).save(file, format="PNG")
    write_panoptic_png(output / "annotations" / f"panoptic_{split}" / name, scene.label.ids)
    panoptic = {
        "image_id": image_id,
        "file_name": name,
        "segments_info": [segment.to_json() for segment in scene.label.segments],
    }
    return {"panoptic": panoptic, "instances": _instances(scene, image_id)}


def _instances(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "category_id": segment.category_id,
            "segmentation": encode_mask(scene.label.ids == segment.id),
            "bbox": list(segment.bbox),
            "area": segment.area,
            "iscrowd": 0,
        }
        for segment in scene.label.segments
        if segment.isthing
    ]


def _write_annotations(
    output: Path, split: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> None:
    folder = output / "annotations"
    categories = SCENE_LABELS.categories()
    instances = [entry for record in annotations for entry in record["instances"]]
    for number, entry in enumerate(instances):
        entry["id"] = number + 1
    things = [category for category in categories if category["isthing"]]
    head = {"info": INFO, "licenses": [], "images": images}
    write_json(
        folder / f"instances_{split}.json",
        {**head, "categories": things, "annotations": instances},
    )
    write_json(
        folder / f"panoptic_{split}.json",
        {
            **head,
            "categories": categories,
            "annotations": [record["panoptic"] for record in annotations],
        },
    )
