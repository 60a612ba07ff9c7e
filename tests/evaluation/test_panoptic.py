"""Panoptic quality: every rule by hand, and panopticapi's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.evaluation.metrics.overlap import count_overlaps
from u2seg.evaluation.metrics.panoptic import ClassCounts, TruthSegment, count_matches, mean_quality
from u2seg.io.png import read_panoptic_png

GOLDEN = SHARED / "golden" / "pq"


def score(
    truth: list[int],
    predicted: list[int],
    segments: dict[int, TruthSegment],
    classes: dict[int, int],
) -> dict[int, tuple[float, int, int, int]]:
    table = count_overlaps(np.array([truth]), np.array([predicted]))
    counts = count_matches(table, segments, classes)
    return {c: (v.iou, v.tp, v.fp, v.fn) for c, v in counts.items()}


def test_half_is_not_a_match() -> None:
    # truth 4 pixels, prediction 2 of them: IoU 2/4
    found = score([1] * 4, [5, 5, 0, 0], {1: TruthSegment(3, 4)}, {5: 3})
    assert found == {3: (0.0, 0, 1, 1)}
    found = score([1] * 3, [5, 5, 0], {1: TruthSegment(3, 3)}, {5: 3})
    assert found == {3: (2 / 3, 1, 0, 0)}


def test_equal_pixels_of_another_class_do_not_match() -> None:
    found = score([1, 1], [5, 5], {1: TruthSegment(3, 2)}, {5: 4})
    assert found == {3: (0.0, 0, 0, 1), 4: (0.0, 0, 1, 0)}


def test_void_leaves_the_union() -> None:
    # prediction covers the 2 true pixels and 4 of void: IoU 2 / (6 + 2 - 2 - 4) = 1
    found = score([1, 1, 0, 0, 0, 0], [5] * 6, {1: TruthSegment(3, 2)}, {5: 3})
    assert found == {3: (1.0, 1, 0, 0)}


def test_a_prediction_mostly_on_void_is_forgiven() -> None:
    assert score([0, 0, 1], [5, 5, 5], {1: TruthSegment(3, 1)}, {5: 4}) == {3: (0.0, 0, 0, 1)}
    half = score([0, 1], [5, 5], {1: TruthSegment(3, 1)}, {5: 4})
    assert half == {3: (0.0, 0, 0, 1), 4: (0.0, 0, 1, 0)}  # exactly half is not forgiven


def test_crowds_neither_match_nor_are_missed_and_forgive_their_own_class() -> None:
    crowd = {1: TruthSegment(3, 3, crowd=True)}
    assert score([1, 1, 1], [5, 5, 5], crowd, {5: 3}) == {}
    assert score([1, 1, 1], [5, 5, 5], crowd, {5: 4}) == {4: (0.0, 0, 1, 0)}
    # void and crowd add up: 1 + 1 of 3 pixels
    both = {1: TruthSegment(3, 1, crowd=True), 2: TruthSegment(8, 1)}
    assert score([0, 1, 2], [5, 5, 5], both, {5: 3}) == {8: (0.0, 0, 0, 1)}


def test_of_two_crowds_of_a_class_the_last_one_forgives() -> None:
    crowds = {1: TruthSegment(3, 2, crowd=True), 2: TruthSegment(3, 2, crowd=True)}
    found = score([1, 1, 2, 2], [5, 5, 6, 6], crowds, {5: 3, 6: 3})
    assert found == {3: (0.0, 0, 1, 0)}


def test_area_of_the_truth_is_the_one_in_the_json() -> None:
    found = score([1, 1], [5, 5], {1: TruthSegment(3, 4)}, {5: 3})
    assert found == {3: (0.0, 0, 1, 1)}


def test_quality_and_means_by_hand() -> None:
    assert ClassCounts(iou=1.6, tp=2, fp=1, fn=3).quality() == (0.4, 0.8, 0.5)
    assert ClassCounts(fp=2).quality() == (0.0, 0.0, 0.0)
    counts = {1: ClassCounts(iou=0.8, tp=1, fp=2), 2: ClassCounts(fp=1), 4: ClassCounts()}
    mean = mean_quality(counts, [1, 2, 3, 4])
    assert mean == {"PQ": 20.0, "SQ": 40.0, "RQ": 25.0, "n": 2}
    assert mean_quality(counts, [3, 4]) == {"PQ": None, "SQ": None, "RQ": None, "n": 0}


def golden_counts(truth: str, predicted: str, image_ids: list[int] | None = None) -> dict:
    def annotations(name: str) -> dict[int, dict]:
        content = json.loads((GOLDEN / f"{name}.json").read_text())
        return {a["image_id"]: a for a in content["annotations"]}

    def ids(name: str, annotation: dict) -> np.ndarray:
        return read_panoptic_png(Path(GOLDEN / name / annotation["file_name"]))

    total: dict[int, ClassCounts] = {}
    guesses = annotations(predicted)
    for image_id, true in sorted(annotations(truth).items()):
        if image_ids is not None and image_id not in image_ids:
            continue
        guess = guesses[image_id]
        counts = count_matches(
            count_overlaps(ids(truth, true), ids(predicted, guess)),
            {
                s["id"]: TruthSegment(s["category_id"], s["area"], bool(s["iscrowd"]))
                for s in true["segments_info"]
            },
            {s["id"]: s["category_id"] for s in guess["segments_info"]},
        )
        for category, row in counts.items():
            total.setdefault(category, ClassCounts()).add(row)
    return total


def check_against(expected: dict, counts: dict[int, ClassCounts], things: set[int]) -> None:
    for category, want in expected["counts"].items():
        row = counts.get(int(category), ClassCounts())
        assert (row.tp, row.fp, row.fn) == (want["tp"], want["fp"], want["fn"]), category
        assert row.iou == pytest.approx(want["iou"], abs=1e-12)
        pq, sq, rq = row.quality()
        per_class = expected["per_class"][category]
        assert (pq, sq, rq) == pytest.approx([per_class[k] for k in ("pq", "sq", "rq")], abs=1e-12)
    classes = {int(c) for c in expected["counts"]} | set(counts)
    parts = {"All": classes, "Things": classes & things, "Stuff": classes - things}
    for name, ids in parts.items():
        mean = mean_quality(counts, sorted(ids))
        assert mean["n"] == expected[name]["n"]
        for key in ("PQ", "SQ", "RQ"):
            assert mean[key] == pytest.approx(100 * expected[name][key.lower()], abs=1e-10)


@pytest.mark.shared
@needs_shared("golden", "pq")
@pytest.mark.parametrize(
    ("key", "truth", "predicted"),
    [
        ("sample_self", "sample_gt", "sample_gt"),
        ("sample_pred", "sample_gt", "sample_pred"),
        ("coco_pred_100", "coco_gt", "coco_pred"),
        ("coco_pred_first30", "coco_gt", "coco_pred"),
    ],
)
def test_equals_panopticapi(key: str, truth: str, predicted: str) -> None:
    expected = json.loads((GOLDEN / "expected_pq.json").read_text())[key]
    categories = json.loads((GOLDEN / f"{truth}.json").read_text())["categories"]
    counts = golden_counts(truth, predicted, expected.get("image_ids"))
    check_against(expected, counts, {c["id"] for c in categories if c["isthing"]})


@pytest.mark.shared
@needs_shared("golden", "pq", "edge")
def test_edge_cases_equal_panopticapi() -> None:
    expected = json.loads((GOLDEN / "edge" / "expected.json").read_text())
    check_against(expected["total"], golden_counts("edge/gt", "edge/pred"), {1, 2, 3})
    for image_id, want in expected["per_image_counts"].items():
        counts = golden_counts("edge/gt", "edge/pred", [int(image_id)])
        found = {
            str(c): {"iou": pytest.approx(r.iou), "tp": r.tp, "fp": r.fp, "fn": r.fn}
            for c, r in counts.items()
        }
        assert found == want
