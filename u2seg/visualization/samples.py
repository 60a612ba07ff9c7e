"""The pictures of a report: sample images with their labels, crops of clusters, as data URIs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    """Return pictures of up to ``count`` images of a run.

    Args:
        run: Gives the photographs and, with ``stages``, masks and stuff maps.
        folders: Caption -> labels or predictions to draw; images they lack are passed over.
        count: Images, taken at equal steps.
        notes: Gets what cannot be drawn.
        stages: Show masks and stuff maps too.
    """
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
    run: LabelRun, clusters: int, per_cluster: int, notes: Notes
) -> list[ClusterRow]:
    """Return the ``clusters`` largest thing clusters with up to ``per_cluster`` masks each."""
    if run.space is None:
        return []
    members: dict[int, list[Any]] = {}
    for row in run.instances:
        found = (row["image_id"], lambda _, row=row: decode_mask(row["segmentation"]))
        members.setdefault(row["category_id"], []).append(found)
    largest = sorted(members, key=lambda c: (-len(members[c]), c))[:clusters]
    chosen = {category: spread(members[category], per_cluster) for category in largest}
    sizes = {c: f"{len(members[c])} mask{'s' * (len(members[c]) > 1)}" for c in largest}
    return _gallery(run, run.space, chosen, sizes, notes)


def stuff_gallery(
    run: LabelRun, sizes: Mapping[int, str], per_cluster: int, notes: Notes
) -> list[ClusterRow]:
    """Return stuff clusters with up to ``per_cluster`` regions each.

    Args:
        run: With panoptic labels.
        sizes: Category id of each cluster to show -> its share, in words.
        per_cluster: Photographs, at equal steps through those that hold it.
        notes: Gets what cannot be drawn.
    """
    if run.labels is None or run.space is None:
        return []
    members: dict[int, list[Any]] = {category: [] for category in sizes}
    for image in run.images:
        record = run.labels.by_file.get(image.file_name)
        for row in (record.segments or ()) if record else ():
            if int(row["category_id"]) in members:
                found = (image.id, lambda ids, number=int(row["id"]): ids() == number)
                members[int(row["category_id"])].append(found)
    chosen = {category: spread(rows, per_cluster) for category, rows in members.items()}
    return _gallery(run, run.space, chosen, sizes, notes)


def _gallery(
    run: LabelRun,
    space: LabelSpace,
    chosen: Mapping[int, Sequence[Any]],
    sizes: Mapping[int, str],
    notes: Notes,
) -> list[ClusterRow]:
    """Return rows of crops; ``chosen``: category -> (image id, what makes the mask) of each."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for category, rows in chosen.items():
        for number, (image_id, _) in enumerate(rows):
            wanted.setdefault(image_id, []).append((category, number))
    crops: dict[tuple[int, int], Picture] = {}
    nothing: dict[tuple[int, int], Picture] = {}
    shown = [image for image in run.images if image.id in wanted]
    for image in Bar(shown, desc="report: clusters", unit="img"):
        makers = {place: chosen[place[0]][place[1]][1] for place in wanted[image.id]}
        what = f"crops of {image.file_name}"
        crops |= notes.attempt(what, nothing, _crops, run, image, makers)
    return [
        ClusterRow(
            space.name(category),
            css_color(space.colors()[category - 1]),
            sizes[category],
            [crops[category, i] for i in range(len(rows)) if (category, i) in crops],
        )
        for category, rows in chosen.items()
    ]


def _crops(
    run: LabelRun, image: LabelImage, makers: Mapping[tuple[int, int], Any]
) -> dict[tuple[int, int], Picture]:
    photo = _full_photo(run.image_root, image)
    maps: list[npt.NDArray[np.int32]] = []

    def ids() -> npt.NDArray[np.int32]:
        if run.labels and run.labels.folder and not maps:
            label = run.labels.folder.panoptic(run.labels.by_file[image.file_name])
            maps.append(label.ids if label else np.zeros(image.size, np.int32))
        return maps[0]

    return {
        place: Picture(
            image.file_name,
            data_uri(masked_crop(photo, make(ids), side=CROP, rim=RIM)),
        )
        for place, make in makers.items()
    }


def css_color(row: Iterable[int] | npt.NDArray[np.uint8]) -> str:
    """Return an RGB triple as CSS.

    Examples:
        >>> css_color((255, 0, 16))
        '#ff0010'
    """
    return "#" + "".join(f"{int(channel):02x}" for channel in row)


def thumbnail(root: Path | None, image: LabelImage) -> Rgb:
    """Return a photograph at the size of the page.

    Raises:
        UserError: if it is missing, unreadable or of another size than the record says.
    """
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

    Raises:
        UserError: if the PNG is missing or unreadable.
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
