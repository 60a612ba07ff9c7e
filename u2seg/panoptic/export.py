"""Write panoptic labels in the formats other tools read.

Everything lies in one folder (``<output>/panoptic``): ``panoptic/<stem>.png`` (RGB ids) and
``stuff/<stem>.png`` per image, then ``panoptic.json``, ``instances.json`` and
``labelspace.json`` for the whole data set. Images can be exported in any order and process;
``merge_parts`` joins their records in the order of the images, so the files do not depend on
how the work was split.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import StageError, UserError
from u2seg.io.atomic import write_json
from u2seg.io.jsonstream import item_bytes, stream_json
from u2seg.io.names import label_stem
from u2seg.io.paths import safe_join
from u2seg.io.png import write_label_png, write_panoptic_png
from u2seg.panoptic.parts import LabelRecord, numbered
from u2seg.structures.labels import ANY_THING, VOID_STUFF, LabelSpace
from u2seg.structures.masks import encode_mask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.version import __version__

PANOPTIC_JSON = "panoptic.json"
INSTANCES_JSON = "instances.json"
LABELSPACE_JSON = "labelspace.json"
PANOPTIC_PNGS = "panoptic"
STUFF_PNGS = "stuff"


def png_name(record: Mapping[str, Any]) -> str:
    """Return the PNG name of a record of ``images.json``, sub-folders kept.

    Examples:
        >>> png_name({"file_name": "day 1/street.jpg"})
        'day 1/street.png'
    """
    return label_stem(record) + ".png"


def stuff_target(label: PanopticLabel, space: LabelSpace) -> npt.NDArray[np.uint8]:
    """Return the Panoptic-FPN target of a label.

    Returns:
        (H, W) uint8: 0 = any thing, 1..S stuff, 255 = void.

    Examples:
        >>> from u2seg.structures.panoptic import Segment
        >>> box = (0.0, 0.0, 1.0, 1.0)
        >>> segments = (Segment(1, 2, True, 1, box), Segment(2, 4, False, 1, box))
        >>> label = PanopticLabel(np.array([[0, 1, 2]], dtype=np.int32), segments)
        >>> stuff_target(label, LabelSpace(num_things=2, num_stuff=3)).tolist()
        [[255, 0, 2]]
    """
    highest = max([0, *(s.id for s in label.segments), int(label.ids.max(initial=0))])
    table = np.full(highest + 1, VOID_STUFF, dtype=np.uint8)
    for segment in label.segments:
        thing = space.is_thing(segment.category_id)
        table[segment.id] = ANY_THING if thing else segment.category_id - space.num_things
    return table[label.ids]


def export_image(
    folder: Path | str, record: Mapping[str, Any], label: PanopticLabel, space: LabelSpace
) -> LabelRecord:
    """Write the two PNGs of an image and return its records.

    Args:
        folder: ``<output>/panoptic``.
        record: The image's entry in ``images.json``: id, file_name, height, width.
        label: Its panoptic label.
        space: The numbering.

    Raises:
        UserError: if the label has another size than the record, the file name leaves the
            folder, or a file cannot be written.
        ValueError: if a segment has no area or an empty box.
    """
    if label.ids.shape != (record["height"], record["width"]):
        raise UserError(
            f"the label of {record['file_name']} is {label.ids.shape}, images.json says "
            f"{(record['height'], record['width'])}: label this folder anew"
        )
    name = png_name(record)
    records = label_record(record, label)
    write_panoptic_png(safe_join(Path(folder) / PANOPTIC_PNGS, name), label.ids)
    write_label_png(safe_join(Path(folder) / STUFF_PNGS, name), stuff_target(label, space))
    return records


def written_files(folder: Path, records: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Return the files that ``export_image`` writes for images."""
    names = [png_name(record) for record in records]
    return [safe_join(folder / top, n) for n in names for top in (PANOPTIC_PNGS, STUFF_PNGS)]


def label_record(record: Mapping[str, Any], label: PanopticLabel) -> LabelRecord:
    """Return the JSON records of an image's label, as ``export_image``; nothing is written."""
    image_id = int(record["id"])
    for segment in label.segments:
        if segment.area < 1 or min(segment.bbox[2:]) < 1:
            raise ValueError(f"segment {segment.id} of {record['file_name']} is empty: {segment}")
    instances = (
        {
            "id": 0,
            "image_id": image_id,
            "category_id": segment.category_id,
            "segmentation": encode_mask(label.ids == segment.id),
            "bbox": list(segment.bbox),
            "area": segment.area,
            "iscrowd": 0,
            "score": round(segment.score, 6),
        }
        for segment in label.segments
        if segment.isthing
    )
    panoptic = {
        "image_id": image_id,
        "file_name": png_name(record),
        "segments_info": [segment.to_json() for segment in label.segments],
    }
    return LabelRecord(
        image_id, len(label.segments), item_bytes(panoptic), tuple(map(item_bytes, instances))
    )


def merge_parts(
    parts: Iterable[Sequence[LabelRecord]],
    folder: Path | str,
    images: Iterable[Mapping[str, Any]],
    space: LabelSpace,
) -> dict[str, int]:
    """Join the records of all images into the data set's JSON files.

    Memory holds one part and eight bytes an image, however many there are.

    Args:
        parts: Lists of what ``export_image`` returned, together in the order of ``images``.
            Read once, one part in memory at a time.
        folder: ``<output>/panoptic``.
        images: Records of all images: id, file_name, height, width. Gone through several times,
            so a list or an object that reads them anew each time, no generator.
        space: The numbering.

    Returns:
        Counts: images, instances, segments. Annotation ids of ``instances.json`` are 1.. in
        the order of the images.

    Raises:
        UserError: if two images share a PNG, or a file cannot be written.
        StageError: if the parts do not hold exactly the images, in order. No file is written.
    """
    folder = Path(folder)
    check_png_names(images)
    info = _info()
    things = [
        {"id": row["id"], "name": row["name"], "supercategory": row["supercategory"]}
        for row in space.categories()
        if row["isthing"]
    ]
    counts = {"images": 0, "instances": 0, "segments": 0}
    with contextlib.ExitStack() as stack:

        def start(name: str, categories: list[dict[str, Any]]) -> Callable[[Any], None]:
            content = {"categories": categories, "images": _image_rows(images), "info": info}
            return stack.enter_context(stream_json(folder / name, content, "annotations"))

        add_label = start(PANOPTIC_JSON, space.categories())
        add_instance = start(INSTANCES_JSON, things)
        for record in _in_order(parts, images):
            add_label(record.panoptic)
            counts["images"] += 1
            counts["segments"] += record.segments
            for instance in record.instances:
                counts["instances"] += 1
                add_instance(numbered(instance, counts["instances"]))
    write_json(folder / LABELSPACE_JSON, space.to_json(), indent=1)
    return counts


def _image_rows(images: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({k: image[k] for k in ("id", "file_name", "height", "width")} for image in images)


def check_png_names(images: Iterable[Mapping[str, Any]]) -> None:
    """Raise ``UserError`` if two images share a PNG.

    Args:
        images: Records of ``images.json``; gone through twice if two names seem to be equal.

    Examples:
        >>> check_png_names([{"file_name": "a.jpg"}, {"file_name": "a.png"}])
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: a.jpg and a.png would share the label file a.png: rename one
    """
    marks = np.fromiter((_mark(image) for image in images), dtype=np.uint64)
    found, times = np.unique(marks, return_counts=True)
    suspects = set(found[times > 1].tolist())
    if not suspects:
        return
    seen: dict[str, str] = {}
    for image in images:
        if _mark(image) not in suspects:
            continue
        name = png_name(image)
        if name in seen:
            raise UserError(
                f"{seen[name]} and {image['file_name']} would share the label file {name}: "
                "rename one"
            )
        seen[name] = image["file_name"]


def _mark(image: Mapping[str, Any]) -> int:
    """Return 64 bits of the PNG name's digest: a name itself takes twenty times the memory."""
    name = png_name(image).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def _in_order(
    parts: Iterable[Sequence[LabelRecord]], images: Iterable[Mapping[str, Any]]
) -> Iterator[LabelRecord]:
    wanted = (image["id"] for image in images)
    position = 0
    for part in parts:
        for record in part:
            expected = next(wanted, None)
            if record.image_id != expected:
                raise StageError(
                    f"the label parts hold image {record.image_id} where images.json has "
                    f"{'no more images' if expected is None else expected}: delete the part "
                    "files and run the panoptic stage again"
                )
            position += 1
            yield record
    missing = sum(1 for _ in wanted)
    if missing:
        raise StageError(
            f"the label parts end after {position} of {position + missing} images: run the "
            "panoptic stage again"
        )


def _info() -> dict[str, str]:
    return {"description": "pseudo-labels of an unlabelled data set", "version": __version__}
