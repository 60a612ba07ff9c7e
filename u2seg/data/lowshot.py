"""Shares of a labelled data set, as label folders that training takes unchanged.

U2Seg and CutLER fine-tune on 1, 2, 5, ... % of COCO's labels. Their splits were drawn by code
that kept no ids; here the chosen ids are a file, and they follow from seed and image id alone:
a share holds every smaller one of the same seed, and images that are added later change no order.

Shapes: H x W pixels, K thing and S stuff classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file, write_bytes, write_json
from u2seg.io.coco import read_instances, read_panoptic
from u2seg.io.imagefile import image_file
from u2seg.io.names import distinct_stems
from u2seg.io.paths import safe_join
from u2seg.io.png import read_panoptic_png, write_label_png
from u2seg.io.progress import Bar
from u2seg.structures.labels import ANY_THING, VOID_ID, VOID_STUFF, LabelSpace
from u2seg.version import __version__

logger = logging.getLogger(__name__)
Record = dict[str, Any]
_JSONS = ("instances.json", "labelspace.json", "panoptic.json")


@dataclass(frozen=True)
class LabelledSet:
    """A data set with COCO panoptic and COCO instance annotations of the same images.

    Args:
        images: Folder of the photographs.
        panoptic_json: COCO panoptic annotations.
        panoptic_pngs: Folder of their RGB id maps.
        instances_json: COCO instances, crowds included.
    """

    images: Path
    panoptic_json: Path
    panoptic_pngs: Path
    instances_json: Path


@dataclass(frozen=True)
class Labels:
    """The annotations of a ``LabelledSet``, read once for all shares.

    Args:
        source: Where they are from.
        images: Image id -> record of the panoptic file, of annotated images alone.
        panoptic: Image id -> annotation of the panoptic file.
        instances: Image id -> annotations of the instances file, in its order.
        categories: The file's category ids in the order of the model's: K things, S stuff.
        space: Names of the classes.
        hashes: File name -> sha256 of both JSON files.
    """

    source: LabelledSet
    images: dict[int, Record]
    panoptic: dict[int, Record]
    instances: dict[int, list[Record]]
    categories: tuple[int, ...]
    space: LabelSpace
    hashes: dict[str, str]


def choose_images(image_ids: Iterable[int], percent: float, seed: int) -> list[int]:
    """Return the image ids of a share, sorted.

    Images are ordered by the SHA-256 of "seed:id"; a share is the start of that order.

    Args:
        image_ids: Of the whole data set, each once.
        percent: 0 < percent <= 100; the count is rounded to the nearest integer, at least 1.
        seed: Any integer.

    Raises:
        UserError: if ``percent`` is out of range or there is no image.

    Examples:
        >>> choose_images(range(10), 20, 42), choose_images(range(10), 40, 42)
        ([0, 1], [0, 1, 4, 6])
    """
    if not 0 < percent <= 100:
        raise UserError(f"--percent is {percent:g}, expected 0 < percent <= 100")
    order = sorted(image_ids, key=lambda i: (hashlib.sha256(f"{seed}:{i}".encode()).digest(), i))
    if not order:
        raise UserError("there is no annotated image to choose from")
    return sorted(order[: max(1, round(len(order) * percent / 100))])


def read_labels(source: LabelledSet) -> Labels:
    """Return the annotations of a data set, checked.

    Raises:
        UserError: if a file is missing or garbled, the two JSON files disagree about an image's
            size or about the thing classes, or the things or stuff classes are too many or none.
    """
    panoptic = read_panoptic(source.panoptic_json)
    things = [c for c in panoptic["categories"] if c["isthing"]]
    stuff = [c for c in panoptic["categories"] if not c["isthing"]]
    instances = read_instances(source.instances_json, {int(c["id"]) for c in things})
    annotated = {int(a["image_id"]): a for a in panoptic["annotations"]}
    images = {int(i["id"]): i for i in panoptic["images"] if int(i["id"]) in annotated}
    _check_same_images(source, images, instances["images"])
    found: dict[int, list[Record]] = {}
    for record in instances["annotations"]:
        found.setdefault(int(record["image_id"]), []).append(record)
    return Labels(
        source=source,
        images=images,
        panoptic=annotated,
        instances=found,
        categories=tuple(int(c["id"]) for c in (*things, *stuff)),
        space=LabelSpace(
            len(things),
            len(stuff),
            tuple(str(c["name"]) for c in things),
            tuple(str(c["name"]) for c in stuff),
        ),
        hashes={p.name: sha256_file(p) for p in (source.panoptic_json, source.instances_json)},
    )


def _check_same_images(
    source: LabelledSet, images: dict[int, Record], others: Sequence[Record]
) -> None:
    for other in others:
        image = images.get(int(other["id"]))
        sizes = [(int(r["height"]), int(r["width"])) for r in (image or other, other)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"image {other['id']} is {sizes[0][0]}x{sizes[0][1]} (height x width) in "
                f"{source.panoptic_json} and {sizes[1][0]}x{sizes[1][1]} in "
                f"{source.instances_json}: they are not of the same data set"
            )


def write_share(labels: Labels, image_ids: Sequence[int], folder: Path | str) -> Path:
    """Write a label folder with the real labels of some images.

    Args:
        labels: From ``read_labels``.
        image_ids: Of images to take.
        folder: Label folder, in the format of ``docs/reference/formats.md``: ``images.json`` and
            ``panoptic/`` with ``labelspace.json``, ``instances.json`` (the instances file's
            annotations, category ids 1..K), ``panoptic.json``, the PNGs and, last,
            ``manifest.json``.

    Returns:
        The folder.

    Raises:
        UserError: if a photograph or PNG is missing, a PNG has another size than its image or
            holds an id that its annotation does not name, or a file cannot be written.
    """
    folder = Path(folder)
    target = folder / "panoptic"
    (target / "manifest.json").unlink(missing_ok=True)
    rows = [_image_row(labels, image_id) for image_id in image_ids]
    number = {old: new for new, old in enumerate(labels.categories, start=1)}
    panoptic = []
    stems = distinct_stems(row["file_name"] for row in rows)
    pairs = list(zip(image_ids, stems, strict=True))
    for image_id, stem in Bar(pairs, desc=folder.name, unit="image"):
        _write_maps(labels, image_id, target, number, f"{stem}.png")
        panoptic.append(_panoptic_record(labels, image_id, number, f"{stem}.png"))
    things = [
        {**record, "category_id": number[record["category_id"]]}
        for image_id in image_ids
        for record in labels.instances.get(image_id, ())
    ]
    plain = [{k: row[k] for k in ("id", "file_name", "height", "width")} for row in rows]
    categories = labels.space.categories()
    info = {"description": "a share of real labels", "version": __version__}
    shared = {"info": info, "images": plain}
    write_json(target / "labelspace.json", labels.space.to_json(), indent=1)
    write_json(
        target / "instances.json",
        {**shared, "categories": [c for c in categories if c["isthing"]], "annotations": things},
    )
    write_json(
        target / "panoptic.json", {**shared, "categories": categories, "annotations": panoptic}
    )
    root = str(labels.source.images.resolve())
    write_json(folder / "images.json", {"info": {"image_root": root}, "images": rows})
    files = {name: sha256_file(target / name) for name in _JSONS}
    counts = {"images": len(rows), "instances": len(things)}
    made = {"tool": "make_lowshot", "version": __version__, "inputs": labels.hashes}
    write_json(target / "manifest.json", {**made, "counts": counts, "files": files}, indent=1)
    return folder


def _image_row(labels: Labels, image_id: int) -> Record:
    image = labels.images[image_id]
    place = image_file(labels.source.images, image)
    if not place.path.is_file():
        raise UserError(
            f"{labels.source.panoptic_json} names {place}, which does not exist: see --images"
        )
    return {k: image[k] for k in ("id", "file_name", "height", "width")}


def _panoptic_record(labels: Labels, image_id: int, number: dict[int, int], png: str) -> Record:
    segments = [
        {**segment, "category_id": number[segment["category_id"]]}
        for segment in labels.panoptic[image_id]["segments_info"]
    ]
    return {"image_id": image_id, "file_name": png, "segments_info": segments}


def _write_maps(
    labels: Labels, image_id: int, target: Path, number: dict[int, int], png: str
) -> None:
    """Copy the id map of an image and write its stuff target."""
    record, image = labels.panoptic[image_id], labels.images[image_id]
    source = safe_join(labels.source.panoptic_pngs, record["file_name"])
    ids = read_panoptic_png(source)
    if ids.shape != (image["height"], image["width"]):
        raise UserError(
            f"{source} is {ids.shape[0]}x{ids.shape[1]} pixels (height x width), "
            f"{labels.source.panoptic_json} says {image['height']}x{image['width']}"
        )
    values = {
        int(s["id"]): max(ANY_THING, number[s["category_id"]] - labels.space.num_things)
        for s in record["segments_info"]
    }
    stuff = stuff_map(ids, values, str(source))
    write_label_png(safe_join(target / "stuff", png), stuff)
    write_bytes(safe_join(target / "panoptic", png), source.read_bytes())


def stuff_map(
    ids: npt.NDArray[np.int32], values: dict[int, int], name: str
) -> npt.NDArray[np.uint8]:
    """Return the target of the semantic head.

    Args:
        ids: (H, W) segment ids, 0 = void.
        values: Segment id -> 0 (any thing, crowds included) or 1..S.
        name: Of the id map, for messages.

    Returns:
        (H, W) uint8: 0 any thing, 1..S stuff, 255 void.

    Raises:
        UserError: if the map holds an id without a value.

    Examples:
        >>> stuff_map(np.array([[0, 7, 900]], dtype=np.int32), {900: 2, 7: 0}, "x").tolist()
        [[255, 0, 2]]
    """
    known = np.array(sorted({VOID_ID, *values}), dtype=np.int64)
    table = np.array([{**values, VOID_ID: VOID_STUFF}[i] for i in known], dtype=np.uint8)
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    strange = known[place] != ids
    if strange.any():
        unknown = int(ids[strange][0])
        raise UserError(f"{name} holds the segment id {unknown}, which its annotation lacks")
    result: npt.NDArray[np.uint8] = table[place]
    return result
