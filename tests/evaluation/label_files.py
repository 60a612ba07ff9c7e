"""A labelling run of two photographs, of which the evaluation knows one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.evaluation.datasets import relabelled
from u2seg.io.png import write_panoptic_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import encode_mask, mask_box

SPACE = LabelSpace(num_things=3, num_stuff=2)
CLUSTERS = {1: 3, 2: 1, 3: 5, 4: 4}
"""True class -> cluster that stands for it."""


def write_labels(root: Path, *, height: int = 4) -> Path:
    """Write the first true image as the label of photo 7, and one of an unknown photograph."""
    folder = root / "panoptic"
    ids, segments = relabelled(CLUSTERS)[21]
    names = {7: "a/first", 8: "elsewhere"}
    images, annotations, instances = [], [], []
    for image_id, stem in names.items():
        write_panoptic_png(folder / "panoptic" / f"{stem}.png", ids)
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": 6})
        rows = [(s, c, ids == s) for s, c in segments.items()]
        annotations.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": [
            {"id": s, "category_id": c, "iscrowd": 0, "area": int(m.sum()),
             "bbox": list(mask_box(m)), "isthing": int(SPACE.is_thing(c))} for s, c, m in rows
        ]})  # fmt: skip
        for s, c, m in rows:
            if SPACE.is_thing(c):
                instances.append({
                    "id": len(instances) + 1, "image_id": image_id, "category_id": c,
                    "segmentation": encode_mask(m), "bbox": list(mask_box(m)),
                    "area": int(m.sum()), "iscrowd": 0, "score": 0.5 + 0.1 * (s == 111),
                })  # fmt: skip
    content = {"images": images, "categories": SPACE.categories()}
    (folder / "panoptic.json").write_text(json.dumps({**content, "annotations": annotations}))
    (folder / "instances.json").write_text(json.dumps({**content, "annotations": instances}))
    return root
