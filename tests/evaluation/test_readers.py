"""Readers of other data sets' files; predictions join them by the photographs' names."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.evaluation import formats
from tests.evaluation.datasets import write_truth
from tests.shared import SHARED, needs_shared
from u2seg.config.evaluation import EVAL_FORMATS
from u2seg.errors import UserError
from u2seg.evaluation.metrics.instance import truth_instances
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import INSTANCES, SEMANTIC, TASKS, paired_by_stem
from u2seg.evaluation.truth.formats import FORMATS, find_format, open_truth
from u2seg.io.png import write_panoptic_png

PANOPTICAPI = ("data", "metrics", "panopticapi", "sample_data")


def test_settings_know_the_formats_and_what_each_needs() -> None:
    assert sorted(EVAL_FORMATS) == FORMATS.names()
    for name in FORMATS.names():
        known = find_format(name)
        tree = EVAL_FORMATS[name]
        given = {key for key in ("json", "pngs") if getattr(tree, key)}
        assert set(known.keys[: known.required]) == given, name
        assert len(known.keys) == len(known.parts)


def test_unknown_format_and_wrong_number_of_paths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown format 'cityscape'.*Did you mean 'cityscapes'"):
        open_truth("cityscape", [tmp_path])
    with pytest.raises(UserError, match=r"voc .* takes list of images and folder .*given 1 paths"):
        open_truth("voc", [tmp_path])


def test_coco_panoptic_is_known_by_photographs(tmp_path: Path) -> None:
    files = write_truth(tmp_path)
    truth = open_truth("coco-panoptic", [files.panoptic_json, files.panoptic_pngs])
    assert truth.stems == {21: "a/first", 22: "second"} and truth.tasks == TASKS
    assert pickle.loads(pickle.dumps(truth)).stems == truth.stems
    content = json.loads(files.panoptic_json.read_text())
    content["images"][0]["file_name"] = "city/first_leftImg8bit.png"
    files.panoptic_json.write_text(json.dumps(content))
    truth = open_truth("coco-panoptic", [files.panoptic_json, files.panoptic_pngs])
    assert truth.stems[21] == "city/first_leftImg8bit"
    with pytest.raises(UserError, match=r"folder .*nowhere does not exist"):
        open_truth("coco-panoptic", [files.panoptic_json, tmp_path / "nowhere"])


def test_cityscapes_rules_of_ids(tmp_path: Path) -> None:
    truth = open_truth("cityscapes", [formats.cityscapes(tmp_path)])
    assert truth.stems == {
        1: "aachen/aachen_000000_000019_leftImg8bit",
        2: "bonn/bonn_000001_000019_leftImg8bit",
    }
    assert truth.tasks == TASKS and truth.sizes == {1: (2, 4), 2: (2, 4)}
    first, second = truth.read(1), truth.read(2)
    assert first.ids.tolist() == [[23, 23, 26001, 26001], [7, 7, 24, 24001]]
    assert first.segments == {
        7: TruthSegment(7, 2),
        23: TruthSegment(23, 2),
        24: TruthSegment(24, 1, crowd=True),
        24001: TruthSegment(24, 1),
        26001: TruthSegment(26, 2),
    }
    assert second.ids.tolist() == [[0, 0, 29000, 29000], [7, 7, 9, 0]]
    assert pickle.loads(pickle.dumps(truth)).read(2).segments == second.segments
    truth = open_truth("cityscapes", [tmp_path / "gtFine/val"], "cityscapes-19")  # no caravan
    assert truth.read(2).ids.tolist() == [[0, 0, 0, 0], [7, 7, 0, 0]]


def test_cityscapes_label_ids_alone_answer_the_semantic_task(tmp_path: Path) -> None:
    folder = formats.cityscapes(tmp_path)
    for path in folder.rglob("*_instanceIds.png"):
        path.unlink()
    truth = open_truth("cityscapes", [folder])
    assert truth.tasks == {SEMANTIC}
    assert truth.read(1).ids.tolist() == [[23, 23, 26, 26], [7, 7, 24, 24]]
    assert truth.read(1).segments[24] == TruthSegment(24, 2)


def test_cityscapes_strange_label(tmp_path: Path) -> None:
    folder = formats.cityscapes(tmp_path)
    path = folder / "bonn" / "bonn_000001_000019_gtFine_instanceIds.png"
    formats.wide(path, [[34, 7, 7, 40000], [7, 7, 7, 7]])
    truth = open_truth("cityscapes", [folder])
    with pytest.raises(UserError, match=r"bonn_.*holds the value 34, 40000, expected Cityscapes"):
        truth.read(2)
    with pytest.raises(UserError, match=r"holds no \*_gtFine_labelIds.png: expected"):
        open_truth("cityscapes", [tmp_path / "leftImg8bit"])


def script_files(root: Path, train_ids: bool = False) -> tuple[Path, Path]:
    """Write what cityscapesscripts' createPanopticImgs makes of one photograph."""
    stem = "bonn_000001_000019"
    pngs = root / "gtFine" / "cityscapes_panoptic_val"
    write_panoptic_png(
        pngs / f"{stem}_gtFine_panoptic.png", np.array([[7, 26001, 0]], dtype=np.int32)
    )
    road, car = (0, 13) if train_ids else (7, 26)
    segments = [
        {"id": 7, "category_id": road, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0},
        {"id": 26001, "category_id": car, "area": 1, "bbox": [1, 0, 1, 1], "iscrowd": 0},
    ]
    content = {
        "images": [{"id": stem, "width": 3, "height": 1,
                    "file_name": f"{stem}_gtFine_leftImg8bit.png"}],
        "annotations": [{"image_id": stem, "file_name": f"{stem}_gtFine_panoptic.png",
                         "segments_info": segments}],
        "categories": [
            {"id": road, "name": "road", "isthing": 0, "supercategory": "flat", "color": [1, 2, 3]},
            {"id": car, "name": "car", "isthing": 1, "supercategory": "vehicle",
             "color": [0, 0, 142]},
        ],
    }  # fmt: skip
    return formats.write_json(root / "gtFine/cityscapes_panoptic_val.json", content), pngs


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes_panoptic_as_the_script_writes_it(tmp_path: Path, train_ids: bool) -> None:
    paths = script_files(tmp_path, train_ids)
    truth = open_truth("cityscapes-panoptic", paths)
    assert truth.stems == {1: "bonn/bonn_000001_000019_leftImg8bit"}
    assert sorted(truth.names.values()) == ["car", "road"] and min(truth.names) > 0
    image = open_truth("cityscapes-panoptic", paths, "cityscapes-19").read(1)
    assert {i: s.category for i, s in image.segments.items()} == {7: 7, 26001: 26}


def test_voc_objects_and_borders(tmp_path: Path) -> None:
    paths = formats.voc(tmp_path)
    truth = open_truth("voc", paths, "voc-21")
    assert truth.stems == {1: "2007_000032", 2: "2007_000033"}
    assert truth.tasks == {SEMANTIC} and truth.names[21] == "background"
    image = truth.read(1)
    assert image.ids.tolist() == [[1, 2, 2, 0, 3], [1, 1, 0, 0, 3]]
    assert image.segments == {
        1: TruthSegment(21, 3),
        2: TruthSegment(8, 2),
        3: TruthSegment(8, 2),
    }
    assert truth.names[8] == "cat" and truth.read(2).segments == {1: TruthSegment(21, 6)}
    things = open_truth("voc", paths, "voc-20")
    assert len(things.things) == 20 and not things.stuff and things.tasks == {INSTANCES}
    image = things.read(1)
    boxes = truth_instances(image.ids, image.segments, things.things, 1)
    assert [r["bbox"] for r in boxes] == [[1, 0, 2, 1], [4, 0, 1, 2]]
    with pytest.raises(
        UserError, match=r"two tasks .* \(voc-20\) or for the semantic maps \(voc-21"
    ):
        open_truth("voc", paths)


def test_voc_without_objects(tmp_path: Path) -> None:
    truth = open_truth("voc", formats.voc(tmp_path, objects=False))
    assert truth.tasks == {SEMANTIC}
    assert truth.read(1).ids.tolist() == [[21, 8, 8, 0, 8], [21, 21, 0, 0, 8]]


def test_voc_bad_files(tmp_path: Path) -> None:
    names, classes = formats.voc(tmp_path)
    formats.palette(tmp_path / "SegmentationClass/2007_000033.png", [[8, 9, 0], [0, 0, 0]])
    formats.palette(tmp_path / "SegmentationObject/2007_000033.png", [[4, 4, 0], [0, 0, 0]])
    with pytest.raises(UserError, match=r"object 4 lies on class 8 and on class 9"):
        open_truth("voc", [names, classes], "voc-21").read(2)
    formats.palette(tmp_path / "SegmentationClass/2007_000033.png", [[21, 8, 0], [0, 0, 0]])
    with pytest.raises(UserError, match=r"holds the value 21, expected 0 \(background\), 1..20"):
        open_truth("voc", [names, classes], "voc-21").read(2)
    formats.palette(tmp_path / "SegmentationObject/2007_000033.png", [[4], [4]])
    formats.palette(tmp_path / "SegmentationClass/2007_000033.png", [[0, 8, 0], [0, 0, 0]])
    with pytest.raises(UserError, match=r"is 1 x 2 pixels, .*SegmentationClass.* has 3 x 2"):
        open_truth("voc", [names, classes], "voc-21").read(2)
    names.write_text("2007_000032\n2012_000001\n")
    with pytest.raises(UserError, match=r"names 2012_000001 .*the list belongs to another folder"):
        open_truth("voc", [names, classes], "voc-21")
    names.write_text("2007_000032\n2007_000032\n")
    with pytest.raises(UserError, match=r"names 2007_000032 twice"):
        open_truth("voc", [names, classes], "voc-21")


def test_cocostuff_values_are_labels_less_one(tmp_path: Path) -> None:
    folder = formats.cocostuff(tmp_path)
    truth = open_truth("cocostuff", [folder])
    assert truth.stems == {139: "000000000139", 285: "000000000285"}  # COCO's own image ids
    assert truth.read(139).ids.tolist() == [[106, 106, 0], [1, 155, 155]]
    assert truth.names[106] == "clouds" and truth.tasks == {SEMANTIC}
    coarse = open_truth("cocostuff", [folder], "cocostuff-27")
    image = coarse.read(139)
    assert {coarse.names[s.category]: s.area for s in image.segments.values()} == {
        "person": 1,
        "sky": 2,
        "water": 2,
    }
    fine = open_truth("cocostuff", [folder], "cocostuff-171")
    assert {fine.names[s.category] for s in fine.read(285).segments.values()} == {"bear", "grass"}
    listed = tmp_path / "curated.txt"
    listed.write_text("000000000285\n")
    assert open_truth("cocostuff", [folder, listed]).stems == {285: "000000000285"}


def test_cocostuff_bad_values_and_wrong_set(tmp_path: Path) -> None:
    folder = formats.cocostuff(tmp_path)
    with pytest.raises(UserError, match=r"class 94 is 'branch', which coco-95"):
        open_truth("cocostuff", [folder], "coco-95")
    formats.grey(folder / "000000000139.png", [[182, 200], [0, 255]])
    with pytest.raises(
        UserError, match=r"000000000139.png holds the value 182, 200, expected 0..181"
    ):
        open_truth("cocostuff", [folder])
    (folder / "000000000139.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"000000000139.png: it does not begin as a PNG"):
        open_truth("cocostuff", [folder])


def test_camvid(tmp_path: Path) -> None:
    paths = formats.camvid(tmp_path)
    truth = open_truth("camvid", paths, "camvid-11")
    assert truth.stems == {1: "0016E5_07959", 2: "0016E5_07961"}
    assert [truth.names[i] for i in truth.things] == ["Car", "Pedestrian", "Bicyclist"]
    assert truth.read(1).ids.tolist() == [[1, 1], [4, 9]]
    assert truth.read(2).ids.tolist() == [[0, 4], [4, 4]]
    formats.grey(tmp_path / "val/labels/0016E5_07959.png", [[12, 0], [3, 8]])
    with pytest.raises(UserError, match=r"holds the value 12, expected 0..10 or 11 \(void\)"):
        open_truth("camvid", paths)


def test_instances_may_overlap(tmp_path: Path) -> None:
    path = formats.coco_instances(tmp_path / "uvo.json", {1: "object"})
    truth = open_truth("uvo", [path], "uvo")
    assert truth.tasks == {INSTANCES} and truth.stems == {7: "clip/0", 9: "clip/1"}
    image = truth.read(7)
    assert image.ids.shape == (4, 6) and not image.ids.any() and not image.segments
    assert image.instances is not None
    masks = coco_mask.decode([r["segmentation"] for r in image.instances])
    assert masks.sum(axis=(0, 1)).tolist() == [8, 8, 4]
    assert (masks[:, :, 0] & masks[:, :, 1]).sum() == 4
    assert [r["iscrowd"] for r in image.instances] == [0, 0, 1]
    assert [r["category_id"] for r in image.instances] == [1, 1, 1]
    assert truth.read(9).instances == []


def test_instances_of_coco_and_voc_names(tmp_path: Path) -> None:
    contiguous = {1: "person", 2: "bicycle", 80: "toothbrush"}
    path = formats.coco_instances(tmp_path / "coco.json", contiguous)
    image = open_truth("coco-instances", [path], "coco-80").read(7)
    assert image.instances is not None
    assert [r["category_id"] for r in image.instances] == [1, 90, 1]
    path = formats.coco_instances(tmp_path / "voc.json", {1: "aeroplane", 20: "tv/monitor"})
    image = open_truth("coco-instances", [path], "voc-20").read(7)
    assert image.instances is not None
    assert [r["category_id"] for r in image.instances] == [1, 20, 1]
    with pytest.raises(UserError, match=r"voc.json: class 1 is 'aeroplane', which coco-80"):
        open_truth("coco-instances", [path], "coco-80")
    with pytest.raises(UserError, match=r"answers instances, .* cocostuff-27 is for semantic"):
        open_truth("coco-instances", [tmp_path / "coco.json"], "cocostuff-27")


def test_instances_without_annotations(tmp_path: Path) -> None:
    path = formats.coco_instances(tmp_path / "x.json", {1: "object"})
    content = json.loads(path.read_text())
    formats.write_json(path, {**content, "annotations": []})
    with pytest.raises(UserError, match=r"x.json has no annotations: nothing to evaluate on"):
        open_truth("uvo", [path])


@needs_shared(*PANOPTICAPI)
def test_two_channels_hold_the_panoptic_segments_exactly() -> None:
    root = SHARED.joinpath(*PANOPTICAPI)
    panoptic = open_truth(
        "coco-panoptic", [root / "panoptic_examples.json", root / "panoptic_examples"], "coco-95"
    )
    other = open_truth(
        "coco-2channel",
        [root / "images_info_examples.json", root / "panoptic_examples_2ch_format"],
        "coco-95",
    )
    for image_id in panoptic.stems:
        sides = [truth.read(image_id) for truth in (panoptic, other)]
        first, second = (
            {(s.category, s.crowd, s.area, (image.ids == i).tobytes())
             for i, s in image.segments.items()}
            for image in sides
        )  # fmt: skip
        assert first == second and len(first) in (18, 32)


def two_channels(root: Path, rows: list[list[tuple[int, int]]]) -> list[Path]:
    pairs = np.array(rows, dtype=np.uint8)
    rgb = np.concatenate([pairs, np.zeros((*pairs.shape[:2], 1), np.uint8)], axis=2)
    formats.save(root / "2ch" / "a.png", Image.fromarray(rgb))
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 1, "width": 5}],
        "categories": [{"id": 1, "name": "person", "isthing": 1},
                       {"id": 187, "name": "sky-other-merged", "isthing": 0}],
    }  # fmt: skip
    return [formats.write_json(root / "info.json", content), root / "2ch"]


def test_two_channels_by_hand(tmp_path: Path) -> None:
    paths = two_channels(tmp_path, [[(1, 0), (1, 1), (1, 255), (187, 0), (0, 0)]])
    image = open_truth("coco-2channel", paths).read(5)
    assert image.ids.tolist() == [[1, 257, 65281, 187, 0]]
    assert image.segments == {
        1: TruthSegment(1, 1),
        187: TruthSegment(187, 1),
        257: TruthSegment(1, 1),
        65281: TruthSegment(1, 1, crowd=True),
    }
    paths = two_channels(tmp_path, [[(1, 0), (7, 1), (1, 255), (187, 0), (0, 0)]])
    with pytest.raises(UserError, match=r"a.png holds the value 7, expected in the red channel"):
        open_truth("coco-2channel", paths)
    paths = two_channels(tmp_path, [[(1, 0), (1, 1)]])
    with pytest.raises(UserError, match=r"a.png is 2 x 1 pixels"):
        open_truth("coco-2channel", paths)


def test_ids_of_the_predictions_are_taken(tmp_path: Path) -> None:
    truth = open_truth("voc", formats.voc(tmp_path), "voc-21")
    paired = paired_by_stem(truth, {40: "2007_000032"}, Path("p.json"))
    assert paired.stems == {40: "2007_000032", 41: "2007_000033"}
    assert paired.sizes == {40: (2, 5), 41: (2, 3)}
    assert paired.path(40) == truth.path(1)
    assert np.array_equal(paired.read(40).ids, truth.read(1).ids)
    same = {1: "2007_000032", 2: "2007_000033"}
    assert paired_by_stem(truth, same, Path("p.json")) is truth
    truth = open_truth("uvo", [formats.coco_instances(tmp_path / "u.json", {1: "object"})])
    image = paired_by_stem(truth, {1: "clip/0"}, Path("p.json")).read(1)
    assert image.instances is not None and {r["image_id"] for r in image.instances} == {1}


def test_names_that_do_not_meet(tmp_path: Path) -> None:
    truth = open_truth("voc", formats.voc(tmp_path), "voc-21")
    with pytest.raises(
        UserError, match=r"p.json has a prediction of cat \(and 0 more\).*2007_000032"
    ):
        paired_by_stem(truth, {1: "cat"}, Path("p.json"))
    with pytest.raises(UserError, match=r"two predictions named 2007_000032"):
        paired_by_stem(truth, {1: "2007_000032", 2: "2007_000032"}, Path("p.json"))
