"""Folders of label maps: scores by hand, controls, refusals, and STEGO's numbers through files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared
from u2seg.errors import UserError
from u2seg.evaluation.label_maps import (
    MapTruth,
    evaluate_maps,
    read_map_truth,
    score_controls,
    score_maps,
)
from u2seg.io.png import write_label_png


def write(folder: Path, **maps: list[list[int]]) -> Path:
    for name, rows in maps.items():
        write_label_png(folder / f"{name}.png", np.array(rows, dtype=np.uint8))
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> MapTruth:
    folder = write(tmp_path / "truth", a=[[0, 0, 1, 9]], b=[[1, 1, 0, 0]])
    return MapTruth({p.stem: p for p in folder.glob("*.png")}, ("sky", "road"), 9)


def test_scores_by_hand(tmp_path: Path, truth: MapTruth) -> None:
    # Votes: cluster 5: 2 sky, 1 road; cluster 3: 2 road, 1 sky; cluster 0: 1 sky. Hungarian:
    # 5 -> sky, 3 -> road, 0 -> nothing. Sky: 2 / (4 + 1), road: 2 / (3 + 1).
    found = write(tmp_path / "found", a=[[5, 5, 5, 0]], b=[[3, 3, 3, 0]], more=[[7]])
    scores = score_maps(found, truth)
    assert scores["per_class"] == pytest.approx({"sky": 40.0, "road": 50.0})
    assert scores["mIoU"] == pytest.approx(45.0)
    assert scores["pixel_accuracy"] == pytest.approx(100 * 4 / 7)
    assert scores["mapping"] == [-1, -1, -1, 1, -1, 0]
    assert (scores["images"], scores["matching"]) == (2, "hungarian")


def test_controls_by_hand(truth: MapTruth) -> None:
    # 4 sky, 3 road: one cluster becomes sky. Sky 4 / 7, road 0 / 3.
    controls = score_controls(truth)
    assert controls["single"]["pixel_accuracy"] == pytest.approx(100 * 4 / 7)
    assert controls["single"]["mIoU"] == pytest.approx(200 / 7)
    assert score_controls(truth) == controls
    assert set(controls["random"]["mapping"]) <= {-1, 0, 1}


def test_maps_that_do_not_fit_are_named(tmp_path: Path, truth: MapTruth) -> None:
    with pytest.raises(UserError, match=r"no map of 1 of 2 images, the first is b\.png"):
        score_maps(write(tmp_path / "few", a=[[0, 0, 0, 0]]), truth)
    with pytest.raises(UserError, match=r"a\.png is 4x1 pixels, its predicted map 3x1"):
        score_maps(write(tmp_path / "small", a=[[0, 0, 0]], b=[[0] * 4]), truth)
    with pytest.raises(UserError, match="does not exist: expected 8-bit label maps"):
        score_maps(tmp_path / "none", truth)
    high = MapTruth(truth.files, ("sky",), 9)
    with pytest.raises(UserError, match=r"a\.png holds class 1, expected 0\.\.0 or 9"):
        score_maps(write(tmp_path / "all", a=[[0] * 4], b=[[0] * 4]), high)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": [{"id": 1, "name": "x"}], "ignore_index": 9}, r"ids are \[1\]"),
        ({"classes": [{"id": 0, "name": "x"}], "ignore_index": 0}, "another ignore_index"),
        ({"classes": [{"name": "x"}], "ignore_index": 9}, "needs a number 'id'"),
        ({"classes": 5, "ignore_index": 9}, "needs a number 'id'"),
        ({"classes": []}, "ignore_index"),
    ],
)
def test_a_garbled_list_of_classes_is_refused(tmp_path: Path, content: dict, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_map_truth(write(tmp_path, a=[[0]]), path)


def test_repetitions_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    classes = {
        "classes": [{"id": 0, "name": "sky"}, {"id": 1, "name": "road"}], "ignore_index": 9
    }  # fmt: skip
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    right = write(tmp_path / "truth", a=[[0, 0, 1, 1]])
    same = write(tmp_path / "same", a=[[1, 1, 0, 0]])
    half = write(tmp_path / "half", a=[[0, 0, 0, 1]])
    args = (str(right), str(tmp_path / "classes.json"), "hungarian", True)
    scores, table = evaluate_maps([str(same), str(half)], *args)
    assert scores[str(same)]["mIoU"] == pytest.approx(100)
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line}
    # half: sky 2 / 3, road 1 / 2: mIoU 58.33, accuracy 75. Mean of 100 and 58.33, spread 29.46.
    assert lines["mean"][1:3] == ["79.17", "87.50"]
    assert lines["std"][2:4] == ["29.46", "17.68"]
    assert {"random", "single"} <= set(lines)
    assert "1 images, 2 classes; hungarian matching, fitted on them" in table
    with pytest.raises(UserError, match="given twice"):
        evaluate_maps([str(same), str(same)], *args)


@pytest.mark.shared
@needs_shared("golden", "semseg")
@pytest.mark.parametrize("name", ["e0_mild", "e0_noisy", "e0_collapsed", "e0_missing_classes"])
def test_equals_stego_through_files(tmp_path: Path, name: str) -> None:
    folder = SHARED / "golden" / "semseg"
    expected = json.loads((folder / "expected.json").read_text())[name]
    with np.load(folder / f"{name}.npz") as golden:
        for i, (label, pred) in enumerate(zip(golden["label"], golden["pred"], strict=True)):
            write_label_png(
                tmp_path / "truth" / f"{i}.png", np.where(label < 0, 255, label).astype(np.uint8)
            )
            write_label_png(tmp_path / "found" / f"{i}.png", pred)
    files = {p.stem: p for p in (tmp_path / "truth").glob("*.png")}
    truth = MapTruth(files, tuple(str(i) for i in range(27)), 255)
    scores = score_maps(tmp_path / "found", truth)
    assert scores["mIoU_all_classes"] == pytest.approx(expected["mIoU"], abs=1e-4)
    present = sum(value is not None for value in scores["per_class"].values())
    assert present == (24 if name == "e0_missing_classes" else 27)
    assert scores["mIoU"] == pytest.approx(expected["mIoU"] * 27 / present, abs=1e-4)
    assert scores["pixel_accuracy"] == pytest.approx(expected["Accuracy"], abs=1e-4)
