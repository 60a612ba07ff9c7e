"""The benchmark of evaluation: every row at a small size, and what its peers do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from benchmarks import evaluate, evaluate_peers, machine
from benchmarks.evaluate_inputs import NUM_THINGS, EvaluateSizes, Files, write_files
from benchmarks.setting import Setting
from tests.shared import SHARED, needs_shared
from u2seg.errors import StageError, UserError
from u2seg.evaluation.evaluate import panoptic_quality
from u2seg.evaluation.truth.coco import GroundTruth, read_truth

SMALL = EvaluateSizes(height=60, width=80, things=4, stuff=3, images=6, pool=4)
SETTING = Setting(1, 1, machine.Rates(1e11, 1e10), None)  # type: ignore[arg-type]
GOLDEN = SHARED / "golden" / "pq"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("files"), SMALL)


def test_the_suite_has_its_rows() -> None:
    assert list(evaluate.ROWS) == ["pq_1", "pq_2", "whole", "memory"]


def test_inputs_are_varied_and_the_same_each_time(files: Files, tmp_path: Path) -> None:
    again = write_files(tmp_path, SMALL)
    names = ["truth.json", "panoptic.json", "instances.json", "truth/000002.png"]
    for name in names:
        assert (again.predictions / name).read_bytes() == (files.predictions / name).read_bytes()
    truth = read_truth(files.truth)
    assert len(truth.segments) == 6 and len(truth.things) == NUM_THINGS
    assert len({truth.read_ids(i).tobytes() for i in truth.segments}) == SMALL.pool
    assert any((truth.read_ids(i) == 0).any() for i in truth.segments)
    found = panoptic_quality(files.truth, files.predicted)
    assert 0 < found["all"]["PQ"] < 100  # neither perfect nor hopeless


def test_the_plain_peer_counts_by_hand(tmp_path: Path) -> None:
    """A match of 2 of 3 pixels, a missed crowd, a false positive that void forgives."""
    from u2seg.io.png import write_panoptic_png

    write_panoptic_png(tmp_path / "t.png", np.array([[1, 1, 1, 2, 0, 0, 3]], np.int32))
    write_panoptic_png(tmp_path / "p.png", np.array([[5, 5, 0, 6, 7, 7, 8]], np.int32))
    right = [
        {"id": 1, "category_id": 4, "area": 3, "iscrowd": 0},
        {"id": 2, "category_id": 4, "area": 1, "iscrowd": 1},
        {"id": 3, "category_id": 9, "area": 1, "iscrowd": 0},
    ]
    guess = [{"id": i, "category_id": 4} for i in (5, 6, 7, 8)]
    pair = (
        {"file_name": "t.png", "segments_info": right},
        {"file_name": "p.png", "segments_info": guess},
    )
    counts = evaluate_peers.plain_counts([pair], str(tmp_path), str(tmp_path))
    assert counts == {4: (pytest.approx(2 / 3), 1, 1, 0), 9: (0.0, 0, 0, 1)}


@pytest.mark.parametrize("threads", [1, 3])
def test_row_of_panoptic_quality(
    files: Files, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "panopticapi", None)
    monkeypatch.setattr(evaluate_peers.importlib.util, "find_spec", lambda name: None)
    row = evaluate.pq(SETTING, threads=threads, given=files)
    assert row.name == f"pq_{threads}" and row.unit == "s" and row.ours and row.peer
    assert row.ratio == row.peer / row.ours
    assert row.target == ("none" if threads == 1 else ">= 3x")
    assert "counts equal: yes" in row.note and "a plain implementation" in row.note


def test_a_wrong_figure_misses_the_target(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "THREE_TIMES", evaluate.Target(">=", 0.0))
    assert evaluate.pq(SETTING, threads=1, given=files).met is True
    honest = evaluate.peer_counts
    other = dict(honest(files.truth, files.predicted))
    category = max(other, key=lambda c: other[c][1])
    iou, *rest = other[category]
    for wrong in ((iou * (1 + 1e-9), *rest), (iou, rest[0], rest[1] + 1, rest[2])):
        monkeypatch.setattr(evaluate, "peer_counts", lambda *_, w=wrong: {**other, category: w})
        assert evaluate.pq(SETTING, threads=1, given=files).met is False


def test_row_of_the_whole_evaluation_leaves_given_files_alone(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "NO_SLOWER", evaluate.Target(">=", 0.0))
    before = sorted(p.name for p in files.predictions.iterdir())
    row = evaluate.whole(SETTING, given=files)
    assert row.met is True and "counts equal: yes" in row.note
    assert sorted(p.name for p in files.predictions.iterdir()) == before


def test_row_of_memory_and_a_failing_worker(files: Files) -> None:
    row = evaluate.memory(SETTING, given=files)
    assert row.ours and row.peer and 0.02 < row.ours < 2
    with pytest.raises(StageError, match="evaluation worker 'peer' failed"):
        evaluate.worker("peer", Files(GroundTruth(Path("no"), Path("no")), Path("no")))


def test_real_files_are_given_all_or_none() -> None:
    assert evaluate.table() is evaluate.ROWS
    assert list(evaluate.table("a", "b", "c")) == list(evaluate.ROWS)
    with pytest.raises(UserError, match="--truth-pngs is missing: real files need all of"):
        evaluate.table("a", None, "c")


def golden_files(folder: Path, truth: str, predicted: str) -> Files:
    content = json.loads((GOLDEN / f"{predicted}.json").read_text())
    right = json.loads((GOLDEN / f"{truth}.json").read_text())
    content |= {"images": right["images"], "categories": right["categories"]}
    (folder / "panoptic.json").write_text(json.dumps(content))
    (folder / "panoptic").symlink_to(GOLDEN / predicted)
    return Files(GroundTruth(GOLDEN / f"{truth}.json", GOLDEN / truth), folder)


@pytest.mark.shared
@needs_shared("golden", "pq")
@pytest.mark.parametrize(
    ("key", "truth", "predicted"),
    [
        ("sample_self", "sample_gt", "sample_gt"),
        ("sample_pred", "sample_gt", "sample_pred"),
        ("coco_pred_100", "coco_gt", "coco_pred"),
        ("edge", "edge/gt", "edge/pred"),
    ],
)
def test_ours_and_the_plain_peer_equal_panopticapi(
    key: str, truth: str, predicted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every class and every mean, from files to figures, with one thread and with three."""
    monkeypatch.setattr(evaluate_peers.importlib.util, "find_spec", lambda name: None)
    files = golden_files(tmp_path, truth, predicted)
    name = "edge/expected.json" if key == "edge" else "expected_pq.json"
    expected = json.loads((GOLDEN / name).read_text())
    expected = expected["total"] if key == "edge" else expected[key]
    counts = evaluate_peers.peer_counts(files.truth, files.predicted)
    want = {
        int(c): (row["iou"], row["tp"], row["fp"], row["fn"])
        for c, row in expected["counts"].items()
    }
    for category, row in want.items():
        assert counts.get(category, (0.0, 0, 0, 0)) == pytest.approx(row, abs=1e-12), category
    ours = panoptic_quality(files.truth, files.predicted)
    assert panoptic_quality(files.truth, files.predicted, threads=3) == ours
    worst, equal = evaluate.disagreement(read_truth(files.truth), ours, want)
    assert equal and worst <= 1e-12
    for part in ("All", "Things", "Stuff"):
        for figure in ("pq", "sq", "rq"):
            found = ours[part.lower()][figure.upper()] / 100
            assert found == pytest.approx(expected[part][figure], abs=1e-12, rel=0)
        assert ours[part.lower()]["n"] == expected[part]["n"]
