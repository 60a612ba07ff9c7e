"""Training images as the model sees them: after augmentation and copy-paste, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.data.copy_paste_pixels import panoptic_ids
from u2seg.io.images import BadImageError, read_image
from u2seg.structures.labels import LabelSpace
from u2seg.structures.segmentation import panoptic_label
from u2seg.visualization.compose import data_uri, magnify, shrink, side_by_side
from u2seg.visualization.draw import Rgb, borders, draw_panoptic, printable
from u2seg.visualization.samples import RIM, Picture
from u2seg.visualization.sources import Notes

Sample = dict[str, Any]
PICTURES = "pictures"
"""Folder of the pictures in ``OUTPUT_DIR``."""
LONGEST = 480
"""Longer side of an image in a picture, in pixels."""
LETTERS = 15


def draw_training_sample(sample: Sample, space: LabelSpace, image_format: str = "RGB") -> Rgb:
    """Return a training image beside its panoptic labels; pasted objects have a pink outline.

    Returns:
        (H, W, 3) uint8. Uncoloured pixels are void.
    """
    photo = sample["image"].numpy().transpose(1, 2, 0)
    photo = np.ascontiguousarray(photo[:, :, ::-1] if image_format == "BGR" else photo)
    ids = panoptic_ids(sample)
    label = panoptic_label(_small(ids, labels=True), _infos(sample, ids), space)
    small = _small(photo)
    drawn = draw_panoptic(small, label, space, name_size=LETTERS)
    marks = sample["pasted"].numpy() if "pasted" in sample else np.zeros(0, dtype=bool)
    pasted = np.flatnonzero(marks) + 1
    rim = borders(label.ids, 2) & np.isin(label.ids, pasted)
    small = small.copy()
    small[rim] = drawn[rim] = RIM
    name = printable(Path(str(sample.get("file_name", "image"))).name)
    things = len(sample["instances"])
    caption = f"{things} object{'' if things == 1 else 's'}, {len(pasted)} pasted"
    captions = [f"{name}, {photo.shape[1]} x {photo.shape[0]}", caption]
    return side_by_side([small, drawn], captions)


def draw_training_batch(
    samples: Sequence[Sample], space: LabelSpace, image_format: str = "RGB"
) -> list[Rgb]:
    """Return a picture per sample, see ``draw_training_sample``."""
    return [draw_training_sample(sample, space, image_format) for sample in samples]


def training_pictures(folder: Path, count: int, notes: Notes) -> list[Picture]:
    """Return the pictures that a training left in its ``OUTPUT_DIR``, for the report."""
    paths = sorted((folder / PICTURES).glob("train_*.jpg"))[:count]
    found = [notes.attempt(f"training picture {path.name}", None, _picture, path) for path in paths]
    return [picture for picture in found if picture is not None]


def _picture(path: Path) -> Picture:
    try:
        return Picture(f"training image {path.stem.rpartition('_')[2]}", data_uri(read_image(path)))
    except BadImageError as error:
        raise ValueError(str(error)) from error


def _small(pixels: npt.NDArray[Any], *, labels: bool = False) -> npt.NDArray[Any]:
    return magnify(shrink(pixels, LONGEST, labels=labels), LONGEST)


def _infos(sample: Sample, ids: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
    classes = sample["instances"].gt_classes.tolist()
    infos = [{"id": n, "isthing": True, "category_id": c} for n, c in enumerate(classes, 1)]
    stuff = [int(n) for n in np.unique(ids) if n > len(classes)]
    return [
        *infos,
        *({"id": n, "isthing": False, "category_id": n - len(classes)} for n in stuff),
    ]
