"""Evaluation over class sets and formats, from files to figures, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation import formats
from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.shared import SHARED, needs_shared
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder, format_metrics
from u2seg.evaluation.protocols.rules import protocol_of
from u2seg.evaluation.protocols.task_rules import rule_for, truth_words
from u2seg.evaluation.truth.formats import open_truth, scored_truth
from u2seg.io.png import write_panoptic_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask, mask_box

Maps = dict[str, list[list[int]]]
"""Name of the photograph -> map of category ids of clusters, a segment each."""
PLAIN = EvalSettings(bootstrap=0)


def result_folder(folder: Path, maps: Maps, space: LabelSpace, first: int = 1) -> Path:
    """Write predictions in which each category of an image is one segment."""
    images, annotations, instances = [], [], []
    for number, (stem, rows) in enumerate(maps.items(), start=first):
        ids = np.array(rows, dtype=np.int32)
        write_panoptic_png(folder / "panoptic" / f"{stem}.png", ids)
        height, width = ids.shape
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": height, "width": width})
        segments = []
        for category in sorted(set(ids[ids > 0].tolist())):
            mask = ids == category
            segments.append(
                {"id": category, "category_id": category, "area": int(mask.sum()), "iscrowd": 0,
                 "bbox": list(mask_box(mask))}
            )  # fmt: skip
            if space.is_thing(category):
                instances.append(InstanceMask.from_array(mask, 0.9).to_result(number, category))
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    content: dict[str, Any] = {"images": images, "annotations": annotations}
    formats.write_json(folder / "panoptic.json", {**content, "categories": space.categories()})
    formats.write_json(folder / "instances.json", instances)
    formats.write_json(folder / "labelspace.json", space.to_json())
    return folder


def test_semantic_truth_matches_every_cluster_to_every_class(tmp_path: Path) -> None:
    """A thing cluster may be the sky and a stuff cluster a car.

    Clusters 1, 2 are things, 3 is stuff. Pixels: 1 on Sky 2; 3 on Road 1 + 2, on Car 1; 2 on
    Road 1. One to one: 1 -> Sky, 3 -> Road, 2 would be Road too and is left without a class.
    """
    paths = formats.camvid(tmp_path)
    maps = {"0016E5_07959": [[1, 1], [3, 3]], "0016E5_07961": [[1, 2], [3, 3]]}
    folder = result_folder(tmp_path / "p", maps, LabelSpace(num_things=2, num_stuff=1), first=40)
    truth = scored_truth("camvid", paths, EvalSettings(classes="camvid-11"), folder)
    assert truth.stems == {40: "0016E5_07959", 41: "0016E5_07961"}
    metrics = evaluate_folder(folder, truth, PLAIN)
    mapping = json.loads((folder / "mapping.json").read_text())
    assert mapping["things"]["1"]["class_name"] == "Sky"
    assert mapping["things"]["2"]["class_name"] is None
    assert mapping["stuff"]["3"]["class_name"] == "Road"
    assert metrics["panoptic"] is None and metrics["instances"] is None
    rows = metrics["semantic"]["per_class"]
    # Sky 2 of 2; Road: hits 3, true 4, predicted 4 (one on the car): 3 / 5; Car 0
    assert (rows["Sky"]["IoU"], rows["Road"]["IoU"], rows["Car"]["IoU"]) == (100.0, 60.0, 0.0)
    assert metrics["semantic"]["mIoU"] == pytest.approx(160 / 3)
    assert metrics["semantic"]["pixel_accuracy"] == pytest.approx(100 * 5 / 7)
    protocol = metrics["protocol"]
    assert protocol["class_set"] == "camvid-11" and protocol["apart"] is False
    assert "all clusters to all classes, by pixels" in protocol["note"]
    majority = evaluate_folder(folder, truth, EvalSettings(matching="majority", bootstrap=0))
    assert majority["semantic"]["per_class"]["Road"]["IoU"] == 80.0
    head = format_metrics(metrics).splitlines()[0]
    assert "classes of camvid-11; protocol custom" in head
    assert "1 of 2 thing clusters and 1 of 1 stuff clusters to 11 classes" in head
    again = evaluate_folder(folder, truth, PLAIN, folder / "mapping.json")
    assert again["semantic"]["per_class"]["Road"]["IoU"] == 80.0


def test_sixteen_classes_things_are_one_by_definition(tmp_path: Path) -> None:
    """Both thing clusters are things, though one to one only one could be; stuff is matched."""
    files = write_truth(tmp_path)
    content = json.loads(files.panoptic_json.read_text())
    for row, name in zip(content["categories"], ("cat", "dog", "grass-merged", "sea"), strict=True):
        row["name"] = name
    files.panoptic_json.write_text(json.dumps(content))
    space = LabelSpace(num_things=3, num_stuff=2)
    folder = write_predictions(tmp_path / "p", relabelled({1: 3, 2: 1, 3: 5, 4: 4}), space)
    paths = [files.panoptic_json, files.panoptic_pngs]
    truth = scored_truth("coco-panoptic", paths, EvalSettings(classes="coco-16"), folder)
    metrics = evaluate_folder(folder, truth, PLAIN)
    mapping = json.loads((folder / "mapping.json").read_text())
    assert {row["class_name"] for row in mapping["things"].values()} == {"things"}
    # cats have 13 pixels, the dog 4; cluster 2 none
    assert {k: (r["votes"], r["IoU"]) for k, r in mapping["things"].items()} == {
        "1": (0, pytest.approx(100 * 4 / 17)), "2": (0, 0.0), "3": (0, pytest.approx(1300 / 17)),
    }  # fmt: skip
    assert metrics["protocol"]["things"] == {"votes": "none"}
    assert mapping["stuff"]["5"]["class_name"] == "plant"
    assert mapping["stuff"]["4"]["class_name"] == "water"
    assert metrics["semantic"]["mIoU"] == 100.0
    assert metrics["protocol"]["class_set"] == "coco-16"
    assert metrics["panoptic"] is None


def test_95_classes_merged_and_not(tmp_path: Path) -> None:
    """A river and a sea predicted as one water: unmatched as two, matched as one."""
    paths = river_and_sea(tmp_path)
    folder = result_folder(tmp_path / "p", {"a": [[2, 2, 2, 2]]}, LabelSpace(1, 1))
    scores = {}
    for merged in (False, True):
        settings = EvalSettings(classes="coco-95", merge_true_stuff=merged, bootstrap=0)
        truth = scored_truth("coco-panoptic", paths, settings, folder)
        metrics = evaluate_folder(folder, truth, settings)
        scores[merged] = metrics["panoptic"]["all"]["PQ"]
        assert metrics["protocol"]["merge_true_stuff"] is merged
        both = metrics["stuff_merging"]
        if merged:
            assert both is None  # what was merged cannot be told apart again
        else:
            assert both["neither"]["all"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "n": 1}
            assert both["both"]["stuff"] == {"PQ": 100.0, "SQ": 100.0, "RQ": 100.0, "n": 1}
            lines = [line.split() for line in format_metrics(metrics).splitlines()]
            assert ["merged,", "all", "100.00", "100.00", "100.00", "1"] in lines
            assert ["as", "they", "are,", "stuff", "0.00", "0.00", "0.00", "1"] in lines
        assert metrics["semantic"]["mIoU"] == 100.0
    assert scores == {False: 0.0, True: 100.0}


def river_and_sea(root: Path) -> list[Path]:
    """Write a truth of two pixels of river and two of sea: both are water in coco-95."""
    write_panoptic_png(root / "truth" / "a.png", np.array([[1, 1, 2, 2]], dtype=np.int32))
    segments = [
        {"id": i, "category_id": c, "area": 2, "bbox": [0, 0, 2, 1], "iscrowd": 0}
        for i, c in ((1, 148), (2, 155))
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 1, "width": 4}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 148, "name": "river", "isthing": 0},
                       {"id": 155, "name": "sea", "isthing": 0}],
    }  # fmt: skip
    return [formats.write_json(root / "t.json", content), root / "truth"]


@pytest.mark.parametrize("protocol", ["cups", "u2seg-released"])
@pytest.mark.parametrize("merged", [False, True])
def test_stuff_is_merged_on_both_sides_or_on_neither(
    tmp_path: Path, protocol: str, merged: bool
) -> None:
    """River and sea as in the truth are right: one of the two merged alone would match nothing."""
    paths = river_and_sea(tmp_path)
    folder = result_folder(tmp_path / "p", {"a": [[2, 2, 3, 3]]}, LabelSpace(1, 2))
    settings = EvalSettings(
        protocol=protocol, classes="coco-95", merge_true_stuff=merged, bootstrap=0
    )
    truth = scored_truth("coco-panoptic", paths, settings, folder)
    metrics = evaluate_folder(folder, truth, settings)
    assert metrics["panoptic"]["stuff"]["PQ"] == 100.0
    assert metrics["protocol"]["merge_stuff"] is merged
    if not merged:
        assert metrics["stuff_merging"]["neither"]["all"] == metrics["panoptic"]["all"]
    own = scored_truth("coco-panoptic", paths, EvalSettings(), folder)
    metrics = evaluate_folder(folder, own, EvalSettings(protocol=protocol, bootstrap=0))
    assert metrics["protocol"]["merge_stuff"] is (protocol == "cups")


def test_why_a_truth_is_scored_by_pixels_alone(tmp_path: Path) -> None:
    paths, rule = river_and_sea(tmp_path), protocol_of(PLAIN, 3)
    for settings, why in (
        (EvalSettings(classes="cocostuff-27"), "cocostuff-27 is a set for semantic maps"),
        (EvalSettings(crop=1), "a crop is scored as a semantic map"),
    ):
        note = rule_for(rule, scored_truth("coco-panoptic", paths, settings)).note
        assert note.endswith(f"all clusters to all classes, by pixels: {why}")
    own = open_truth("camvid", formats.camvid(tmp_path / "camvid"))
    assert rule_for(rule, own).note.endswith("by pixels: no panoptic truth")


@needs_shared("data", "coco_train128", "panoptic_train2017.json")
def test_merging_tables_is_merging_maps(tmp_path: Path) -> None:
    """On real photographs: PQ of merged tables is that of merged maps, to the last bit."""
    root = SHARED / "data" / "coco_train128"
    files = [root / "panoptic_train2017.json", root / "panoptic_train2017"]
    content = json.loads(files[0].read_text())
    content["annotations"] = content["annotations"][:6]
    paths = [formats.write_json(tmp_path / "t.json", content), files[1]]
    plain = open_truth("coco-panoptic", paths)
    space = LabelSpace(len(plain.things), len(plain.stuff))
    order = {c: n for n, c in enumerate((*plain.things, *plain.stuff), start=1)}
    maps = {}
    for image_id, stem in plain.stems.items():
        image = plain.read(image_id)
        guess = np.zeros_like(image.ids)
        for identity, segment in image.segments.items():
            guess[image.ids == identity] = order[segment.category]
        maps[stem] = np.roll(guess, 20, axis=1).tolist()
    folder = result_folder(tmp_path / "p", maps, space)
    numbered = json.loads((folder / "panoptic.json").read_text())
    ids = dict(enumerate(plain.stems, start=1))
    for row in numbered["images"]:
        row["id"] = ids[row["id"]]
    for row in numbered["annotations"]:
        row["image_id"] = ids[row["image_id"]]
    formats.write_json(folder / "panoptic.json", numbered)
    formats.write_json(folder / "instances.json", [])
    scores = []
    for merged in (False, True):
        settings = EvalSettings(
            classes="coco-95", merge_true_stuff=merged, merge_stuff=merged, thing_votes="pixels",
            matching="majority", bootstrap=0,
        )  # fmt: skip
        truth = scored_truth("coco-panoptic", paths, settings, folder)
        scores.append(evaluate_folder(folder, truth, settings))
    for part in ("all", "things", "stuff"):
        assert scores[0]["stuff_merging"]["neither"][part] == scores[0]["panoptic"][part]
        assert scores[0]["stuff_merging"]["both"][part] == scores[1]["panoptic"][part]
    assert 0 < scores[0]["panoptic"]["stuff"]["PQ"] < scores[1]["panoptic"]["stuff"]["PQ"]


def test_uvo_every_thing_is_an_object(tmp_path: Path) -> None:
    """Two clusters find the two overlapping objects: class-aware AP is the class-agnostic one."""
    path = formats.coco_instances(tmp_path / "uvo.json", {1: "object"})
    rows = [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6, [0] * 6]
    folder = result_folder(tmp_path / "p", {"clip/0": rows}, LabelSpace(2, 1), first=7)
    found = [
        InstanceMask.from_array(np.pad(np.ones(s, bool), p), 0.9).to_result(7, c)
        for s, p, c in (((2, 4), ((0, 2), (0, 2)), 1), ((4, 2), ((0, 0), (2, 2)), 2))
    ]
    formats.write_json(folder / "instances.json", found)
    truth = scored_truth("uvo", [path], EvalSettings(classes="uvo"), folder)
    metrics = evaluate_folder(folder, truth, PLAIN)
    assert metrics["semantic"] is None and metrics["panoptic"] is None
    for kind in ("box", "segm"):
        assert metrics["class_agnostic"][kind]["AP"] == pytest.approx(100.0)
        assert metrics["instances"][kind]["AP"] == pytest.approx(100.0)


def test_voc_instances_and_semantic_maps(tmp_path: Path) -> None:
    """Two cats by one thing cluster; the background by a stuff cluster."""
    paths = formats.voc(tmp_path)
    maps = {
        "2007_000032": [[3, 1, 1, 3, 2], [3, 3, 3, 3, 2]],
        "2007_000033": [[3, 3, 3], [3, 3, 3]],
    }
    folder = result_folder(tmp_path / "p", maps, LabelSpace(2, 1))
    truth = scored_truth("voc", paths, EvalSettings(classes="voc-20"), folder)
    metrics = evaluate_folder(folder, truth, EvalSettings(matching="majority", bootstrap=0))
    assert metrics["instances"]["segm"]["AP"] == pytest.approx(100.0)
    assert metrics["semantic"] is None
    truth = scored_truth("voc", paths, EvalSettings(classes="voc-21"), folder)
    metrics = evaluate_folder(folder, truth, EvalSettings(matching="majority", bootstrap=0))
    assert metrics["semantic"]["mIoU"] == 100.0 and metrics["instances"] is None


def test_cityscapes_panoptic_quality(tmp_path: Path) -> None:
    """Photographs in folders of cities; a crowd of people is forgiven."""
    folder = formats.cityscapes(tmp_path)
    names = sorted(p.relative_to(tmp_path / "leftImg8bit/val").with_suffix("").as_posix()
                   for p in (tmp_path / "leftImg8bit/val").rglob("*.png"))  # fmt: skip
    # 1 person, 2 car; 3 road, 4 sky
    maps = {names[0]: [[4, 4, 2, 2], [3, 3, 1, 1]], names[1]: [[0, 0, 0, 0], [3, 3, 0, 0]]}
    result = result_folder(tmp_path / "p", maps, LabelSpace(2, 2))
    settings = EvalSettings(classes="cityscapes-19", bootstrap=0)
    metrics = evaluate_folder(
        result, scored_truth("cityscapes", [folder], settings, result), settings
    )
    rows = metrics["panoptic"]["per_class"]
    assert rows["car"]["PQ"] == rows["road"]["PQ"] == rows["sky"]["PQ"] == 100.0
    assert metrics["panoptic"]["things"]["n"] == 2
    assert metrics["protocol"]["classes"] == {"things": 8, "stuff": 11}


def test_crop_of_the_semantic_evaluation(tmp_path: Path) -> None:
    """139 is 2 x 3: the square of side 2 leaves the last column out, and its error with it."""
    folder = formats.cocostuff(tmp_path)
    maps = {"000000000139": [[2, 2, 1], [1, 3, 1]], "000000000285": [[4, 4], [5, 5]]}
    result = result_folder(tmp_path / "p", maps, LabelSpace(1, 4))
    scores = {}
    for crop in (0, 2):
        settings = EvalSettings(classes="cocostuff-27", crop=crop, bootstrap=0)
        truth = scored_truth("cocostuff", [folder], settings, result)
        metrics = evaluate_folder(result, truth, settings)
        assert metrics["protocol"]["crop"] == crop
        scores[crop] = metrics["semantic"]["pixel_accuracy"]
    assert scores == {0: pytest.approx(100 * 8 / 9), 2: 100.0}


def test_rules_stay_where_there_is_a_panoptic_truth(tmp_path: Path) -> None:
    files = write_truth(tmp_path)
    truth = open_truth("coco-panoptic", [files.panoptic_json, files.panoptic_pngs])
    rule = protocol_of(PLAIN, 3)
    assert rule_for(rule, truth) is rule
    assert truth_words(truth) == {"class_set": "truth", "merge_true_stuff": False, "crop": 0}


def test_pixels_cannot_vote_where_there_are_instances_alone(tmp_path: Path) -> None:
    path = formats.coco_instances(tmp_path / "uvo.json", {1: "object"})
    truth = open_truth("uvo", [path])
    rule = rule_for(protocol_of(EvalSettings(protocol="cups"), 3), truth)
    assert rule.things.votes == "instances" and rule.matching == "hungarian+majority"
    assert "instances alone are scored" in rule.note
    released = protocol_of(EvalSettings(protocol="u2seg-released"), 3)
    assert rule_for(released, truth) is released
    object_set = rule_for(rule, open_truth("uvo", [path], "uvo"))
    assert object_set.things.votes == "none" and object_set.in_words()[1] == "none"


def test_predictions_of_other_photographs_are_refused(tmp_path: Path) -> None:
    paths = formats.camvid(tmp_path)
    folder = result_folder(tmp_path / "p", {"street": [[1]]}, LabelSpace(1, 1))
    with pytest.raises(
        UserError, match=r"has a prediction of street .*first image is 0016E5_07959"
    ):
        scored_truth("camvid", paths, EvalSettings(classes="camvid-11"), folder)
    folder = result_folder(tmp_path / "q", {"0016E5_07959": [[2, 2, 2]]}, LabelSpace(1, 1))
    truth = scored_truth("camvid", paths, EvalSettings(classes="camvid-11"), folder)
    with pytest.raises(UserError, match=r"is 3 x 1 pixels, the true map has 2 x 2"):
        evaluate_folder(folder, truth, PLAIN)


def test_a_true_map_of_another_size_is_refused_before_any_map_is_read(tmp_path: Path) -> None:
    files = write_truth(tmp_path)
    content = json.loads(files.panoptic_json.read_text())
    for row, name in zip(content["categories"], ("cat", "dog", "grass-merged", "sea"), strict=True):
        row["name"] = name
    files.panoptic_json.write_text(json.dumps(content))
    space = LabelSpace(num_things=3, num_stuff=2)
    folder = write_predictions(tmp_path / "p", relabelled({1: 3, 2: 1, 3: 5, 4: 4}), space)
    paths = [files.panoptic_json, files.panoptic_pngs]
    truth = scored_truth("coco-panoptic", paths, EvalSettings(classes="coco-95"), folder)
    write_panoptic_png(files.panoptic_pngs / "second.png", np.ones((2, 3), dtype=np.int32))
    with pytest.raises(UserError, match=r"second.png is 3 x 2 pixels, .*truth.json declares 6 x 4"):
        evaluate_folder(folder, truth, PLAIN)
