"""Files to evaluate: true maps of random regions, predictions that are right in most of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from u2seg.evaluation.truth.coco import GroundTruth
from u2seg.io.atomic import atomic_file, write_json
from u2seg.structures.masks import InstanceMask, mask_box
from u2seg.structures.panoptic import ids_to_rgb

Ids = npt.NDArray[np.int32]
NUM_THINGS, NUM_STUFF = 80, 53
"""Classes, as in COCO."""
CATEGORIES = [
    {"id": i, "name": f"class {i}", "isthing": int(i <= NUM_THINGS)}
    for i in range(1, NUM_THINGS + NUM_STUFF + 1)
]


@dataclass(frozen=True)
class EvaluateSizes:
    """How much is evaluated; tests take little.

    Args:
        height, width: Of an image, pixels.
        things, stuff: True segments of an image.
        images: How many.
        pool: Different ones; the others repeat them under other names and ids.
    """

    height: int = 480
    width: int = 640
    things: int = 7
    stuff: int = 4
    images: int = 100
    pool: int = 20


@dataclass(frozen=True)
class Files:
    """What is evaluated.

    Args:
        truth: COCO panoptic truth.
        predictions: Result folder whose categories are those of the truth.
    """

    truth: GroundTruth
    predictions: Path

    @property
    def predicted(self) -> GroundTruth:
        """The panoptic part of the predictions."""
        return GroundTruth(self.predictions / "panoptic.json", self.predictions / "panoptic")


def true_map(rng: np.random.Generator, sizes: EvaluateSizes) -> tuple[Ids, dict[int, int]]:
    """Return (H, W) ids, 0 = void, and id -> class: blobs on a patchwork, outlines uneven."""
    shape = (sizes.height, sizes.width)

    def smooth(width: float) -> npt.NDArray[np.float64]:
        rough = gaussian_filter(rng.standard_normal(shape), 1.5)
        field = gaussian_filter(rng.standard_normal(shape), width)
        total: npt.NDArray[np.float64] = field / field.std() + 0.01 * rough / rough.std()
        return total

    names = rng.choice(2**24 - 1, sizes.things + sizes.stuff, replace=False) + 1
    patches = np.stack([smooth(sizes.height / 8) for _ in range(sizes.stuff)])
    ids = names[: sizes.stuff][patches.argmax(axis=0)].astype(np.int32)
    classes = rng.choice(np.arange(NUM_THINGS + 1, len(CATEGORIES) + 1), sizes.stuff, replace=False)
    y, x = np.mgrid[: sizes.height, : sizes.width]
    for name in names[sizes.stuff :]:
        center = rng.random(2) * shape
        radius = rng.uniform(0.05, 0.25) * sizes.height
        inside = np.hypot(y - center[0], x - center[1]) < radius * (1 + 0.25 * smooth(radius))
        ids[inside] = name
    classes = np.concatenate([classes, rng.integers(1, NUM_THINGS + 1, sizes.things)])
    ids[smooth(sizes.height / 8) > 2] = 0
    return ids, _present(ids, dict(zip(names.tolist(), classes.tolist(), strict=True)))


def predicted_map(
    rng: np.random.Generator, ids: Ids, classes: dict[int, int]
) -> tuple[Ids, dict[int, int]]:
    """Return a map that is shifted a little, with some classes wrong and some segments lost."""
    found = np.roll(ids, tuple(rng.integers(-4, 5, 2)), axis=(0, 1))
    guessed = {}
    for name, category in classes.items():
        luck = rng.random()
        if luck < 0.1:
            found = np.where(found == name, 0, found)
        elif luck < 0.25:
            things = category <= NUM_THINGS
            first, last = (1, NUM_THINGS) if things else (NUM_THINGS + 1, len(CATEGORIES))
            guessed[name] = int(rng.integers(first, last + 1))
        else:
            guessed[name] = category
    return found, _present(found, guessed)


def _present(ids: Ids, classes: dict[int, int]) -> dict[int, int]:
    there = set(np.unique(ids).tolist())
    return {name: category for name, category in classes.items() if name in there}


def write_files(folder: Path, sizes: EvaluateSizes) -> Files:
    """Write truth and predictions, the same for the same sizes; return where they are."""
    rng = np.random.default_rng(0)
    pool = []
    for _ in range(min(sizes.pool, sizes.images)):
        true = true_map(rng, sizes)
        pool.append((true, predicted_map(rng, *true)))
    sides: tuple[list[Any], list[Any]] = ([], [])
    results: list[dict[str, Any]] = []
    for number in range(1, sizes.images + 1):
        pair = pool[number % len(pool)]
        for side, name, (ids, classes) in zip(sides, ("truth", "panoptic"), pair, strict=True):
            side.append(_write_image(folder / name, number, ids, classes))
        ids, classes = pair[1]
        results += [
            InstanceMask.from_array(ids == name, float(rng.random())).to_result(number, category)
            for name, category in classes.items()
            if category <= NUM_THINGS
        ]
    images = [
        {"id": i, "file_name": f"{i:06d}.jpg", "height": sizes.height, "width": sizes.width}
        for i in range(1, sizes.images + 1)
    ]
    for name, side in zip(("truth", "panoptic"), sides, strict=True):
        content = {"images": images, "annotations": side, "categories": CATEGORIES}
        write_json(folder / f"{name}.json", content)
    write_json(folder / "instances.json", results)
    return Files(GroundTruth(folder / "truth.json", folder / "truth"), folder)


def _write_image(folder: Path, number: int, ids: Ids, classes: dict[int, int]) -> dict[str, Any]:
    """Write a PNG as common encoders do; return the annotation."""
    name = f"{number:06d}.png"
    with atomic_file(folder / name) as file:
        Image.fromarray(ids_to_rgb(ids)).save(file, format="PNG")
    segments = [
        {
            "id": identity,
            "category_id": category,
            "iscrowd": 0,
            "area": int(np.count_nonzero(ids == identity)),
            "bbox": list(mask_box(ids == identity)),
        }
        for identity, category in classes.items()
    ]
    return {"image_id": number, "file_name": name, "segments_info": segments}
