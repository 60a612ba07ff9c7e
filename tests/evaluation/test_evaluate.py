"""Whole evaluation on two tiny images whose numbers follow by hand, and on COCO's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.datasets import relabelled, truth_maps, write_predictions, write_truth
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import EvalSettings
from u2seg.evaluation import GroundTruth, evaluate_folder, format_metrics
from u2seg.structures.labels import LabelSpace

SPACE = LabelSpace(num_things=3, num_stuff=2)
CLUSTERS = {1: 3, 2: 1, 3: 5, 4: 4}
"""True class -> cluster that stands for it."""
STATS = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")


def classes_of(folder: Path) -> dict[str, int]:
    """Return cluster -> class of the clusters that have one, from mapping.json."""
    mapping = json.loads((folder / "mapping.json").read_text())
    rows = {**mapping["things"], **mapping["stuff"]}
    return {k: row["class_id"] for k, row in rows.items() if row["class_id"] is not None}


def numbers(value) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("matching", ["hungarian", "majority"])
@pytest.mark.parametrize("stuff", [True, False])
def test_the_truth_under_other_ids_is_perfect(tmp_path: Path, matching: str, stuff: bool) -> None:
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE, stuff=stuff)
    metrics = evaluate_folder(folder, write_truth(tmp_path), EvalSettings(matching=matching))
    perfect = {"SQ": 100.0, "RQ": 100.0, "PQ": 100.0}
    assert metrics["panoptic"]["all"] == {**perfect, "n": 4}
    assert metrics["panoptic"]["things"] == metrics["panoptic"]["stuff"] == {**perfect, "n": 2}
    assert metrics["panoptic"]["per_class"]["cat"] == {**perfect, "tp": 3, "fp": 0, "fn": 0}
    assert metrics["semantic"]["mIoU"] == metrics["semantic"]["pixel_accuracy"] == 100.0
    for kind in ("box", "segm"):
        assert metrics["instances"][kind]["AP"] == pytest.approx(100.0)
        assert metrics["class_agnostic"][kind]["AP"] == pytest.approx(100.0)
        assert set(metrics["instances"][kind]["per_class"]) == {"cat", "dog"}
    protocol = metrics["protocol"]
    assert protocol["reference"] == str(tmp_path / "truth.json")
    assert (protocol["name"], protocol["matching"]) == ("custom", matching)
    assert protocol["mapping_fitted_on"] == "fitted on the same 2 images that are scored"
    assert protocol["mapping"]["same_images_as_scored"] is True
    assert (protocol["images"], protocol["images_without_prediction"]) == (2, 0)
    assert (protocol["unmatched"], protocol["merge_stuff"]) == ("void", True)
    assert protocol["stuff_votes_from"] == ("stuff maps" if stuff else "panoptic segments")
    assert protocol["clusters"] == {
        "things": 3, "stuff": 2, "matched_things": 2, "matched_stuff": 2,
    }  # fmt: skip
    assert protocol["classes"] == {"things": 2, "stuff": 2}
    assert classes_of(folder) == {"3": 1, "1": 2, "5": 3, "4": 4}
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def test_numbers_by_hand(tmp_path: Path) -> None:
    maps = relabelled(CLUSTERS)
    ids, segments = maps[21]
    ids[2, 2] = 111  # the cat takes one of 7 grass pixels: cat 4/5, grass 6/7
    ids[1, 4:] = 0  # the dog keeps 2 of 4 pixels: no match
    ids, segments = maps[22]
    segments[102] = 2  # the second cat's cluster has no other vote than this one for "cat"
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    metrics = evaluate_folder(folder, write_truth(tmp_path), EvalSettings())
    # votes: cluster 3 -> cat twice; cluster 2 -> cat once; cluster 1 -> dog (IoU 2/4 counts)
    assert classes_of(folder) == {"1": 2, "3": 1, "4": 4, "5": 3}
    cat = metrics["panoptic"]["per_class"]["cat"]
    # one cat 4/5, one perfect, one dropped with its cluster: missed, no false positive
    assert (cat["tp"], cat["fp"], cat["fn"]) == (2, 0, 1)
    assert cat["PQ"] == pytest.approx(100 * 1.8 / 2.5)
    dog = metrics["panoptic"]["per_class"]["dog"]
    assert (dog["tp"], dog["fp"], dog["fn"], dog["PQ"]) == (0, 1, 1, 0.0)
    grass = metrics["panoptic"]["per_class"]["grass"]
    assert grass["PQ"] == pytest.approx(100 * (6 / 7 + 1) / 2)
    all_pq = (1.8 / 2.5 + 0.0 + (6 / 7 + 1) / 2 + 1.0) / 4
    assert metrics["panoptic"]["all"]["PQ"] == pytest.approx(100 * all_pq)
    # pixels: cats 4 + 6 of 13 right, 1 wrong; dog 2 of 4; grass 22 of 23; sky 8 of 8
    iou = {k: v["IoU"] for k, v in metrics["semantic"]["per_class"].items()}
    assert iou["cat"] == pytest.approx(100 * 10 / 14)
    assert iou["dog"] == pytest.approx(50.0)
    assert iou["grass"] == pytest.approx(100 * 21 / 22)
    assert iou["sky"] == pytest.approx(100.0)
    assert metrics["semantic"]["mIoU"] == pytest.approx(np.mean(list(iou.values())))
    right, every = 10 + 2 + 21 + 8, 13 + 4 + 22 + 8
    assert metrics["semantic"]["pixel_accuracy"] == pytest.approx(100 * right / every)


def test_merge_stuff(tmp_path: Path) -> None:
    """Grass in two parts of different clusters: merged they match, apart the larger one does."""
    space = LabelSpace(num_things=3, num_stuff=3)
    maps = relabelled({1: 3, 2: 1, 3: 5, 4: 4})
    ids, segments = maps[22]
    ids[3, :] = 150
    segments[150] = 6
    folder = write_predictions(tmp_path / "p", maps, space)
    truth = write_truth(tmp_path)
    apart, merged = (
        evaluate_folder(folder, truth, EvalSettings(matching="majority", merge_stuff=m))
        for m in (False, True)
    )
    grass = merged["panoptic"]["per_class"]["grass"]
    assert (grass["tp"], grass["fp"], grass["fn"]) == (2, 0, 0)
    grass = apart["panoptic"]["per_class"]["grass"]
    assert (grass["tp"], grass["fp"], grass["fn"]) == (2, 1, 0)
    assert grass["SQ"] == pytest.approx(100 * (1 + 9 / 15) / 2)
    assert merged["semantic"] == apart["semantic"]


def test_thresholds_of_votes_and_of_instances(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE, score=0.2)
    truth = write_truth(tmp_path)
    shy = evaluate_folder(folder, truth, EvalSettings())
    assert shy["protocol"]["clusters"]["matched_things"] == 0
    assert shy["panoptic"]["things"]["PQ"] == 0.0
    assert shy["class_agnostic"]["segm"]["AP"] == pytest.approx(100.0)
    bold = evaluate_folder(folder, truth, EvalSettings(match_score=0.2, instance_score=0.21))
    assert bold["protocol"]["clusters"]["matched_things"] == 2
    assert bold["class_agnostic"]["segm"]["AP"] == 0.0


def test_identity(tmp_path: Path) -> None:
    space = LabelSpace(num_things=2, num_stuff=2)
    truth = write_truth(tmp_path)
    right = write_predictions(tmp_path / "p", truth_maps(), space)
    metrics = evaluate_folder(right, truth, EvalSettings(matching="identity"))
    assert metrics["panoptic"]["all"]["PQ"] == 100.0
    assert metrics["protocol"]["mapping_fitted_on"] == "not fitted: ids are classes"
    swapped = write_predictions(tmp_path / "q", relabelled({1: 2, 2: 1, 3: 3, 4: 4}), space)
    metrics = evaluate_folder(swapped, truth, EvalSettings(matching="identity"))
    assert metrics["panoptic"]["things"]["PQ"] == 0.0
    assert metrics["panoptic"]["stuff"]["PQ"] == 100.0


def test_identity_counts_every_predicted_stuff_segment(tmp_path: Path) -> None:
    """Grass of image 22 in two segments: one of 9 of its 15 pixels matches, the other is wrong."""
    maps = truth_maps()
    ids, segments = maps[22]
    ids[3, :] = 4
    segments[4] = 3
    folder = write_predictions(tmp_path / "p", maps, LabelSpace(num_things=2, num_stuff=2))
    settings = EvalSettings(protocol="identity", bootstrap=0)
    metrics = evaluate_folder(folder, write_truth(tmp_path), settings)
    grass = metrics["panoptic"]["per_class"]["grass"]
    assert (grass["tp"], grass["fp"], grass["fn"]) == (2, 1, 0)
    assert grass["PQ"] == pytest.approx(100 * (1 + 9 / 15) / 2.5)
    assert metrics["protocol"]["merge_stuff"] is False


def test_images_without_prediction_count_as_empty(tmp_path: Path) -> None:
    maps = relabelled(CLUSTERS)
    del maps[22]
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    metrics = evaluate_folder(folder, write_truth(tmp_path), EvalSettings())
    assert metrics["protocol"]["images_without_prediction"] == 1
    cat = metrics["panoptic"]["per_class"]["cat"]
    assert (cat["tp"], cat["fp"], cat["fn"]) == (1, 0, 2)
    assert metrics["semantic"]["per_class"]["grass"]["accuracy"] == pytest.approx(100 * 7 / 22)


def test_nothing_predicted_at_all(tmp_path: Path) -> None:
    maps = {i: (np.zeros((4, 6), np.int32), {}) for i in (21, 22)}
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    metrics = evaluate_folder(folder, write_truth(tmp_path), EvalSettings())
    assert metrics["panoptic"]["all"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "n": 4}
    assert metrics["semantic"]["mIoU"] == metrics["semantic"]["pixel_accuracy"] == 0.0
    assert [metrics["instances"]["box"][k] for k in STATS] == [0.0] * 6


def test_same_input_same_bytes_and_all_numbers_are_percentages(tmp_path: Path) -> None:
    maps = relabelled(CLUSTERS)
    maps[21][0][2, 2] = 111
    truth = write_truth(tmp_path)
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    metrics = evaluate_folder(folder, truth, EvalSettings())
    first = (folder / "metrics.json").read_bytes()
    evaluate_folder(folder, truth, EvalSettings())
    assert (folder / "metrics.json").read_bytes() == first
    values = numbers({k: v for k, v in metrics.items() if k != "protocol"})
    assert len(values) > 40 and all(0 <= v <= 100 + 1e-9 for v in values)
    assert not any(math.isnan(v) for v in values)


def test_table_shows_the_numbers(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE)
    metrics = evaluate_folder(folder, write_truth(tmp_path), EvalSettings())
    metrics["panoptic"]["things"]["PQ"] = 41.236
    metrics["semantic"]["mIoU"] = None
    lines = format_metrics(metrics).splitlines()
    assert lines[0] == (
        f"2 images; compared with {metrics['protocol']['reference']}; protocol custom, hungarian "
        "matching, fitted on the same 2 images that are scored: 2 of 3 thing clusters to 2 "
        "classes, 2 of 2 stuff clusters to 2"
    )
    assert metrics["protocol"]["reference"] == str(tmp_path / "truth.json")
    assert [line.split() for line in lines if line.startswith("things")] == [
        ["things", "41.24", "100.00", "100.00", "2"]
    ]
    assert ["all", "-", "100.00"] in [line.split() for line in lines]
    assert any(line.startswith("class_agnostic segm") for line in lines)
    assert "dog" not in format_metrics(metrics)
    with_classes = format_metrics(metrics, per_class=True).splitlines()
    assert with_classes[-3].split()[0] == "dog" and with_classes[-1].split()[-1] == "-"


@pytest.mark.shared
@needs_shared("golden", "pq")
def test_coco_predictions_score_as_in_panopticapi(tmp_path: Path) -> None:
    golden = SHARED / "golden" / "pq"
    truth = json.loads((golden / "coco_gt.json").read_text())
    keep = sorted(a["image_id"] for a in truth["annotations"])[:30]
    for part in ("images", "annotations"):
        key = "id" if part == "images" else "image_id"
        truth[part] = [entry for entry in truth[part] if entry[key] in keep]
    predicted = json.loads((golden / "coco_pred.json").read_text())
    predicted["annotations"] = [a for a in predicted["annotations"] if a["image_id"] in keep]
    predicted |= {"images": truth["images"], "categories": truth["categories"]}
    folder = tmp_path / "p"
    folder.mkdir()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (folder / "panoptic.json").write_text(json.dumps(predicted))
    (folder / "panoptic").symlink_to(golden / "coco_pred")
    (folder / "instances.json").write_text("[]")
    metrics = evaluate_folder(
        folder,
        GroundTruth(tmp_path / "truth.json", golden / "coco_gt"),
        EvalSettings(protocol="identity"),
    )
    expected = json.loads((golden / "expected_pq.json").read_text())["coco_pred_first30"]
    for part, name in (("all", "All"), ("things", "Things"), ("stuff", "Stuff")):
        assert metrics["panoptic"][part]["n"] == expected[name]["n"]
        for key in ("PQ", "SQ", "RQ"):
            want = 100 * expected[name][key.lower()]
            assert metrics["panoptic"][part][key] == pytest.approx(want, abs=1e-10)


@pytest.mark.shared
@needs_shared("golden", "coco_eval")
@needs_shared("golden", "pq")
def test_coco_instances_score_as_in_pycocotools(tmp_path: Path) -> None:
    """True masks come from the panoptic PNGs, crowds too; one image has 142 detections."""
    golden = SHARED / "golden"
    truth = json.loads((golden / "pq" / "coco_gt.json").read_text())
    content = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    results = (golden / "coco_eval" / "results.json").read_text()
    (tmp_path / "instances.json").write_text(results)
    metrics = evaluate_folder(
        tmp_path,
        GroundTruth(golden / "pq" / "coco_gt.json", golden / "pq" / "coco_gt"),
        EvalSettings(protocol="identity", bootstrap=0),
    )
    expected = json.loads((golden / "coco_eval" / "expected_cocoeval.json").read_text())
    for kind, name in (("box", "bbox"), ("segm", "segm")):
        for key in STATS:
            want = pytest.approx(100 * expected[name]["stats"][key], abs=1e-10, rel=0)
            assert metrics["instances"][kind][key] == want
            agnostic = expected[f"{name}_class_agnostic_useCats0"]["stats"][key]
            want = pytest.approx(100 * agnostic, abs=1e-10, rel=0)
            assert metrics["class_agnostic"][kind][key] == want
