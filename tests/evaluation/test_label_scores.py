"""Class-agnostic quality of panoptic labels: counted by hand on one image, and errors."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from u2seg.errors import UserError
from u2seg.evaluation import GroundTruth
from u2seg.evaluation.label_quality import score_labels
from u2seg.io.atomic import write_json
from u2seg.io.png import write_panoptic_png

TOOL = Path(__file__).resolve().parents[2] / "tools" / "evaluate_labels.py"
TRUE = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
"""A thing of 4 pixels, stuff of 4, void."""
FOUND = np.array([[5, 5, 5, 6, 6, 6, 6, 0, 7, 7]])
"""A thing on 3 of the thing's pixels, stuff on 3 of the stuff's and 1 of its, a thing on void."""


def _write(folder: Path, stem: str, ids: np.ndarray, kinds: dict[int, int], image: int) -> None:
    """A COCO panoptic file of one image; ``kinds``: segment -> category, below 10 a thing."""
    write_panoptic_png(folder / "panoptic" / f"{stem}.png", ids.astype(np.int32))
    segments = [
        {"id": i, "category_id": c, "area": int((ids == i).sum()), "iscrowd": 0}
        for i, c in kinds.items()
    ]
    size = {"height": ids.shape[0], "width": ids.shape[1]}
    content = {
        "images": [{"id": image, "file_name": f"{stem}.jpg", **size}],
        "annotations": [{"image_id": image, "file_name": f"{stem}.png", "segments_info": segments}],
        "categories": [{"id": c, "name": str(c), "isthing": int(c < 10)} for c in (1, 2, 10, 20)],
    }
    write_json(folder / "panoptic.json", content)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, GroundTruth]:
    _write(tmp_path / "truth", "a/p", TRUE, {1: 1, 2: 10}, image=7)
    # Other image id, other categories: neither counts.
    _write(tmp_path / "run" / "panoptic", "a/p", FOUND, {5: 2, 6: 20, 7: 2}, image=1)
    truth = tmp_path / "truth"
    return tmp_path / "run", GroundTruth(truth / "panoptic.json", truth / "panoptic")


def test_counts_by_hand(folders: tuple[Path, GroundTruth]) -> None:
    scores = score_labels(*folders)
    # Thing: 3 / 4. Stuff: 3 of 3 + 1 + 1. The thing on void is forgiven.
    assert scores["things"] == {"PQ": 75.0, "SQ": 75.0, "RQ": 100.0, "tp": 1, "fp": 0, "fn": 0}
    assert scores["stuff"]["PQ"] == pytest.approx(60.0)
    assert scores["segments"]["PQ"] == pytest.approx((75.0 + 60.0) / 2)
    assert (scores["segments"]["tp"], scores["images"]) == (2, 1)
    assert scores["unlabelled"] == pytest.approx(100 / 8)


def test_things_and_stuff_match_as_segments_only(folders: tuple[Path, GroundTruth]) -> None:
    run, truth = folders
    _write(run / "panoptic", "a/p", FOUND, {5: 20, 6: 2, 7: 2}, image=1)
    scores = score_labels(run, truth)
    assert scores["segments"]["PQ"] == pytest.approx(67.5)
    assert scores["things"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "tp": 0, "fp": 1, "fn": 1}
    assert (scores["stuff"]["fp"], scores["stuff"]["fn"]) == (1, 1)


def test_foreign_labels_are_refused(folders: tuple[Path, GroundTruth]) -> None:
    run, truth = folders
    _write(run / "panoptic", "b/q", FOUND, {5: 2, 6: 20, 7: 2}, image=1)
    with pytest.raises(UserError, match=r"none of the images of .*run.* is in .*truth"):
        score_labels(run, truth)
    _write(run / "panoptic", "a/p", FOUND[:, :9], {5: 2, 6: 20, 7: 2}, image=1)
    with pytest.raises(UserError, match="is 9 x 1 pixels, the true map has 10 x 1"):
        score_labels(run, truth)


def test_tool_prints_and_writes(
    folders: tuple[Path, GroundTruth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("evaluate_labels_tool", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    run, truth = folders
    words = ["--truth-json", str(truth.panoptic_json), "--truth-pngs", str(truth.panoptic_pngs)]
    out = tmp_path / "scores.json"
    assert tool.main(["--labels", str(run), *words, "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "1 images, 12.50 % unlabelled" in shown
    assert "segments        67.50  67.50  100.00   2   0   0" in shown
    assert json.loads(out.read_text())["things"]["PQ"] == 75.0
    assert tool.main(["--labels", str(tmp_path / "none"), *words]) == 2
    assert "none/panoptic/panoptic.json does not exist" in capsys.readouterr().err
