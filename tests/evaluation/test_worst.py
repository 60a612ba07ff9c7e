"""Maps of the worst images belong to the evaluation that wrote ``worst.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.label_files import CLUSTERS, SPACE
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder


def test_maps_of_an_earlier_evaluation_are_removed(tmp_path: Path) -> None:
    """An earlier one drew images 7 and 22, and had a prediction of 21; now 21 has none."""
    truth = write_truth(tmp_path)
    maps = relabelled(CLUSTERS)
    folder = write_predictions(tmp_path / "p", {22: maps[22]}, SPACE)
    worst = folder / "worst"
    worst.mkdir()
    stale = ["7_truth.png", "7_prediction.png", "21_prediction.png"]
    own = ["7_notes.png", "7_truth.txt", "x7_truth.png", "7_truth.png.bak"]
    for name in [*stale, *own]:
        (worst / name).write_bytes(b"old")
    evaluate_folder(folder, truth, EvalSettings(bootstrap=0))
    written = {"21_truth.png", "22_truth.png", "22_prediction.png"}
    assert {path.name for path in worst.iterdir()} == {*own, *written}
    images = json.loads((folder / "worst.json").read_text())["images"].values()
    named = {image[side] for image in images for side in ("truth", "prediction")} - {None}
    assert named == {f"worst/{name}" for name in written}


@pytest.mark.parametrize("name", ["worst/7_truth.png", "mapping_cups.json"])
def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path, name: str) -> None:
    truth = write_truth(tmp_path)
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE)
    (folder / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"cannot remove .*{name}, left by an earlier run"):
        evaluate_folder(folder, truth, EvalSettings(bootstrap=0))
