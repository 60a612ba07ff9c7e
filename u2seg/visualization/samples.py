"""The pictures of a report: sample images with their labels, crops of clusters, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.errors import UserError
from u2seg.io.imagefile import image_file
from u2seg.io.images import BadImageError, read_image
from u2seg.io.paths import safe_join
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.io.progress import Bar
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import decode_mask
from u2seg.structures.panoptic import PanopticLabel, Segment
from u2seg.visualization.compose import magnify, shrink
from u2seg.visualization.draw import draw_masks, draw_panoptic, draw_stuff
from u2seg.visualization.gallery import exemplars, masked_crop
from u2seg.visualization.sources import (
    ImageRecord,
    LabelRun,
    Notes,
    PanopticFolder,
    PanopticRecord,
)
from u2seg.visualization.text import printable

Rgb = npt.NDArray[np.uint8]
THUMBNAIL = 400
CROP = 88
RIM = (235, 20, 130)
"""A colour that photographs seldom have."""
LETTERS = 18
"""Height of names in thumbnails: the page shows these at about half their size."""
JPEG_QUALITY = 80


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
    """One cluster of the gallery; ``color`` is a CSS colour."""

    name: str
    color: str
    count: int
    crops: list[Picture] = field(default_factory=list)


def data_uri(image: Rgb) -> str:
    """Return a picture as a JPEG ``data:`` URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def css_color(row: Sequence[int] | npt.NDArray[np.uint8]) -> str:
    """Return an RGB triple as CSS.

    Examples:
        >>> css_color((255, 0, 16))
        '#ff0010'
    """
    return "#" + "".join(f"{int(channel):02x}" for channel in row)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most ``count`` items at equal steps, the first one included.

    Examples:
        >>> spread(range(10), 3), spread([1], 3)
        ([0, 3, 6], [1])
    """
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def label_samples(
    run: LabelRun, predictions: PanopticFolder | None, count: int, notes: Notes
) -> list[Sample]:
    """Return up to ``count`` images of a run: photo, masks, stuff, label, prediction."""
    samples = []
    for record in spread(run.images, count):
        name = printable(record.file_name)
        photo = notes.attempt(f"image {name}", None, thumbnail, run.image_root, record)
        if photo is None:
            continue
        pictures = [
            Picture("photograph", data_uri(photo)),
            notes.attempt(f"masks of {name}", None, _masks, run, record, photo),
            notes.attempt(f"stuff map of {name}", None, _stuff, run, record, photo),
            notes.attempt(f"label of {name}", None, _label, run, record, photo),
        ]
        if predictions is not None and record.file_name in predictions.by_file:
            what = "prediction"
            args = (predictions, record.file_name, photo, what)
            pictures.append(notes.attempt(f"{what} of {name}", None, panoptic_picture, *args))
        size = f"{record.width} × {record.height}"
        samples.append(Sample(name, size, [p for p in pictures if p is not None]))
    return samples


def prediction_samples(
    folder: PanopticFolder, image_root: Path | None, known: set[str], count: int, notes: Notes
) -> list[Sample]:
    """Return up to ``count`` predictions of images that are not in ``known``.

    The photograph is looked for under ``image_root``; without it the segments are drawn on
    grey.
    """
    names = [name for name in folder.by_file if name not in known]
    samples = []
    for name in spread(names, count):
        what = f"prediction of {printable(name)}"
        sample = notes.attempt(what, None, _prediction, folder, image_root, name)
        if sample is not None:
            samples.append(sample)
    return samples


def _prediction(folder: PanopticFolder, image_root: Path | None, name: str) -> Sample | None:
    ids = read_panoptic_png(safe_join(folder.root / "panoptic", folder.by_file[name].png))
    height, width = ids.shape
    pictures = []
    photo = blank(height, width)
    if image_root is not None and safe_join(image_root, name).is_file():
        photo = thumbnail(image_root, ImageRecord(0, name, height, width))
        pictures.append(Picture("photograph", data_uri(photo)))
    drawn = panoptic_picture(folder, name, photo, "prediction")
    if drawn is None:
        return None
    pictures.append(drawn)
    return Sample(printable(name), f"{width} × {height}", pictures)


def blank(height: int, width: int) -> Rgb:
    """Return grey instead of a photograph of that size, at the size of the page."""
    grey = np.full((height, width, 3), 200, dtype=np.uint8)
    return magnify(shrink(grey, THUMBNAIL), THUMBNAIL)


def cluster_gallery(
    run: LabelRun, clusters: int, per_cluster: int, notes: Notes
) -> list[ClusterRow]:
    """Return the ``clusters`` largest clusters with up to ``per_cluster`` crops each."""
    space = run.panoptic.space if run.panoptic else None
    if space is None or not run.instances:
        return []
    ids = [int(row["category_id"]) - 1 for row in run.instances]
    chosen = dict(list(exemplars(ids, per_cluster=per_cluster).items())[:clusters])
    wanted: dict[int, list[int]] = {}
    for indices in chosen.values():
        for index in indices:
            wanted.setdefault(int(run.instances[index]["image_id"]), []).append(index)
    crops: dict[int, Picture] = {}
    nothing: dict[int, Picture] = {}
    shown = [image for image in run.images if image.id in wanted]
    for image in Bar(shown, desc="report: clusters", unit="img"):
        what = f"crops of {printable(image.file_name)}"
        crops.update(notes.attempt(what, nothing, _crops, run, image, wanted[image.id]))
    colors = space.colors()
    counts = {cluster: ids.count(cluster) for cluster in chosen}
    return [
        ClusterRow(
            space.name(space.thing_category(cluster)),
            css_color(colors[cluster]),
            counts[cluster],
            [crops[i] for i in indices if i in crops],
        )
        for cluster, indices in chosen.items()
    ]


def _crops(run: LabelRun, image: ImageRecord, indices: list[int]) -> dict[int, Picture]:
    photo = _full_photo(run.image_root, image)
    found = {}
    for index in indices:
        mask = decode_mask(run.instances[index]["segmentation"])
        crop = masked_crop(photo, mask, side=CROP, rim=RIM)
        found[index] = Picture(printable(image.file_name), data_uri(crop))
    return found


def _full_photo(root: Path | None, record: ImageRecord) -> Rgb:
    if root is None:
        raise UserError("images.json names no image_root")
    try:
        photo = read_image(image_file(root, {"file_name": record.file_name, **record.shard}))
    except BadImageError as error:
        raise UserError(str(error)) from error
    if photo.shape[:2] != (record.height, record.width):
        raise UserError(
            f"is {photo.shape[1]} x {photo.shape[0]} now, was {record.width} x {record.height} "
            "when it was labelled"
        )
    return photo


def thumbnail(root: Path | None, record: ImageRecord) -> Rgb:
    """Return a photograph at the size of the page.

    Raises:
        UserError: if it is missing, unreadable or of another size than the record says.
    """
    return magnify(shrink(_full_photo(root, record), THUMBNAIL), THUMBNAIL)


def _masks(run: LabelRun, record: ImageRecord, photo: Rgb) -> Picture | None:
    if run.masks is None:
        return None
    records = run.masks.get(record.id, [])
    masks = [fit_labels(decode_mask(r["segmentation"]), photo).astype(bool) for r in records]
    count = f"{len(masks)} mask" + ("" if len(masks) == 1 else "s")
    return Picture(
        count if masks else "no mask", data_uri(draw_masks(_pale(photo), masks, alpha=0.7))
    )


def _stuff(run: LabelRun, record: ImageRecord, photo: Rgb) -> Picture | None:
    path = safe_join(run.root / "semantics", f"{record.stem}.png")
    if not path.exists():
        return None
    values = fit_labels(read_label_png(path), photo)
    space = run.panoptic.space if run.panoptic else None
    if space is None:  # the panoptic stage has not run: as many classes as the map shows
        used = values[values != VOID_STUFF]
        space = LabelSpace(1, int(used.max(initial=0)) + 1)
    return Picture("stuff map", data_uri(draw_stuff(photo, values, space)))


def _label(run: LabelRun, record: ImageRecord, photo: Rgb) -> Picture | None:
    if run.panoptic is None or record.file_name not in run.panoptic.by_file:
        return None
    return panoptic_picture(run.panoptic, record.file_name, photo, "panoptic label")


def panoptic_picture(folder: PanopticFolder, name: str, photo: Rgb, caption: str) -> Picture | None:
    """Return the panoptic label of a photograph drawn on it; None without a label space.

    Raises:
        UserError: if the PNG is missing or unreadable.
        KeyError: if the folder has no label of that name.
    """
    if folder.space is None:
        return None
    record = folder.by_file[name]
    ids = fit_labels(read_panoptic_png(safe_join(folder.root / "panoptic", record.png)), photo)
    label = PanopticLabel(ids, _segments(record, folder.space))
    drawn = draw_panoptic(photo, label, folder.space, name_size=LETTERS)
    return Picture(caption, data_uri(drawn))


def _segments(record: PanopticRecord, space: LabelSpace) -> tuple[Segment, ...]:
    return tuple(
        Segment(
            id=int(row["id"]),
            category_id=int(row["category_id"]),
            isthing=space.is_thing(int(row["category_id"])),
            area=int(row.get("area", 0)),
            bbox=(0.0, 0.0, 0.0, 0.0),
        )
        for row in record.segments
    )


def _pale(photo: Rgb) -> Rgb:
    """Return the photograph nearly grey and light, so that masks stand out."""
    wide = photo.astype(np.uint16)
    grey = wide.sum(axis=2, keepdims=True) // 3
    pale: Rgb = ((wide + 3 * grey + 2 * 255) // 6).astype(np.uint8)
    return pale


def fit_labels(labels: npt.NDArray[Any], photo: Rgb) -> npt.NDArray[Any]:
    """Return a label map at the size of the thumbnail, nearest pixel."""
    height, width = photo.shape[:2]
    rows = np.minimum((np.arange(height) + 0.5) * labels.shape[0] / height, labels.shape[0] - 1)
    cols = np.minimum((np.arange(width) + 0.5) * labels.shape[1] / width, labels.shape[1] - 1)
    fitted: npt.NDArray[Any] = labels[rows.astype(int)[:, None], cols.astype(int)]
    return fitted
