"""COCO JSON: good files pass unchanged, bad ones are named record by record."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.errors import UserError
from u2seg.io.coco import (
    image_sizes,
    read_instances,
    read_panoptic,
    read_results,
    segmentation_rle,
)
from u2seg.structures.masks import InstanceMask, decode_mask, encode_mask

MASK = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)
INSTANCES: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a/x.jpg", "height": 2, "width": 3}],
    "annotations": [
        {
            "id": 7, "image_id": 1, "category_id": 2, "segmentation": encode_mask(MASK),
            "bbox": [1, 0, 2.0, 2], "area": 3, "iscrowd": 0,
        }
    ],
    "categories": [{"id": 2, "name": "cat"}],
}  # fmt: skip
PANOPTIC: dict[str, Any] = {
    "images": INSTANCES["images"],
    "annotations": [
        {
            "image_id": 1, "file_name": "a/x.png",
            "segments_info": [{"id": 5, "category_id": 2, "area": 3, "bbox": [1, 0, 2, 2]}],
        }
    ],
    "categories": [{"id": 2, "name": "cat", "isthing": 1}],
}  # fmt: skip
RESULTS: list[dict[str, Any]] = [InstanceMask.from_array(MASK, 0.5).to_result(1)]
SIZES = {1: (2, 3)}
_DROP = object()


def test_a_byte_order_mark_of_windows_editors_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(INSTANCES).encode())
    assert read_instances(path) == INSTANCES


def test_one_file_under_two_image_ids_is_refused(tmp_path: Path) -> None:
    twice = [INSTANCES["images"][0], {**INSTANCES["images"][0], "id": 4}]
    for content, read in ((INSTANCES, read_instances), (PANOPTIC, read_panoptic)):
        path = _write(tmp_path / "c.json", {**content, "images": twice})
        told = (
            r"images\[1\] \(id 4\): 'file_name' is 'a/x.jpg', which is the image of image id 1 too"
        )
        with pytest.raises(UserError, match=told):
            read(path)
    images = [twice[0], {**twice[1], "file_name": "a/y.jpg"}]
    labels = [PANOPTIC["annotations"][0], {**PANOPTIC["annotations"][0], "image_id": 4}]
    path = _write(tmp_path / "c.json", {**PANOPTIC, "images": images, "annotations": labels})
    with pytest.raises(UserError, match=r"'a/x.png', which is the PNG of image id 1 too"):
        read_panoptic(path)


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def _changed(content: Any, *keys: Any, to: Any) -> Any:
    """A copy of ``content`` with one place replaced or removed."""
    result = copy.deepcopy(content)
    place = result
    for key in keys[:-1]:
        place = place[key]
    if to is _DROP:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return result


def _annotation(key: str, to: Any) -> Any:
    return _changed(INSTANCES, "annotations", 0, key, to=to)


def _result(key: str, to: Any) -> Any:
    return _changed(RESULTS, 0, key, to=to)


def _segment(key: str, to: Any) -> Any:
    return _changed(PANOPTIC, "annotations", 0, "segments_info", 0, key, to=to)


def _results(path: Path) -> list[dict[str, Any]]:
    return read_results(path, SIZES, categories=[1])


def _scores(path: Path) -> list[dict[str, Any]]:
    return read_results(path, SIZES, scores=(0.0, 1.0))


def _results_of_any(path: Path) -> list[dict[str, Any]]:
    return read_results(path, SIZES)


def _image(key: str, to: Any) -> Any:
    return _changed(INSTANCES, "images", 0, key, to=to)


def _label(key: str, to: Any) -> Any:
    return _changed(PANOPTIC, "annotations", 0, key, to=to)


def test_limits_are_inside(tmp_path: Path) -> None:
    for value in (0, 2**53 - 1):
        content = _changed(INSTANCES, "images", 0, "id", to=value)
        content["annotations"][0]["image_id"] = value
        assert read_instances(_write(tmp_path / "i.json", content)) == content
    content = _changed(INSTANCES, "categories", 0, "id", to=2**31 - 1)
    content["annotations"] = []
    assert read_instances(_write(tmp_path / "i.json", content)) == content
    for score in (0, 1):
        assert _scores(_write(tmp_path / "r.json", _result("score", score)))
    assert _results(_write(tmp_path / "r.json", _result("score", 7))), "only ranks matter"
    crowd = _segment("iscrowd", 1)
    assert read_panoptic(_write(tmp_path / "p.json", crowd)) == crowd


def test_good_files_come_back_unchanged(tmp_path: Path) -> None:
    assert read_instances(_write(tmp_path / "i.json", INSTANCES)) == INSTANCES
    assert read_panoptic(_write(tmp_path / "p.json", PANOPTIC)) == PANOPTIC
    assert _results(_write(tmp_path / "r.json", RESULTS)) == RESULTS


def test_polygons_and_uncompressed_codes_are_valid(tmp_path: Path) -> None:
    for segmentation in ([[0, 0, 3, 0, 3, 2]], {"size": [2, 3], "counts": [2, 3, 1]}):
        read_instances(_write(tmp_path / "i.json", _annotation("segmentation", segmentation)))


def test_results_need_no_box_and_area(tmp_path: Path) -> None:
    bare = [{k: v for k, v in RESULTS[0].items() if k not in ("bbox", "area")}]
    assert _results(_write(tmp_path / "r.json", bare)) == bare


def test_known_categories_can_be_given(tmp_path: Path) -> None:
    path = _write(tmp_path / "i.json", INSTANCES)
    read_instances(path, categories=range(1, 3))
    with pytest.raises(UserError, match="'category_id' is 2, which is no known category"):
        read_instances(path, categories=[1])
    assert read_results(_write(tmp_path / "r.json", _result("category_id", 99)), SIZES)


TWICE = _changed(INSTANCES, "annotations", to=INSTANCES["annotations"] * 2)
SHORT = {"size": [2, 3], "counts": "2"}
RECORD = PANOPTIC["annotations"][0]
BAD_MASKS = [
    (_DROP, "lacks the key 'segmentation'"),
    ([], "has no polygon, expected at least"),
    ([0, 0, 2.0, 0, 2, 2], "is one flat list, expected a list of polygons"),
    ([[1, 2, 3, 4]], "no polygon of at least 3"),
    ([[0, 0, 1, 1, 2, 1e9]], "within 65536"),
    (5, "5 is neither polygons nor an RLE"),
    ({"size": [2, 3]}, "neither polygons"),
    ({"size": [3, 2], "counts": "222"}, r"RLE size is \[3, 2\], its image is \[2, 3\]"),
    (SHORT, "cover 2 pixels, its size"),
    ({"size": [2, 3], "counts": [2.0, 4]}, "RLE counts hold 2.0, expected whole numbers >= 0"),
    ({"size": [2, 3], "counts": [2, 2]}, "do not add up to the 6 pixels"),
    ({"size": [2, 3], "counts": [8, -2]}, "counts hold -2, expected whole numbers >= 0"),
    ({"size": [2, 3], "counts": 6}, "RLE counts are 6, expected text"),
]
BAD_INSTANCES = [
    ([], "must hold a JSON object, found list"),
    ({"images": []}, "lacks the key 'annotations'"),
    (_changed(INSTANCES, "images", to={}), "'images' must be a list"),
    (_changed(INSTANCES, "annotations", 0, to=3), r"annotations\[0\] must be"),
    (_annotation("id", _DROP), r"annotations\[0\] lacks the key 'id'"),
    (_annotation("id", "7"), r"annotations\[0\] \(id 7\): 'id' is '7', exp"),
    (_annotation("id", True), "'id' is True, expected int"),
    (TWICE, r"annotations\[1\] \(id 7\): the id 7 is used twice"),
    (_annotation("image_id", 2), "'image_id' is 2, which is no known image"),
    (_annotation("category_id", 1), "is 1, which is no known category"),
    (_annotation("bbox", _DROP), "'bbox' is None, expected"),
    (_annotation("bbox", [1, 2, 3]), r"'bbox' is \[1, 2, 3\]"),
    (_annotation("bbox", [0, 0, -1, 2]), "sides >= 0"),
    (_annotation("bbox", [0, 0, "1", 2]), "'bbox' is"),
    (_annotation("bbox", [1e308] * 4), "all within 65536"),
    (_annotation("area", -1), "'area' is -1, expected a finite number >= 0"),
    (_annotation("area", None), "'area' is None"),
    (_annotation("parent", -1), "'parent' is -1, expected 0"),
    (_annotation("granularity", "fine"), "'granularity' is 'fine', expected a finite number"),
    (_image("height", 0), r"images\[0\] \(id 1\): 'height' is 0, expected 1"),
    (_image("width", 10**9), "'width' is 1000000000"),
    (_image("file_name", 5), "'file_name' is 5, expected str"),
    (_changed(INSTANCES, "categories", 0, "name", to=_DROP), r"\(id 2\) lacks the key 'name'"),
    *[(_annotation("segmentation", mask), told) for mask, told in BAD_MASKS],
]
BAD_RESULTS = [
    ({}, "must hold a list of results, found dict"),
    ([5], r"results\[0\] must be an object"),
    (_result("image_id", _DROP), r"results\[0\] lacks the key 'image_id'"),
    (_result("image_id", 9), "'image_id' is 9, which is no known image"),
    (_result("category_id", 2), "'category_id' is 2, which is no known category"),
    (_result("score", "high"), "'score' is 'high', expected a finite number$"),
    (_result("segmentation", SHORT), r"results\[0\]: 'segmentation': RLE runs"),
    (_result("bbox", []), r"'bbox' is \[\]"),
    (_result("bbox", [-1e308, 0, 1, 1]), "all within 65536"),
]
BAD_PANOPTIC = [
    ({}, "lacks the key 'images'"),
    (_changed(PANOPTIC, "annotations", to=[RECORD] * 2), "image 1 has a second annotation"),
    (_changed(PANOPTIC, "categories", 0, "isthing", to=_DROP), "lacks the key 'isthing'"),
    (_changed(PANOPTIC, "categories", 0, "isthing", to=2), "'isthing' is 2, expected 0 or 1"),
    (_label("segments_info", {}), r"'segments_info' is \{\}, expected list"),
    (_label("segments_info", RECORD["segments_info"] * 2), "used twice in its image"),
    (_segment("id", 0), r"segments_info\[0\] \(id 0\): the id is outside"),
    (_segment("id", 2**24), "the id is outside"),
    (_segment("category_id", 3), "'category_id' is 3, which is no known"),
    (_segment("area", _DROP), "'area' is None"),
    (_segment("area", 2.5), "'area' is 2.5, expected a number of pixels"),
    (_segment("area", 10**400), "'area' is 1000.*expected a finite number"),
]
BOTH = ((read_instances, INSTANCES), (read_panoptic, PANOPTIC))


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        *[(read_instances, *row) for row in BAD_INSTANCES],
        *[(_results, *row) for row in BAD_RESULTS],
        *[(read_panoptic, *row) for row in BAD_PANOPTIC],
        *[
            (read, part("iscrowd", value), f"'iscrowd' is {re.escape(repr(value))}, expected 0 or")
            for read, part in ((read_instances, _annotation), (read_panoptic, _segment))
            for value in ("0", None, [], 7, True, 0.0)
        ],
        *[
            (read, _changed(content, key, 0, "id", to=value), f"'id' is {value}, exp.* {lowest}")
            for read, content in BOTH
            for key, lowest, values in (
                ("categories", 1, (0, -1, 2**31, 2**70)),
                ("images", 0, (-5, 2**53)),
            )
            for value in values
        ],
        (_results_of_any, _result("category_id", 2**70), "'category_id' is 118.*, exp.* 0"),
        (_scores, _result("score", 7), "'score' is 7, expected 0..1: .* rescale them"),
        (_scores, _result("score", -3), "'score' is -3, expected 0..1"),
    ],
)
def test_bad_input_names_file_and_record(
    tmp_path: Path, read: Callable[[Path], Any], content: Any, message: str
) -> None:
    path = _write(tmp_path / "bad.json", content)
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "segmentation",
    [
        encode_mask(MASK),
        {"size": [2, 3], "counts": [2, 3, 1]},
        # Pixel (row 0, column 2) and column 1 as two polygons; a corner is a pixel corner.
        [[1, 0, 2, 0, 2, 2, 1, 2], [2, 0, 3, 0, 3, 1, 2, 1]],
    ],
)
def test_any_segmentation_becomes_one_code(segmentation: Any) -> None:
    rle = segmentation_rle(segmentation, (2, 3))
    np.testing.assert_array_equal(decode_mask(rle), MASK)
    assert json.loads(json.dumps(rle)) == rle


def test_a_code_of_another_image_is_refused() -> None:
    with pytest.raises(ValueError, match="its image is"):
        segmentation_rle(encode_mask(MASK), (3, 2))


@pytest.mark.shared
@needs_shared("golden", "coco_eval")
def test_real_size_files_pass() -> None:
    folder = SHARED / "golden" / "coco_eval"
    truth = read_instances(folder / "gt.json")
    sizes = image_sizes(truth["images"])
    known = [row["id"] for row in truth["categories"]]
    results = json.loads((folder / "results.json").read_text())
    assert len(truth["annotations"]) > 100
    assert len(results) > 100
    assert read_results(folder / "results.json", sizes, known) == results
