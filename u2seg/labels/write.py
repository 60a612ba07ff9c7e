"""Write labels in the formats other tools read.

Everything lies in one folder (``<output>/panoptic``): ``panoptic/<stem>.png`` (RGB ids) and
``stuff/<stem>.png`` per image, then ``panoptic.json``, ``instances.json`` and
``labelspace.json`` for the whole data set. Images can be exported in any order and process;
``merge_parts`` joins their records in the order of the images, so the files do not depend on
how the work was split.

A part file is a JSON array of encoded records, one a line: for each image ``[image id, number of
segments, number of instances]``, its annotation for ``panoptic.json``, and its annotations for
``instances.json`` with the id 0. Joining millions of them is copying lines and writing ids, ten
times as fast as decoding them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import StageError, UserError
from u2seg.io.atomic import atomic_file, json_bytes, write_bytes, write_json
from u2seg.io.paths import label_stem, safe_join
from u2seg.io.png import write_label_png, write_panoptic_png
from u2seg.structures.labels import ANY_THING, VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask, encode_mask
from u2seg.structures.panoptic import PanopticLabel, Segment
from u2seg.version import __version__

PANOPTIC_JSON = "panoptic.json"
INSTANCES_JSON = "instances.json"
LABELSPACE_JSON = "labelspace.json"
PANOPTIC_PNGS = "panoptic"
STUFF_PNGS = "stuff"
NO_ID = b'"id":0,'
"""What stands in an encoded instance where its id will stand; keys before it hold no text."""
PIECE = 1 << 20
"""Bytes that are gathered before they are written."""
_PARENT = re.compile(rb'"parent":(\d+)')


@dataclass(frozen=True)
class LabelRecord:
    """The records of one image, encoded.

    Args:
        image_id: Id of the image.
        segments: Segments of its panoptic annotation.
        panoptic: Annotation of ``panoptic.json``.
        instances: Annotations of ``instances.json`` with the id 0; ``parent`` is a place in here.
    """

    image_id: int
    segments: int
    panoptic: bytes
    instances: tuple[bytes, ...]


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
    folder: Path | str,
    record: Mapping[str, Any],
    label: PanopticLabel,
    space: LabelSpace,
    masks: Sequence[InstanceMask] = (),
) -> LabelRecord:
    """Write the two PNGs of an image and return its records.

    Args:
        folder: ``<output>/panoptic``.
        record: The image's entry in ``images.json``: id, file_name, height, width.
        label: Its panoptic label.
        space: The numbering.
        masks: What its things were merged from; see ``label_record``.

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
    records = label_record(record, label, masks)
    write_panoptic_png(safe_join(Path(folder) / PANOPTIC_PNGS, name), label.ids)
    write_label_png(safe_join(Path(folder) / STUFF_PNGS, name), stuff_target(label, space))
    return records


def written_files(folder: Path, records: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Return the files that ``export_image`` writes for images."""
    names = [png_name(record) for record in records]
    return [safe_join(folder / top, n) for n in names for top in (PANOPTIC_PNGS, STUFF_PNGS)]


def label_record(
    record: Mapping[str, Any], label: PanopticLabel, masks: Sequence[InstanceMask] = ()
) -> LabelRecord:
    """Return the JSON records of an image's label, as ``export_image``; nothing is written.

    The instances are the things as they are seen; where ``masks`` are a hierarchy, the masks
    themselves, whole, with their places in it.
    """
    image_id = int(record["id"])
    for segment in label.segments:
        if segment.area < 1 or min(segment.bbox[2:]) < 1:
            raise ValueError(f"segment {segment.id} of {record['file_name']} is empty: {segment}")
    if any(mask.parent is not None for mask in masks):
        rows = [_instance(image_id, (mask.cluster or 0) + 1, mask) for mask in masks]
    else:
        rows = [_instance(image_id, *_seen(label, s)) for s in label.segments if s.isthing]
    panoptic = {
        "image_id": image_id,
        "file_name": png_name(record),
        "segments_info": [segment.to_json() for segment in label.segments],
    }
    return LabelRecord(
        image_id, len(label.segments), item_bytes(panoptic), tuple(map(item_bytes, rows))
    )


def _seen(label: PanopticLabel, segment: Segment) -> tuple[int, InstanceMask]:
    mask = encode_mask(label.ids == segment.id)
    return segment.category_id, InstanceMask(mask, segment.score, segment.bbox, segment.area)


def _instance(image_id: int, category_id: int, mask: InstanceMask) -> dict[str, Any]:
    return {"id": 0, "iscrowd": 0, **mask.to_result(image_id, category_id)}


def item_bytes(item: Any) -> bytes:
    """Return JSON as ``json_bytes`` does, without the line end.

    Examples:
        >>> item_bytes({"b": [1.5, None], "a": "ü"}).decode()
        '{"a":"ü","b":[1.5,null]}'
    """
    return json_bytes(item).rstrip(b"\n")


def numbered(instance: bytes, number: int, first: int = 1) -> bytes:
    """Return an encoded instance with its id, and with that of its parent.

    Args:
        instance: With the id 0 and perhaps ``parent``, a place among the image's instances.
        number: Its id.
        first: Id of the first instance of the image.

    Examples:
        >>> numbered(b'{"category_id":0,"id":0,"image_id":0}', 12)
        b'{"category_id":0,"id":12,"image_id":0}'
        >>> numbered(b'{"id":0,"parent":1}', 12, 10)
        b'{"id":12,"parent":11}'
    """
    line = instance.replace(NO_ID, b'"id":%d,' % number, 1)
    if b'"parent":' not in line:
        return line
    return _PARENT.sub(lambda found: b'"parent":%d' % (first + int(found[1])), line, count=1)


def write_part(path: Path | str, records: Iterable[LabelRecord]) -> None:
    """Write a part file atomically; UserError if that cannot be done."""
    lines: list[bytes] = []
    for record in records:
        head = [record.image_id, record.segments, len(record.instances)]
        lines += [item_bytes(head), record.panoptic, *record.instances]
    write_bytes(path, b"[\n" + b",\n".join(lines) + b"\n]\n")


def read_part(path: Path | str) -> list[LabelRecord]:
    """Return the records of a part file.

    Raises:
        StageError: if the file is missing or is no such file.
    """
    try:
        return _records(Path(path).read_bytes())
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise StageError(
            f"{path} cannot be used ({error}): delete it and run the panoptic stage again"
        ) from error


def _records(content: bytes) -> list[LabelRecord]:
    lines = content.split(b"\n")
    if lines[0] != b"[" or lines[-2:] != [b"]", b""]:
        raise ValueError("it ends too early, or is no part file")
    lines = [line.removesuffix(b",") for line in lines[1:-2]]
    if lines == [b""]:
        return []
    records = []
    place = 0
    while place < len(lines):
        image_id, segments, count = json.loads(lines[place])
        end = place + 2 + count
        panoptic, instances = lines[place + 1], tuple(lines[place + 2 : end])
        if len(instances) != count or not all(NO_ID in line for line in instances):
            raise ValueError(f"image {image_id} lacks instances")
        records.append(LabelRecord(image_id, segments, panoptic, instances))
        place = end
    return records


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
    categories = space.categories()
    things = [
        {"id": row["id"], "name": row["name"], "supercategory": row["supercategory"]}
        for row in categories
        if row["isthing"]
    ]
    counts = {"images": 0, "instances": 0, "segments": 0}
    with (
        _coco_file(folder / PANOPTIC_JSON, categories, images) as labels,
        _coco_file(folder / INSTANCES_JSON, things, images) as instances,
    ):
        for record in _in_order(parts, images):
            labels.add(record.panoptic)
            counts["images"] += 1
            counts["segments"] += record.segments
            first = counts["instances"] + 1
            for number, instance in enumerate(record.instances, first):
                instances.add(numbered(instance, number, first))
            counts["instances"] += len(record.instances)
    write_json(folder / LABELSPACE_JSON, space.to_json(), indent=1)
    return counts


def write_dataset(
    folder: Path,
    space: LabelSpace,
    shared: Mapping[str, Any],
    labels: Sequence[Mapping[str, Any]],
    instances: Sequence[Mapping[str, Any]],
    *,
    results: bool = False,
) -> None:
    """Write the JSON files of labels that fit in memory; ``panoptic.json`` last.

    Args:
        folder: Gets them.
        space: The numbering.
        shared: ``info`` and ``images``.
        labels: Annotations of ``panoptic.json``.
        instances: Annotations of ``instances.json``.
        results: Write the instances as COCO results, without what is ``shared``.

    Raises:
        UserError: if a file cannot be written.
    """
    categories = space.categories()
    things = [row for row in categories if row["isthing"]]
    coco = {**shared, "categories": things, "annotations": instances}
    write_json(folder / LABELSPACE_JSON, space.to_json(), indent=1)
    write_json(folder / INSTANCES_JSON, instances if results else coco)
    content = {**shared, "categories": categories, "annotations": labels}
    write_json(folder / PANOPTIC_JSON, content)


class _Array:
    """A JSON array that is written item by item, in pieces of about ``PIECE`` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.waiting: list[bytes] = []
        self.size = 0
        self.lead = b""

    def add(self, item: bytes) -> None:
        self.waiting.append(item)
        self.size += len(item)
        if self.size >= PIECE:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.file.write(self.lead + b",".join(self.waiting))
            self.waiting, self.size, self.lead = [], 0, b","


@contextlib.contextmanager
def _coco_file(
    path: Path, categories: list[dict[str, Any]], images: Iterable[Mapping[str, Any]]
) -> Iterator[_Array]:
    """Write a COCO file with more annotations and images than fit in memory.

    The bytes are those ``write_json`` would write for the whole object, its keys in order. It
    appears when the block ends without an error.

    Yields:
        Its annotations.
    """
    info = {"description": "pseudo-labels of an unlabelled data set", "version": __version__}
    with atomic_file(path) as file:
        file.write(b'{"annotations":[')
        annotations = _Array(file)
        yield annotations
        annotations.flush()
        file.write(b'],"categories":' + item_bytes(categories) + b',"images":[')
        rows = _Array(file)
        for image in images:
            rows.add(item_bytes({k: image[k] for k in ("id", "file_name", "height", "width")}))
        rows.flush()
        file.write(b'],"info":' + item_bytes(info) + b"}\n")


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
