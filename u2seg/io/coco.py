"""Read COCO JSON: instances, results and panoptic, checked record by record.

Source: the COCO data and results formats. A file that anybody may have made must not end in a
``KeyError`` three stages later: every error names the file, the record and what was expected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pycocotools import mask as coco_mask

from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json, read_json_object
from u2seg.structures.masks import Rle, check_rle
from u2seg.structures.panoptic import MAX_SEGMENT_ID

Record = dict[str, Any]
MAX_SIDE = 1 << 16
"""Sides of an image above this are refused: no camera, and a mask of it would not fit."""
MAX_IMAGE_ID = (1 << 53) - 1
"""Above this programs that keep numbers as float64, as many JSON readers do, confuse images."""
MAX_CATEGORY_ID = (1 << 31) - 1


class _Row:
    """One record of a JSON list, and what may be asked of it; errors say where it is."""

    def __init__(self, where: str, content: Any) -> None:
        if not isinstance(content, dict):
            raise UserError(f"{where} must be an object, found {type(content).__name__}")
        self.where = where + (f" (id {content['id']})" if "id" in content else "")
        self.content = content

    def refuse(self, key: str, expected: str) -> NoReturn:
        value = _short(self.content.get(key))
        raise UserError(f"{self.where}: {key!r} is {value}, expected {expected}")

    def typed(self, key: str, kind: type) -> Any:
        if key not in self.content:
            raise UserError(f"{self.where} lacks the key {key!r}")
        value = self.content[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(key, kind.__name__)
        return value

    def whole(self, key: str, lowest: int, highest: int) -> int:
        value: int = self.typed(key, int)
        if not lowest <= value <= highest:
            self.refuse(key, f"{lowest}..{highest}")
        return value

    def known(self, key: str, known: Container[int]) -> int:
        value: int = self.typed(key, int)
        if value not in known:
            what = key.removesuffix("_id")
            raise UserError(f"{self.where}: {key!r} is {value}, which is no known {what}")
        return value

    def number(self, key: str, lowest: float = -math.inf) -> float:
        value: Any = self.content.get(key)
        if not _is_number(value) or value < lowest:
            self.refuse(key, "a finite number" + ("" if math.isinf(lowest) else f" >= {lowest:g}"))
        return float(value)

    def flag(self, key: str, default: Any = 0) -> None:
        value = self.content.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value not in (0, 1):
            self.refuse(key, "0 or 1")

    def once(self, key: str, seen: set[Any]) -> None:
        if self.content[key] in seen:
            raise UserError(f"{self.where}: the {key} {self.content[key]} is used twice")
        seen.add(self.content[key])

    def own_file(self, kind: str, owner: int, names: dict[str, int]) -> None:
        name = self.typed("file_name", str)
        other = names.setdefault(name, owner)
        if other != owner:
            raise UserError(
                f"{self.where}: 'file_name' is {_short(name)}, which is the {kind} of image id "
                f"{other} too, expected a file of its own for each"
            )

    def box(self) -> None:
        box: Any = self.content.get("bbox")
        four = isinstance(box, list) and len(box) == 4 and all(_is_number(v) for v in box)
        if not four or min(box[2:]) < 0 or max(map(abs, box)) > MAX_SIDE:
            self.refuse("bbox", f"[x, y, width, height] with sides >= 0, all within {MAX_SIDE}")

    def mask(self, size: tuple[int, int]) -> None:
        """Check ``segmentation``, and the keys of a mask in a hierarchy."""
        for key in ("cluster", "parent", "level"):
            if self.content.get(key) is not None:
                self.whole(key, 0, MAX_IMAGE_ID)
        if self.content.get("granularity") is not None:
            self.number("granularity", 0.0)
        if self.content.get("source") is not None:
            self.typed("source", str)
        if "segmentation" not in self.content:
            raise UserError(f"{self.where} lacks the key 'segmentation'")
        try:
            _check_segmentation(self.content["segmentation"], size)
        except ValueError as error:
            raise UserError(f"{self.where}: 'segmentation': {error}") from error


def _rows(path: Path | str, content: Record, key: str) -> Iterator[_Row]:
    if not isinstance(content[key], list):
        raise UserError(f"{path}: {key!r} must be a list, found {type(content[key]).__name__}")
    return (_Row(f"{path}: {key}[{i}]", record) for i, record in enumerate(content[key]))


def read_instances(path: Path | str, categories: Collection[int] | None = None) -> Record:
    """Return a checked COCO instances file.

    Args:
        path: JSON with ``images`` (id, file_name, height, width), ``annotations`` (id,
            image_id, category_id, segmentation, bbox, area) and ``categories`` (id, name).
        categories: Allowed category ids; None = those of the file.

    Returns:
        The content, unchanged; ``segmentation`` may be polygons, uncompressed or compressed RLE.

    Raises:
        UserError: if the file cannot be read, a key is missing or has another type, an id is
            used twice, an image id is outside 0..``MAX_IMAGE_ID`` or a category id outside
            1..``MAX_CATEGORY_ID``, an image or category is unknown, a box is not 4 numbers
            within ``MAX_SIDE`` with sides >= 0, ``iscrowd`` is neither 0 nor 1, or an RLE does
            not cover exactly its image.
    """
    content = read_json_object(path, "images", "annotations", "categories")
    sizes = _sizes(path, content)
    declared = {row.content["id"] for row in _categories(path, content)}
    known = declared if categories is None else categories
    seen: set[int] = set()
    for row in _rows(path, content, "annotations"):
        row.typed("id", int)
        row.once("id", seen)
        image = row.known("image_id", sizes)
        row.known("category_id", known)
        row.box()
        row.number("area", 0.0)
        row.flag("iscrowd")
        row.mask(sizes[image])
    return content


def read_results(
    path: Path | str,
    sizes: Mapping[int, tuple[int, int]],
    categories: Collection[int] | None = None,
    scores: tuple[float, float] = (-math.inf, math.inf),
) -> list[Record]:
    """Return a checked COCO results file (masks with scores).

    Args:
        path: JSON list of records image_id, category_id, segmentation (compressed RLE), score,
            and optionally bbox and area.
        sizes: Image id -> (H, W) of every image the file may speak of.
        categories: Allowed category ids; None = any.
        scores: Lowest and highest score, inclusive.

    Raises:
        UserError: as ``read_instances``, or if a score is not a finite number within ``scores``.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(f"{path} must hold a list of results, found {type(records).__name__}")
    for row in _rows(path, {"results": records}, "results"):
        image = row.known("image_id", sizes)
        if categories is not None:
            row.known("category_id", categories)
        row.whole("category_id", 0, MAX_CATEGORY_ID)
        check_score(row.where, row.content, *scores)
        if "bbox" in row.content:
            row.box()
        if "area" in row.content:
            row.number("area", 0.0)
        row.mask(sizes[image])
    return records


def read_panoptic(path: Path | str) -> Record:
    """Return a checked COCO panoptic file; its PNGs are not opened.

    Args:
        path: JSON with ``images``, ``annotations`` (image_id, file_name, segments_info with id,
            category_id, area) and ``categories`` (id, name, isthing).

    Raises:
        UserError: as ``read_instances``, or if an image has two annotations, ``isthing`` is
            neither 0 nor 1, an area is no whole number, or a segment id is outside 1..2^24-1 or
            used twice in its image.
    """
    return check_panoptic(path, read_json_object(path, "images", "annotations", "categories"))


def check_panoptic(path: Path | str, content: Record) -> Record:
    """Return the content of a COCO panoptic file if it is sound; else UserError as above."""
    sizes = _sizes(path, content)
    known = set()
    for row in _categories(path, content):
        if not isinstance(row.typed("isthing", object), bool):  # some tools write true and false
            row.flag("isthing")
        known.add(row.content["id"])
    seen: set[int] = set()
    names: dict[str, int] = {}
    for row in _rows(path, content, "annotations"):
        image = row.known("image_id", sizes)
        if image in seen:
            raise UserError(f"{row.where}: image {image} has a second annotation")
        seen.add(image)
        row.own_file("PNG", image, names)
        segments = {"segments_info": row.typed("segments_info", list)}
        used: set[int] = set()
        for segment in _rows(row.where, segments, "segments_info"):
            _check_segment(segment, known, used)
    return content


def _check_segment(row: _Row, known: Container[int], used: set[int]) -> None:
    identity = row.typed("id", int)
    row.known("category_id", known)
    area = row.number("area", 0.0)
    if area != int(area) or area > MAX_SIDE**2:
        row.refuse("area", "a number of pixels")
    row.flag("iscrowd")
    if not 1 <= identity <= MAX_SEGMENT_ID or identity in used:
        raise UserError(
            f"{row.where}: the id is outside 1..{MAX_SEGMENT_ID} or used twice in its image"
        )
    used.add(identity)


def image_sizes(images: Iterable[Mapping[str, Any]]) -> dict[int, tuple[int, int]]:
    """Return image id -> (H, W).

    Examples:
        >>> image_sizes([{"id": 7, "height": 2, "width": 3}])
        {7: (2, 3)}
    """
    return {int(image["id"]): (int(image["height"]), int(image["width"])) for image in images}


def segmentation_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Return any COCO segmentation as one compressed RLE.

    Args:
        segmentation: Polygons ``[[x0, y0, x1, y1, ...], ...]`` in pixels (their union),
            uncompressed RLE, or compressed RLE.
        size: (H, W) of the image.

    Raises:
        ValueError: if it is none of these, or does not fit ``size``.

    Examples:
        >>> segmentation_rle([[0, 0, 1, 0, 1, 2, 0, 2]], (2, 2))
        {'size': [2, 2], 'counts': '022'}
        >>> segmentation_rle({"size": [2, 2], "counts": [2, 2]}, (2, 2))
        {'size': [2, 2], 'counts': '22'}
    """
    height, width = size
    _check_segmentation(segmentation, size)
    rle = segmentation
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": text}


def check_score(
    where: str, record: Record, lowest: float = -math.inf, highest: float = math.inf
) -> None:
    """Raise UserError unless ``score`` is a finite number, lowest <= score <= highest."""
    row = _Row("", record)
    row.where = where
    if not lowest <= row.number("score") <= highest:
        raise UserError(
            f"{where}: 'score' is {record['score']:g}, expected {lowest:g}..{highest:g}: scores "
            "are compared with thresholds in that range, so rescale them first"
        )


def _categories(path: Path | str, content: Record) -> Iterator[_Row]:
    seen: set[int] = set()
    for row in _rows(path, content, "categories"):
        row.whole("id", 1, MAX_CATEGORY_ID)
        row.once("id", seen)
        row.typed("name", str)
        yield row


def _sizes(path: Path | str, content: Record) -> dict[int, tuple[int, int]]:
    names: dict[str, int] = {}
    seen: set[int] = set()
    for row in _rows(path, content, "images"):
        row.whole("id", 0, MAX_IMAGE_ID)
        row.once("id", seen)
        row.own_file("image", row.content["id"], names)
        for side in ("height", "width"):
            row.whole(side, 1, MAX_SIDE)
    return image_sizes(content["images"])


def _is_number(value: Any) -> bool:
    # A whole number may be too large for a float, which math.isfinite would choke on.
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= sys.float_info.max


def _check_segmentation(segmentation: Any, size: tuple[int, int]) -> None:
    if isinstance(segmentation, list):
        _check_polygons(segmentation)
    else:
        _check_rle(segmentation, size)


def _check_polygons(polygons: list[Any]) -> None:
    if not polygons:
        raise ValueError("[] has no polygon, expected at least one, or an RLE")
    if _is_number(polygons[0]):
        raise ValueError(
            f"{_short(polygons)} is one flat list, expected a list of polygons: "
            "[[x0, y0, x1, y1, ...], ...]"
        )
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"{_short(polygon)} is no polygon of at least 3 points x, y")
        # pycocotools walks every pixel of an outline, however far outside the image.
        if not all(_is_number(v) and abs(v) <= MAX_SIDE for v in polygon):
            raise ValueError(f"polygon {_short(polygon)} holds no numbers within {MAX_SIDE}")


def _check_rle(rle: Any, size: tuple[int, int]) -> None:
    if not isinstance(rle, dict) or "size" not in rle or "counts" not in rle:
        raise ValueError(f"{_short(rle)} is neither polygons nor an RLE with size and counts")
    if rle["size"] != list(size):
        raise ValueError(f"RLE size is {_short(rle['size'])}, its image is {list(size)}")
    counts = rle["counts"]
    if isinstance(counts, list):
        odd = [c for c in counts if not isinstance(c, int) or isinstance(c, bool) or c < 0]
        if odd:
            raise ValueError(f"RLE counts hold {_short(odd[0])}, expected whole numbers >= 0")
        if sum(counts) != size[0] * size[1]:
            raise ValueError(f"RLE counts do not add up to the {size[0] * size[1]} pixels")
    elif isinstance(counts, str | bytes):
        check_rle(rle)
    else:
        raise ValueError(f"RLE counts are {_short(counts)}, expected text or a list")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
