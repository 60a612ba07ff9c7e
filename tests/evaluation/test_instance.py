"""AP and AR: by hand, and pycocotools run the usual way."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.evaluation.metrics.instance import instance_metrics, truth_instances
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.structures.masks import decode_mask, encode_mask

GOLDEN = SHARED / "golden" / "coco_eval"
STATS = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")
SIZES = tuple(f"{key}_{size}" for key in ("AP", "AR") for size in ("small", "medium", "large"))


def record(image_id: int, category: int, columns: slice, score: float | None = None) -> dict:
    mask = np.zeros((10, 20), dtype=bool)
    mask[:, columns] = True
    width = columns.stop - columns.start
    common = {
        "image_id": image_id,
        "category_id": category,
        "segmentation": encode_mask(mask),
        "bbox": [columns.start, 0, width, 10],
    }
    if score is None:
        return {**common, "area": 10 * width, "iscrowd": 0}
    return {**common, "score": score}


@pytest.mark.parametrize("kind", ["box", "segm"])
def test_one_of_two_instances_found(kind: str) -> None:
    truth = [record(1, 7, slice(0, 10)), record(1, 7, slice(10, 20))]
    # IoU 8/10: right up to the threshold 0.8, i.e. at 7 of the 10 thresholds
    results = [record(1, 7, slice(0, 8), 0.9)]
    metrics = instance_metrics(truth, results, [1], kind)
    recalled = 51 / 101  # precision 1 at the recall points 0, 0.01, ..., 0.5
    assert metrics["AP50"] == pytest.approx(100 * recalled)
    assert metrics["AP75"] == pytest.approx(100 * recalled)
    assert metrics["AP"] == pytest.approx(70 * recalled)
    assert metrics["AR100"] == metrics["AR1"] == pytest.approx(35.0)


def test_per_class_and_class_agnostic() -> None:
    truth = [record(1, 7, slice(0, 10)), record(1, 8, slice(10, 20))]
    results = [record(1, 7, slice(0, 10), 0.9), record(1, 7, slice(10, 20), 0.8)]
    aware = instance_metrics(truth, results, [1], "segm", classes=[7, 8, 9])
    assert aware["per_class"][7] == pytest.approx({"AP": 100.0, "AP50": 100.0, "AR100": 100.0})
    assert aware["per_class"][8] == {"AP": 0.0, "AP50": 0.0, "AR100": 0.0}
    assert aware["per_class"][9] == {"AP": None, "AP50": None, "AR100": None}
    assert aware["AP"] == pytest.approx(50.0)
    agnostic = instance_metrics(truth, results, [1], "segm")
    assert agnostic["AP"] == pytest.approx(100.0)
    assert agnostic["AR1"] == pytest.approx(50.0)
    assert "per_class" not in agnostic


def test_a_detection_on_an_image_without_instances_lowers_precision() -> None:
    truth = [record(1, 7, slice(0, 10))]
    results = [record(2, 7, slice(0, 10), 0.9), record(1, 7, slice(0, 10), 0.8)]
    assert instance_metrics(truth, results, [1, 2], "box")["AP"] == pytest.approx(50.0)


def test_crowds_forgive() -> None:
    crowd = {**record(1, 7, slice(10, 20)), "iscrowd": 1}
    truth = [record(1, 7, slice(0, 10)), crowd]
    results = [record(1, 7, slice(12, 15), 0.9), record(1, 7, slice(0, 10), 0.8)]
    assert instance_metrics(truth, results, [1], "segm")["AP"] == pytest.approx(100.0)


def test_no_truth_is_none_and_no_detection_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    empty = instance_metrics([], [record(1, 7, slice(0, 5), 0.5)], [1], "box", [7])
    assert all(empty[k] is None for k in STATS)
    missed = instance_metrics([record(1, 7, slice(0, 5))], [], [1], "box", [7])
    assert [missed[k] for k in STATS] == [0.0] * 6
    assert capsys.readouterr().out == ""


def test_input_is_not_modified_and_order_does_not_matter() -> None:
    truth = [record(1, 7, slice(0, 10)), record(2, 7, slice(3, 9))]
    results = [record(2, 7, slice(3, 8), 0.4), record(1, 7, slice(0, 9), 0.9)]
    before = copy.deepcopy((truth, results))
    first = instance_metrics(truth, results, [1, 2], "segm")
    assert (truth, results) == before
    assert instance_metrics(truth[::-1], results[::-1], [2, 1], "segm") == first


def test_recall_by_the_true_area() -> None:
    """32^2 is still small, 96^2 medium (COCO's limits include both ends)."""

    def square(image_id: int, side: int, score: float | None = None) -> dict:
        mask = np.zeros((100, 100), dtype=bool)
        mask[:side, :side] = True
        row = {"image_id": image_id, "category_id": 1, "segmentation": encode_mask(mask)}
        more = {"area": side * side, "bbox": [0, 0, side, side], "iscrowd": 0}
        return {**row, **(more if score is None else {"score": score})}

    truth = [square(1, 20), square(2, 30), square(3, 40), square(4, 98)]
    results = [square(1, 20, 0.9), square(4, 98, 0.8)]
    metrics = instance_metrics(truth, results, [1, 2, 3, 4], "segm", by_size=True)
    assert metrics["AR100"] == pytest.approx(50.0)
    found = [metrics[k] for k in ("AR_small", "AR_medium", "AR_large")]
    assert found == pytest.approx([50.0, 0.0, 100.0])
    only_large = instance_metrics(truth[3:], results, [4], "segm", by_size=True)
    assert only_large["AR_small"] is None
    assert "AR_small" not in instance_metrics(truth, results, [1, 2, 3, 4], "segm")


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'mask', expected one of box, segm"):
        instance_metrics([], [], [], "mask")


def test_truth_instances_are_the_thing_segments() -> None:
    ids = np.array([[1, 1, 2], [0, 3, 3]], dtype=np.int32)
    segments = {
        1: TruthSegment(4, 2),
        2: TruthSegment(9, 1),
        3: TruthSegment(4, 2, crowd=True),
        5: TruthSegment(4, 1),  # no pixel
    }
    records = truth_instances(ids, segments, [4], 77)
    assert [(r["area"], r["bbox"], r["iscrowd"]) for r in records] == [
        (2, [0.0, 0.0, 2.0, 1.0], 0),
        (2, [1.0, 1.0, 2.0, 1.0], 1),
    ]
    assert {r["image_id"] for r in records} == {77}
    np.testing.assert_array_equal(decode_mask(records[1]["segmentation"]), ids == 3)


@pytest.mark.shared
@needs_shared("golden", "coco_eval")
@pytest.mark.parametrize(("kind", "name"), [("box", "bbox"), ("segm", "segm")])
def test_equals_pycocotools(kind: str, name: str) -> None:
    expected = json.loads((GOLDEN / "expected_cocoeval.json").read_text())
    gt = json.loads((GOLDEN / "gt.json").read_text())
    results = json.loads((GOLDEN / "results.json").read_text())
    images = [image["id"] for image in gt["images"]]
    classes = [category["id"] for category in gt["categories"]]
    parts = {
        name: instance_metrics(gt["annotations"], results, images, kind, classes, by_size=True),
        f"{name}_class_agnostic_useCats0": instance_metrics(
            gt["annotations"], results, images, kind, by_size=True
        ),
    }
    for part, found in parts.items():
        for key in STATS + SIZES:
            upstream = key.replace("_small", "s").replace("_medium", "m").replace("_large", "l")
            want = expected[part]["stats"][upstream]
            assert found[key] == pytest.approx(100 * want, abs=1e-10, rel=0), (part, key)
    plain = instance_metrics(gt["annotations"], results, images, kind, classes)
    assert plain == {key: value for key, value in parts[name].items() if key not in SIZES}
    classes_found = parts[name]["per_class"]
    assert len(classes_found) == len(expected[name]["per_class"])
    for category, row in expected[name]["per_class"].items():
        for key, value in row.items():
            want = None if value is None else pytest.approx(100 * value, abs=1e-10, rel=0)
            assert classes_found[int(category)][key] == want, (category, key)
