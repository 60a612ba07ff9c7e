"""Read COCO JSON: instances, results and panoptic, checked record by record.

Source: the COCO data and results formats. A file that anybody may have made must not end in a
``KeyError`` three stages later: every error names the file, the record and what was expected.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

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
    declared = {r["id"] for r in _categories(path, content, name=str)}
    known = declared if categories is None else set(categories)
    for where, record in _named(
        path, _unique(path, content, "annotations", image_id=int, category_id=int), "annotations"
    ):
        size = _known(where, record, "image_id", sizes)
        _known(where, record, "category_id", dict.fromkeys(known))
        _check_box(where, record)
        _check_number(where, record, "area", 0.0)
        _check_flag(where, record, "iscrowd")
        _check_hierarchy(where, record)
        _check_segmentation(where, record, size)
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
    for where, record in _named(path, records, "results"):
        _check_types(where, record, {"image_id": int, "category_id": int})
        size = _known(where, record, "image_id", sizes)
        if categories is not None:
            _known(where, record, "category_id", dict.fromkeys(categories))
        _check_range(where, record, "category_id", 0, MAX_CATEGORY_ID)
        check_score(where, record, *scores)
        if "bbox" in record:
            _check_box(where, record)
        if "area" in record:
            _check_number(where, record, "area", 0.0)
        _check_hierarchy(where, record)
        _check_segmentation(where, record, size)
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
    categories = _categories(path, content, name=str, isthing=object)
    for where, row in _named(path, categories, "categories"):
        if not isinstance(row["isthing"], bool):  # some tools write true and false
            _check_flag(where, row, "isthing")
    known = {row["id"]: None for row in categories}
    seen: set[int] = set()
    names: dict[str, int] = {}
    for where, record in _named(path, _list(path, content, "annotations"), "annotations"):
        _check_types(where, record, {"image_id": int, "file_name": str, "segments_info": list})
        _known(where, record, "image_id", sizes)
        if record["image_id"] in seen:
            raise UserError(f"{where}: image {record['image_id']} has a second annotation")
        seen.add(record["image_id"])
        _check_own_file(where, record, "PNG", record["image_id"], names)
        _check_segments(where, record["segments_info"], known)
    return content


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
    if isinstance(segmentation, list):
        _check_polygons(segmentation)
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    else:
        _check_rle_size(segmentation, size)
        rle = segmentation
        if isinstance(segmentation["counts"], list):
            rle = coco_mask.frPyObjects(segmentation, height, width)
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": text}


def check_score(
    where: str, record: Record, lowest: float = -math.inf, highest: float = math.inf
) -> None:
    """Raise UserError unless ``score`` is a finite number, lowest <= score <= highest."""
    _check_number(where, record, "score", -math.inf)
    if not lowest <= record["score"] <= highest:
        raise UserError(
            f"{where}: 'score' is {record['score']:g}, expected {lowest:g}..{highest:g}: scores "
            "are compared with thresholds in that range, so rescale them first"
        )


def _list(path: Path | str, content: Record, key: str) -> list[Any]:
    if not isinstance(content[key], list):
        raise UserError(f"{path}: {key!r} must be a list, found {type(content[key]).__name__}")
    return list(content[key])


def _named(path: Path | str, records: list[Any], key: str) -> Iterable[tuple[str, Record]]:
    for index, record in enumerate(records):
        where = f"{path}: {key}[{index}]"
        if not isinstance(record, dict):
            raise UserError(f"{where} must be an object, found {type(record).__name__}")
        yield where + (f" (id {record['id']})" if "id" in record else ""), record


def _unique(path: Path | str, content: Record, key: str, **types: type) -> list[Record]:
    """Return the records of a list whose ``id`` is an integer used once."""
    records = _list(path, content, key)
    seen: set[int] = set()
    for where, record in _named(path, records, key):
        _check_types(where, record, {"id": int, **types})
        if record["id"] in seen:
            raise UserError(f"{where}: the id {record['id']} is used twice")
        seen.add(record["id"])
    return records


def _categories(path: Path | str, content: Record, **types: type) -> list[Record]:
    rows = _unique(path, content, "categories", **types)
    for where, row in _named(path, rows, "categories"):
        _check_range(where, row, "id", 1, MAX_CATEGORY_ID)
    return rows


def _sizes(path: Path | str, content: Record) -> dict[int, tuple[int, int]]:
    rows = _unique(path, content, "images", file_name=str, height=int, width=int)
    names: dict[str, int] = {}
    for where, row in _named(path, rows, "images"):
        _check_range(where, row, "id", 0, MAX_IMAGE_ID)
        _check_own_file(where, row, "image", row["id"], names)
        for side in ("height", "width"):
            if not 1 <= row[side] <= MAX_SIDE:
                raise UserError(f"{where}: {side!r} is {row[side]}, expected 1..{MAX_SIDE}")
    return image_sizes(rows)


def _check_types(where: str, record: Record, types: Mapping[str, type]) -> None:
    for key, kind in types.items():
        if key not in record:
            raise UserError(f"{where} lacks the key {key!r}")
        if not isinstance(record[key], kind) or (kind is int and isinstance(record[key], bool)):
            raise UserError(f"{where}: {key!r} is {_short(record[key])}, expected {kind.__name__}")


def _known(where: str, record: Record, key: str, known: Mapping[int, Any]) -> Any:
    if record[key] not in known:
        what = key.removesuffix("_id")
        raise UserError(f"{where}: {key!r} is {record[key]}, which is no known {what}")
    return known[record[key]]


def _check_range(where: str, record: Record, key: str, lowest: int, highest: int) -> None:
    if not lowest <= record[key] <= highest:
        raise UserError(f"{where}: {key!r} is {record[key]}, expected {lowest}..{highest}")


def _check_own_file(
    where: str, record: Record, kind: str, owner: int, names: dict[str, int]
) -> None:
    """Raise UserError if another image has this file; ``names`` are those so far."""
    other = names.setdefault(record["file_name"], owner)
    if other != owner:
        raise UserError(
            f"{where}: 'file_name' is {_short(record['file_name'])}, which is the {kind} of image "
            f"id {other} too, expected a file of its own for each"
        )


def _check_flag(where: str, record: Record, key: str) -> None:
    """Raise UserError unless a key is 0 or 1, or absent."""
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value not in (0, 1):
        raise UserError(f"{where}: {key!r} is {_short(value)}, expected 0 or 1")


def _is_number(value: Any) -> bool:
    # A whole number may be too large for a float, which math.isfinite would choke on.
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= sys.float_info.max


def _check_number(where: str, record: Record, key: str, lowest: float) -> None:
    value = record.get(key)
    if not _is_number(value) or value < lowest:  # type: ignore[operator]
        bound = "" if math.isinf(lowest) else f" >= {lowest:g}"
        raise UserError(f"{where}: {key!r} is {_short(value)}, expected a finite number{bound}")


def _check_box(where: str, record: Record) -> None:
    box = record.get("bbox")
    four = isinstance(box, list) and len(box) == 4 and all(_is_number(v) for v in box)
    if not four or min(box[2:]) < 0 or max(map(abs, box)) > MAX_SIDE:  # type: ignore[index,arg-type]
        raise UserError(
            f"{where}: 'bbox' is {_short(box)}, expected [x, y, width, height] with sides >= 0, "
            f"all within {MAX_SIDE}"
        )


def _check_hierarchy(where: str, record: Record) -> None:
    """Raise UserError unless the optional keys of a mask in a hierarchy are what they should."""
    for key in ("cluster", "parent", "level"):
        if record.get(key) is not None:
            _check_types(where, record, {key: int})
            _check_range(where, record, key, 0, MAX_IMAGE_ID)
    if record.get("granularity") is not None:
        _check_number(where, record, "granularity", 0.0)
    if record.get("source") is not None:
        _check_types(where, record, {"source": str})


def _check_segmentation(where: str, record: Record, size: tuple[int, int]) -> None:
    if "segmentation" not in record:
        raise UserError(f"{where} lacks the key 'segmentation'")
    try:
        if isinstance(record["segmentation"], list):
            _check_polygons(record["segmentation"])
        else:
            _check_rle_size(record["segmentation"], size)
    except ValueError as error:
        raise UserError(f"{where}: 'segmentation': {error}") from error


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


def _check_rle_size(rle: Any, size: tuple[int, int]) -> None:
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


def _check_segments(where: str, segments: list[Any], known: Mapping[int, Any]) -> None:
    seen: set[int] = set()
    for name, segment in _named(where, segments, "segments_info"):
        _check_types(name, segment, {"id": int, "category_id": int})
        _known(name, segment, "category_id", known)
        _check_number(name, segment, "area", 0.0)
        if segment["area"] != int(segment["area"]) or segment["area"] > MAX_SIDE**2:
            raise UserError(f"{name}: 'area' is {segment['area']}, expected a number of pixels")
        _check_flag(name, segment, "iscrowd")
        if not 1 <= segment["id"] <= MAX_SEGMENT_ID or segment["id"] in seen:
            raise UserError(
                f"{name}: the id is outside 1..{MAX_SEGMENT_ID} or used twice in its image"
            )
        seen.add(segment["id"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
