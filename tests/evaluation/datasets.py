"""A truth of two tiny images and predictions of it, written as the tools expect them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.evaluation import GroundTruth
from u2seg.io.png import write_label_png, write_panoptic_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask, mask_box

CLASSES = {1: "cat", 2: "dog", 3: "grass", 4: "sky"}
THINGS = (1, 2)
TRUTH = {
    # cat 11 and dog 12 on sky 14 and grass 13; one pixel of void
    21: (
        [[14, 14, 14, 14, 14, 14], [11, 11, 14, 14, 12, 12], [11, 11, 13, 13, 12, 12],
         [13, 13, 13, 13, 13, 0]],
        {11: 1, 12: 2, 13: 3, 14: 4},
    ),
    # two cats on grass
    22: (
        [[1, 1, 3, 3, 3, 2], [1, 1, 3, 3, 3, 2], [1, 1, 3, 3, 3, 2], [3, 3, 3, 3, 3, 3]],
        {1: 1, 2: 1, 3: 3},
    ),
}  # fmt: skip
FILES = {21: "a/first.png", 22: "second.png"}
SHAPE = (4, 6)
Maps = dict[int, tuple[np.ndarray, dict[int, int]]]


def truth_maps() -> Maps:
    return {i: (np.array(rows, dtype=np.int32), dict(s)) for i, (rows, s) in TRUTH.items()}


def write_panoptic(path: Path, pngs: Path, maps: Maps, categories: list[dict[str, Any]]) -> None:
    annotations = []
    for image_id, (ids, segments) in maps.items():
        write_panoptic_png(pngs / FILES[image_id], ids)
        infos = [
            {
                "id": s,
                "category_id": c,
                "iscrowd": 0,
                "area": int((ids == s).sum()),
                "bbox": list(mask_box(ids == s)),
            }
            for s, c in segments.items()
        ]
        annotations.append(
            {"image_id": image_id, "file_name": FILES[image_id], "segments_info": infos}
        )
    images = [
        {"id": i, "file_name": FILES[i].replace("png", "jpg"), "height": 4, "width": 6}
        for i in maps
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


def write_truth(root: Path) -> GroundTruth:
    root.mkdir(parents=True, exist_ok=True)
    categories = [{"id": i, "name": n, "isthing": int(i in THINGS)} for i, n in CLASSES.items()]
    write_panoptic(root / "truth.json", root / "truth", truth_maps(), categories)
    return GroundTruth(root / "truth.json", root / "truth")


def relabelled(classes: dict[int, int]) -> Maps:
    """Return the truth with every class replaced by a cluster, ids moved by 100."""
    return {
        image_id: (
            np.where(ids > 0, ids + 100, 0).astype(np.int32),
            {s + 100: classes[c] for s, c in segments.items()},
        )
        for image_id, (ids, segments) in truth_maps().items()
    }


def write_predictions(
    folder: Path, maps: Maps, space: LabelSpace, *, stuff: bool = True, score: float = 0.9
) -> Path:
    """Write a result folder in which instances and stuff maps agree with the panoptic maps."""
    folder.mkdir(parents=True, exist_ok=True)
    write_panoptic(folder / "panoptic.json", folder / "panoptic", maps, space.categories())
    results = []
    for image_id, (ids, segments) in maps.items():
        stuff_map = np.full(ids.shape, 255, dtype=np.uint8)
        for segment, category in segments.items():
            mask = ids == segment
            if space.is_thing(category):
                stuff_map[mask] = 0
                results.append(InstanceMask.from_array(mask, score).to_result(image_id, category))
            else:
                stuff_map[mask] = category - space.num_things
        if stuff:
            write_label_png(folder / "stuff" / FILES[image_id], stuff_map)
    (folder / "instances.json").write_text(json.dumps(results))
    (folder / "labelspace.json").write_text(json.dumps(space.to_json()))
    return folder
