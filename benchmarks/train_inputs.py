"""Labelled photographs to train on: composed scenes, as a label folder with exact labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scenes.compose import compose_scene
from scenes.kinds import SCENE_LABELS

from u2seg.io.atomic import atomic_file, write_json
from u2seg.labels.write import export_image, merge_parts
from u2seg.structures.labels import LabelSpace
from u2seg.structures.panoptic import PanopticLabel

QUALITY = 90
"""Of the JPEG files."""


def write_label_folder(
    root: Path, count: int, side: int, seed: int = 0, space: LabelSpace = SCENE_LABELS
) -> Path:
    """Write scenes as photographs and a finished label folder of their truth.

    Args:
        root: Gets ``photos`` and ``labels``.
        count: Scenes.
        side: Pixels a side.
        seed: Decides every scene.
        space: Numbers of clusters, at least those of the scenes; the further ones stay empty.

    Returns:
        The label folder.
    """
    labels, photos = root / "labels", root / "photos"
    images, parts = [], []
    for number in range(1, count + 1):
        scene = compose_scene(np.random.default_rng([seed, number]), side)
        name = f"{number:06d}.jpg"
        with atomic_file(photos / name) as file:
            Image.fromarray(scene.image).save(file, format="JPEG", quality=QUALITY)
        record = {"id": number, "file_name": name, "height": side, "width": side}
        images.append({**record, "sha256": ""})
        label = _renumbered(scene.label, space)
        parts.append(export_image(labels / "panoptic", record, label, space))
    merge_parts([parts], labels / "panoptic", images, space)
    write_json(labels / "panoptic" / "manifest.json", {})
    info = {"image_root": str(photos.resolve())}
    write_json(labels / "images.json", {"info": info, "images": images})
    return labels


def _renumbered(label: PanopticLabel, space: LabelSpace) -> PanopticLabel:
    """Return the label of a scene in another label space: stuff comes after its things."""
    shift = space.num_things - SCENE_LABELS.num_things
    return PanopticLabel(
        label.ids,
        tuple(
            s if s.isthing else replace(s, category_id=s.category_id + shift)
            for s in label.segments
        ),
    )
