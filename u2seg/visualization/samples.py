"""The pictures of a report: sample images with their labels, crops of clusters, as data URIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.images import BadImageError, read_image
from u2seg.io.paths import image_file, safe_join
from u2seg.io.png import read_label_png
from u2seg.io.progress import Bar
from u2seg.labels import LabelImage
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import decode_mask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.visualization.compose import data_uri, magnify, masked_crop, shrink
from u2seg.visualization.draw import Rgb, draw_masks, draw_panoptic, draw_stuff
from u2seg.visualization.sources import LabelRun, Labels, Notes

THUMBNAIL = 560
"""Longer side of a picture in pixels: the page shows it smaller, and whole on a click."""
CROP = 88
RIM = (235, 20, 130)
"""A colour that photographs seldom have."""
LETTERS = 24
"""Height of names in a picture of that size: the page shows it at less than half."""
MAX_LEVELS = 4
"""Levels of a hierarchy of masks that have a picture each."""


@dataclass(frozen=True)
class Picture:
    """One picture of the page: caption and ``data:`` URI."""

    caption: str
    uri: str


@dataclass(frozen=True)
class Sample:
    """One photograph with everything known about it."""

    name: str
    size: str
    pictures: list[Picture]


@dataclass(frozen=True)
class ClusterRow:
    """One cluster of the gallery; ``color`` is a CSS colour, ``size`` how much of it there is."""

    name: str
    color: str
    size: str
    crops: list[Picture] = field(default_factory=list)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most ``count`` items at equal steps, the first one included.

    Examples:
        >>> spread(range(10), 3), spread([1], 3)
        ([0, 3, 6], [1])
    """
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def label_samples(
    run: LabelRun,
    folders: Mapping[str, Labels],
    count: int,
    notes: Notes,
    stages: bool = True,
) -> list[Sample]:
    """Return pictures of up to ``count`` images of a run."""
    samples = []
    for record in spread(run.images, count):
        name = record.file_name
        photo = notes.attempt(f"image {name}", None, thumbnail, run.image_root, record)
        if photo is None:
            continue
        pictures = [Picture("photograph", data_uri(photo))]
        none: list[Picture] = []
        for what, draw in (("masks", _masks), ("stuff map", _stuff)) if stages else ():
            pictures += notes.attempt(f"{what} of {name}", none, draw, run, record, photo)
        for caption, folder in folders.items():
            args = (folder, record.file_name, photo, caption)
            pictures += notes.attempt(f"{caption} of {name}", none, label_picture, *args)
        samples.append(Sample(name, f"{record.size[1]} × {record.size[0]}", pictures))
    return samples


def prediction_samples(
    labels: Labels, image_root: Path | None, known: set[str], count: int, notes: Notes
) -> list[Sample]:
    """Return up to ``count`` predictions of images that are not in ``known``.

    The photograph is looked for under ``image_root``; without it segments are drawn on grey.
    """
    samples = []
    for name in spread([name for name in labels.by_file if name not in known], count):
        sample = notes.attempt(f"prediction of {name}", None, _prediction, labels, image_root, name)
        samples += [sample] if sample else []
    return samples


def _prediction(labels: Labels, image_root: Path | None, name: str) -> Sample:
    image = labels.by_file[name]
    photo, pictures = photograph(image_root, image)
    pictures += label_picture(labels, name, photo, "prediction")
    return Sample(name, f"{image.size[1]} × {image.size[0]}", pictures)


def photograph(root: Path | None, image: LabelImage) -> tuple[Rgb, list[Picture]]:
    """Return a photograph at the size of the page and its picture; grey and none if unknown."""
    if root is None or not safe_join(root, image.file_name).is_file():
        grey = np.full((*image.size, 3), 200, dtype=np.uint8)
        return magnify(shrink(grey, THUMBNAIL), THUMBNAIL), []
    photo = thumbnail(root, image)
    return photo, [Picture("photograph", data_uri(photo))]


def cluster_gallery(
    run: LabelRun, sizes: Mapping[int, str], per_cluster: int, notes: Notes
) -> list[ClusterRow]:
    """Return clusters of things or stuff with up to ``per_cluster`` crops of photographs each."""
    if run.labels is None:
        return []
    space, members = run.labels.space, {category: list[Any]() for category in sizes}
    for row in run.instances:
        members.get(row["category_id"], []).append((row["image_id"], row))
    for image in run.labels.by_file.values():
        for row in image.segments or ():
            if not space.is_thing(row["category_id"]):
                members.get(row["category_id"], []).append((image.id, row))
    wanted: dict[int, list[Any]] = {}
    for rows in members.values():
        for image_id, row in spread(rows, per_cluster):
            wanted.setdefault(image_id, []).append(row)
    crops: dict[int, list[Picture]] = {category: [] for category in sizes}
    images = [image for image in run.labels.by_file.values() if image.id in wanted]
    for image in Bar(images, desc="report: clusters", unit="img"):
        what = f"crops of {image.file_name}"
        notes.attempt(what, None, _add_crops, run, image, wanted[image.id], crops)
    colors = ["#" + bytes(row.tolist()).hex() for row in space.colors()]
    return [
        ClusterRow(space.name(category), colors[category - 1], size, crops[category])
        for category, size in sizes.items()
    ]


def _add_crops(
    run: LabelRun, image: LabelImage, rows: Sequence[Any], crops: dict[int, list[Picture]]
) -> None:
    photo, label = _full_photo(run.image_root, image), None
    for row in rows:
        if "segmentation" in row:
            mask = decode_mask(row["segmentation"])
        else:
            label = label or (
                run.labels and run.labels.folder and run.labels.folder.panoptic(image)
            )
            mask = label.ids == row["id"] if label else np.zeros(image.size, dtype=bool)
        crop = data_uri(masked_crop(photo, mask, side=CROP, rim=RIM))
        crops[row["category_id"]].append(Picture(image.file_name, crop))


def thumbnail(root: Path | None, image: LabelImage) -> Rgb:
    """Return a photograph at the size of the page."""
    return magnify(shrink(_full_photo(root, image), THUMBNAIL), THUMBNAIL)


def _full_photo(root: Path | None, image: LabelImage) -> Rgb:
    if root is None:
        raise UserError("images.json names no image_root")
    try:
        photo = read_image(image_file(root, image.record))
    except BadImageError as error:
        raise UserError(str(error)) from error
    if photo.shape[:2] != image.size:
        now, was = (f"{width} x {height}" for height, width in (photo.shape[:2], image.size))
        raise UserError(f"is {now} now, was {was} when it was labelled")
    return photo


def _masks(run: LabelRun, record: LabelImage, photo: Rgb) -> list[Picture]:
    """Return a picture of the masks; of a hierarchy one for each level, wholes first."""
    if run.masks is None:
        return []
    levels: dict[int, list[npt.NDArray[np.bool_]]] = {}
    for row in run.masks.get(record.id, []):
        mask = fit_labels(decode_mask(row["segmentation"]), photo).astype(bool)
        levels.setdefault(int(row.get("level") or 0), []).append(mask)
    pictures = []
    for level in sorted(levels)[:MAX_LEVELS] or [0]:
        masks = levels.get(level, [])
        caption = f"{len(masks) or 'no'} mask{'' if len(masks) < 2 else 's'}"
        where = f", level {level}" if len(levels) > 1 else ""
        drawn = draw_masks(_pale(photo), masks, alpha=0.7)
        pictures.append(Picture(caption + where, data_uri(drawn)))
    return pictures


def _pale(photo: Rgb) -> Rgb:
    """Return the photograph nearly grey and light, so that masks stand out."""
    wide = photo.astype(np.uint16)
    grey = wide.sum(axis=2, keepdims=True) // 3
    pale: Rgb = ((wide + 3 * grey + 2 * 255) // 6).astype(np.uint8)
    return pale


def _stuff(run: LabelRun, record: LabelImage, photo: Rgb) -> list[Picture]:
    path = safe_join(run.root / "semantics", record.png)
    if not path.exists():
        return []
    values = fit_labels(read_label_png(path), photo)
    space = run.space
    if space is None:  # the panoptic stage has not run: as many classes as the map shows
        used = values[values != VOID_STUFF]
        space = LabelSpace(1, int(used.max(initial=0)) + 1)
    return [Picture("stuff map", data_uri(draw_stuff(photo, values, space)))]


def label_picture(labels: Labels, name: str, photo: Rgb, caption: str) -> list[Picture]:
    """Return the label of a photograph drawn on it; nothing if the folder has none of it.

    Of semantic labels alone the stuff map is drawn, of things alone the masks.
    """
    image, folder = labels.by_file.get(name), labels.folder
    if image is None or folder is None:
        return []
    label, stuff = folder.panoptic(image), folder.stuff(image)
    if label is not None:
        scored = folder.is_results  # those of labels would cover what they name
        segments = (s if scored else replace(s, score=1.0) for s in label.segments)
        small = PanopticLabel(fit_labels(label.ids, photo), tuple(segments))
        size = round(LETTERS * max(photo.shape) / THUMBNAIL)
        drawn = draw_panoptic(photo, small, labels.space, name_size=size)
    elif stuff is not None:
        drawn = draw_stuff(photo, fit_labels(stuff, photo), labels.space, target=True)
    else:
        masks = [decode_mask(mask.rle) for mask in folder.masks(image)]
        drawn = draw_masks(photo, [fit_labels(mask, photo) for mask in masks])
    return [Picture(caption, data_uri(drawn))]


def fit_labels(labels: npt.NDArray[Any], photo: Rgb) -> npt.NDArray[Any]:
    """Return a label map at the size of the thumbnail, nearest pixel."""
    height, width = photo.shape[:2]
    rows = np.minimum((np.arange(height) + 0.5) * labels.shape[0] / height, labels.shape[0] - 1)
    cols = np.minimum((np.arange(width) + 0.5) * labels.shape[1] / width, labels.shape[1] - 1)
    fitted: npt.NDArray[Any] = labels[rows.astype(int)[:, None], cols.astype(int)]
    return fitted
