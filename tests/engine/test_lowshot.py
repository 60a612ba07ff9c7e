"""Shares of a labelled data set: the choice by hand, the folder as training reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.shared import SHARED, needs_shared
from u2seg.engine.lowshot import (
    LabelledSet,
    choose_images,
    make_splits,
    read_labels,
    stuff_map,
    write_share,
)
from u2seg.errors import UserError
from u2seg.evaluation.protocols.mapping import read_mapping
from u2seg.io.atomic import sha256_file
from u2seg.io.jsonfile import read_json
from u2seg.io.png import read_label_png, read_panoptic_png, write_panoptic_png
from u2seg.labels import LabelFolder
from u2seg.structures.masks import decode_mask

CATEGORIES = [
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 90, "name": "toothbrush", "isthing": 1},
    {"id": 92, "name": "banner", "isthing": 0},
    {"id": 200, "name": "rug", "isthing": 0},
]
IMAGES = 5


def make_truth(root: Path, **changes: Any) -> LabelledSet:
    """Write five images of 4x3 pixels: left a car or a crowd of them, right a rug, below void."""
    source = LabelledSet(root / "photos", root / "pan.json", root / "pan", root / "ins.json")
    images, segments, instances = [], [], []
    for number in range(1, IMAGES + 1):
        name = f"{number:03d}.jpg"
        source.images.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (number, 0, 0)).save(source.images / name)
        ids = np.zeros((3, 4), dtype=np.int32)
        ids[:2, :2], ids[:2, 2:] = 70000 + number, 5
        write_panoptic_png(source.panoptic_pngs / f"{number:03d}.png", ids)
        crowd = int(number == 2)
        box = {"bbox": [0, 0, 2, 2], "area": 4, "iscrowd": crowd, "category_id": 3}
        images.append({"id": number, "file_name": name, "height": 3, "width": 4})
        rug = {"id": 5, "category_id": 200, "area": 4, "bbox": [2, 0, 2, 2], "iscrowd": 0}
        segments.append(
            {
                "image_id": number,
                "file_name": f"{number:03d}.png",
                "segments_info": [{"id": 70000 + number, **box}, rug],
            }
        )
        polygon = [[0, 0, 2, 0, 2, 2, 0, 2]]
        instances.append({"id": number, "image_id": number, "segmentation": polygon, **box})
    things = [c for c in CATEGORIES if c["isthing"]]
    content = {"images": images, "annotations": segments, "categories": CATEGORIES}
    source.panoptic_json.write_text(json.dumps({**content, **changes.get("panoptic", {})}))
    content = {"images": images, "annotations": instances, "categories": things}
    source.instances_json.write_text(json.dumps({**content, **changes.get("instances", {})}))
    return source


def test_choice_by_hand() -> None:
    """The digests of "7:1", "7:2", "7:3", taken from sha256sum, begin with d7, 8d, 11."""
    assert choose_images([1, 2, 3], 1, 7) == [3]
    assert choose_images([3, 2, 1], 67, 7) == [2, 3]
    assert choose_images([1, 2, 3], 100, 7) == [1, 2, 3]


def test_folder_is_what_training_reads(tmp_path: Path) -> None:
    labels = read_labels(make_truth(tmp_path))
    assert labels.categories == (3, 90, 92, 200)
    folder = write_share(labels, [2, 4], tmp_path / "out")
    opened = LabelFolder.open(folder)
    assert (opened.space.num_things, opened.space.num_stuff) == (2, 2)
    assert opened.space.thing_names == ("car", "toothbrush")
    assert opened.space.stuff_names == ("banner", "rug")
    records = LabelFolder.open(folder).records()
    assert [r["image_id"] for r in records] == [2, 4]
    car = records[1]["annotations"][0]
    assert (car["category_id"], car["bbox"], car["iscrowd"]) == (0, [0, 0, 2, 2], 0)
    left = np.zeros((3, 4), dtype=bool)
    left[:2, :2] = True
    assert np.array_equal(decode_mask(car["segmentation"]), left)
    assert records[0]["annotations"][0]["iscrowd"] == 1
    # Cars, and crowds of them, are "any thing"; rug is the second stuff class; below is void.
    expected = [[0, 0, 2, 2], [0, 0, 2, 2], [255] * 4]
    for record in records:
        assert read_label_png(record["sem_seg_file_name"]).tolist() == expected
    assert [s["category_id"] for s in records[1]["segments_info"]] == [1, 4]
    assert read_panoptic_png(records[1]["pan_seg_file_name"])[0].tolist() == [70004, 70004, 5, 5]


def test_tool_writes_ids_and_mapping(tmp_path: Path) -> None:
    source = make_truth(tmp_path)
    lines = make_splits(source, [20, 60], 42, tmp_path / "out")
    assert [line.split(" images")[0] for line in lines] == ["20 %: 1 of 5", "60 %: 3 of 5"]
    notes = [read_json(tmp_path / "out" / f"subset_{p}.json") for p in (20, 60)]
    assert [n["image_ids"] for n in notes] == [choose_images(range(1, 6), p, 42) for p in (20, 60)]
    assert (notes[0]["seed"], notes[0]["percent"], notes[0]["of_images"]) == (42, 20, 5)
    assert notes[0]["source_sha256"]["pan.json"] == sha256_file(source.panoptic_json)
    assert notes[0]["source_sha256"]["ins.json"] == sha256_file(source.instances_json)
    trained = {r["image_id"] for r in LabelFolder.open(tmp_path / "out" / "60").records()}
    assert trained == set(notes[1]["image_ids"])
    mapping = read_mapping(tmp_path / "out" / "20" / "mapping.json")
    assert (mapping.things, mapping.stuff) == ({1: 3, 2: 90}, {3: 92, 4: 200})
    assert mapping.names() == {1: "car", 2: "toothbrush", 3: "banner", 4: "rug"}
    with pytest.raises(UserError, match="--percent names 5 twice"):
        make_splits(source, [5, 5], 42, tmp_path / "out")


def test_files_of_the_other_kind_are_refused_with_their_option(tmp_path: Path) -> None:
    source = make_truth(tmp_path)
    twice = replace(source, panoptic_json=source.instances_json)
    with pytest.raises(UserError, match=r"--instances-json both name .*ins\.json: the one is for"):
        make_splits(twice, [20], 42, tmp_path / "out")
    source.panoptic_json.write_bytes(source.instances_json.read_bytes())
    with pytest.raises(UserError, match=r"pan\.json: .* \(--panoptic-json names COCO panoptic"):
        make_splits(source, [20], 42, tmp_path / "out")
    make_truth(tmp_path)
    source.instances_json.write_text("[]")
    with pytest.raises(UserError, match=r"ins\.json must hold .* \(--instances-json names COCO"):
        make_splits(source, [20], 42, tmp_path / "out")


def test_interrupted_folder_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    source = make_truth(tmp_path)
    folder = write_share(read_labels(source), [1, 2], tmp_path / "out")
    (source.panoptic_pngs / "003.png").unlink()
    with pytest.raises(UserError, match=r"003\.png"):
        write_share(read_labels(source), [1, 2, 3], folder)
    with pytest.raises(UserError, match="holds no finished labels"):
        LabelFolder.open(folder)


def test_truth_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    other = {
        "images": [{"id": 1, "file_name": "001.jpg", "height": 9, "width": 4}],
        "annotations": [],
    }
    with pytest.raises(UserError, match=r"image 1 is 3x4 .* in .*pan\.json and 9x4 in .*ins\.json"):
        read_labels(make_truth(tmp_path / "a", instances=other))
    rows = [{"id": 1, "name": "person"}]
    with pytest.raises(UserError, match="category_id"):
        read_labels(make_truth(tmp_path / "b", panoptic={"categories": [
            {**row, "isthing": 1} for row in rows]}))  # fmt: skip
    source = make_truth(tmp_path / "c")
    (source.images / "004.jpg").unlink()
    with pytest.raises(UserError, match=r"004\.jpg, which does not exist"):
        write_share(read_labels(source), [4], tmp_path / "out")
    write_panoptic_png(source.panoptic_pngs / "001.png", np.zeros((5, 4), dtype=np.int32))
    with pytest.raises(UserError, match=r"001\.png is 5x4 .*pan\.json says 3x4"):
        write_share(read_labels(source), [1], tmp_path / "out")


@pytest.mark.parametrize("strange", [6, 899, 901])
def test_id_without_annotation(strange: int) -> None:
    ids = np.array([[0, 7, 900, strange]], dtype=np.int32)
    with pytest.raises(UserError, match=f"x holds the segment id {strange}"):
        stuff_map(ids, {900: 2, 7: 0}, "x")


@needs_shared("data", "coco_train128")
def test_real_sample(tmp_path: Path) -> None:
    """COCO's own files: 10 of 100 images, their 80 + 53 names, and stuff where COCO has it."""
    root = SHARED / "data" / "coco_train128"
    names = ("images", "panoptic_train2017.json", "panoptic_train2017", "instances_train2017.json")
    source = LabelledSet(*(root / name for name in names))
    make_splits(source, [10], 42, tmp_path)
    records = LabelFolder.open(tmp_path / "10").records()
    assert len(records) == 10
    space = LabelFolder.open(tmp_path / "10").space
    assert (space.num_things, space.num_stuff) == (80, 53)
    assert (space.thing_names[0], space.thing_names[-1]) == ("person", "toothbrush")
    mapping = read_mapping(tmp_path / "10" / "mapping.json").all
    for record in records:
        # The sample's own semantic map: the category id of every pixel, 0 without a segment.
        semantic = read_label_png(root / "semantic" / f"{record['stem']}.png")
        stuff = read_label_png(record["sem_seg_file_name"])
        for value in np.unique(stuff):
            found = set(np.unique(semantic[stuff == value]).tolist())
            expected = {255: {0}, 0: set(range(1, 91))}.get(int(value))
            assert found <= (expected or {mapping[80 + int(value)]})
        clusters = {a["category_id"] for a in record["annotations"]}
        assert {mapping[c + 1] for c in clusters} <= set(np.unique(semantic).tolist())
