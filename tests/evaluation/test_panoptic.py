"""Panoptic quality, overlaps, mean IoU and matching: each rule by hand, and the references."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.shared import SHARED, needs_shared
from u2seg.evaluation.metrics.matching import (
    hungarian_majority_map,
    hungarian_map,
    majority_map,
    match,
)
from u2seg.evaluation.metrics.overlap import Overlap, count_overlaps, relabel
from u2seg.evaluation.metrics.panoptic import (
    ClassCounts,
    TruthSegment,
    count_matches,
    mean_quality,
    unmatched_positives,
)
from u2seg.evaluation.metrics.semantic import mean_iou, pixel_accuracy
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


CAT, GRASS = 1, 3


TRUTH = {11: TruthSegment(CAT, 4), 12: TruthSegment(CAT, 2), 13: TruthSegment(GRASS, 3)}


ROW = [11, 11, 11, 11, 12, 12, 13, 13, 13, 0, 0, 0]


def charged(predicted: list[int], segments: set[int], truth=TRUTH) -> dict[int, int]:
    overlap = count_overlaps(np.array([ROW]), np.array([predicted]))
    counts = unmatched_positives(overlap, truth, segments)
    assert all((c.iou, c.tp, c.fn) == (0.0, 0, 0) for c in counts.values())
    return {category: c.fp for category, c in counts.items()}


@pytest.mark.parametrize(
    ("predicted", "segments", "expected"),
    [
        # 4 cat, 3 grass: cat, though no single true segment holds more than 2 of the pixels
        ([0, 0, 5, 5, 5, 5, 5, 5, 5, 0, 0, 0], {5}, {CAT: 1}),
        # 2 cat, 2 grass: the lower id
        ([0, 0, 0, 0, 5, 5, 5, 5, 0, 0, 0, 0], {5}, {CAT: 1}),
        # two segments of one class, one of another
        ([5, 5, 6, 6, 0, 0, 7, 7, 7, 0, 0, 0], {5, 6, 7}, {CAT: 2, GRASS: 1}),
        # 3 grass, 3 void: half is not more than half
        ([0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5], {5}, {GRASS: 1}),
        # 2 grass, 3 void: forgiven
        ([0, 0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5], {5}, {}),
        # void alone
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5], {5}, {}),
        # matched segments are not this function's
        ([5, 5, 5, 5, 0, 0, 7, 7, 7, 0, 0, 0], {7}, {GRASS: 1}),
        ([5] * 12, set(), {}),
    ],
)
def test_class_of_most_pixels(predicted, segments, expected) -> None:
    assert charged(predicted, segments) == expected


def test_a_crowd_of_the_same_class_forgives() -> None:
    truth = {**TRUTH, 11: TruthSegment(CAT, 4, crowd=True)}
    # 4 of 6 pixels on the crowd
    assert charged([5, 5, 5, 5, 5, 5, 0, 0, 0, 0, 0, 0], {5}, truth) == {}
    # 2 of 4 pixels: not more than half
    assert charged([0, 0, 5, 5, 5, 5, 0, 0, 0, 0, 0, 0], {5}, truth) == {CAT: 1}
    # most is grass; the cat crowd does not help
    assert charged([0, 0, 0, 5, 0, 0, 5, 5, 0, 0, 0, 0], {5}, truth) == {GRASS: 1}


def rows(table: Overlap) -> list[tuple[int, int, int]]:
    columns = (table.truth, table.predicted, table.pixels)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def test_large_ids_survive() -> None:
    top = 2**24 - 1
    table = count_overlaps(
        np.array([[top, 0]], dtype=np.int32), np.array([[top, top]], dtype=np.int32)
    )
    assert rows(table) == [(0, top, 1), (top, top, 1)]


def test_eight_bit_maps_do_not_overflow() -> None:
    table = count_overlaps(np.array([[255]], dtype=np.uint8), np.array([[200]], dtype=np.uint8))
    assert rows(table) == [(255, 200, 1)]


@pytest.mark.parametrize("ids", [1, 3, 40, 5000])
def test_every_pixel_is_counted_once(ids: int) -> None:
    """Compared with a dictionary, pixel by pixel."""
    rng = np.random.default_rng(ids)
    names = rng.choice(2**24, ids, replace=False)
    truth, predicted = (np.repeat(rng.choice(names, (60, 50)), 2, axis=1) for _ in range(2))
    predicted = np.roll(predicted, 1)
    want: dict[tuple[int, int], int] = {}
    for pair in zip(truth.reshape(-1).tolist(), predicted.reshape(-1).tolist(), strict=True):
        want[pair] = want.get(pair, 0) + 1
    table = count_overlaps(truth, predicted)
    assert rows(table) == [(*pair, want[pair]) for pair in sorted(want)]


def test_an_empty_map_has_no_pairs() -> None:
    assert rows(count_overlaps(np.zeros((0, 3)), np.zeros((0, 3)))) == []


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 1\)"):
        count_overlaps(np.zeros((1, 2), np.int32), np.zeros((2, 1), np.int32))


def test_relabel_drops_unmatched_and_merges_only_the_classes_asked_for() -> None:
    truth = np.array([[1, 1, 1, 1, 1]], dtype=np.int32)
    predicted = np.array([[10, 11, 12, 13, 14]], dtype=np.int32)
    categories = {10: 7, 12: 7, 11: 3, 13: 3}  # 14 has no class
    table, left = relabel(count_overlaps(truth, predicted), categories, merge={7})
    assert rows(table) == [(1, 0, 1), (1, 10, 2), (1, 11, 1), (1, 13, 1)]
    assert left == {10: 7, 11: 3, 13: 3}
    table, left = relabel(count_overlaps(truth, predicted), categories, merge=())
    assert left == categories
    assert table.pixels.sum() == 5


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    matrix = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert mean_iou(matrix) == pytest.approx(25.0)  # (50 + 0) / 2


def test_nothing_to_score() -> None:
    matrix = np.zeros((2, 3), dtype=np.int64)
    assert mean_iou(matrix) is None and pixel_accuracy(matrix) is None


def test_an_unknown_matching_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'greedy', expected one of hungarian, majority"):
        match("greedy", np.zeros((1, 1), dtype=np.int64))


def test_clusters_without_votes_have_no_class() -> None:
    votes = np.array([[0, 0], [0, 7]])
    assert hungarian_map(votes).tolist() == [-1, 1]
    assert majority_map(votes).tolist() == [-1, 1]


def test_more_clusters_than_classes_and_the_reverse() -> None:
    assert hungarian_map(np.array([[1], [3], [2]])).tolist() == [-1, 0, -1]
    assert majority_map(np.array([[1], [3], [2]])).tolist() == [0, 0, 0]
    assert hungarian_map(np.array([[1, 3, 2]])).tolist() == [1]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_votes(shape: tuple[int, int]) -> None:
    votes = np.zeros(shape, dtype=np.int64)
    assert hungarian_map(votes).tolist() == [-1] * shape[0]
    assert majority_map(votes).tolist() == [-1] * shape[0]


@pytest.mark.parametrize("solve", [hungarian_map, majority_map, hungarian_majority_map])
def test_bad_votes_are_refused(solve) -> None:
    with pytest.raises(ValueError, match=r"\(K, C\), got shape \(3,\)"):
        solve(np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="smallest is -1"):
        solve(np.array([[1, -1]]))


@given(
    arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 9))
)
def test_hungarian_is_the_best_one_to_one_map(votes: np.ndarray) -> None:
    mapping = hungarian_map(votes)
    used = mapping[mapping >= 0]
    assert len(set(used)) == len(used)
    wide = votes if votes.shape[0] <= votes.shape[1] else votes.T
    rows = range(len(wide))
    best = max(
        sum(wide[r, c] for r, c in zip(rows, order))
        for order in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    assert sum(votes[k, c] for k, c in enumerate(mapping) if c >= 0) == best


@pytest.mark.shared
@needs_shared("golden", "semseg")
def test_hungarian_equals_the_reference() -> None:
    checked = 0
    for path in sorted((SHARED / "golden" / "semseg").glob("e*.npz")):
        with np.load(path) as golden:
            votes = golden["full_stats_all_clusters"]
            rows, cols = golden["full_assign_cluster"], golden["full_assign_class"]
        mapping = hungarian_map(votes.astype(np.int64))
        for row, col in zip(rows, cols, strict=True):
            if votes[row, col]:  # pairs without votes are arbitrary; here they stay unmatched
                assert mapping[row] == col
                checked += 1
    assert checked > 100
