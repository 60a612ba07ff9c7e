"""The label stages on four COCO photographs, scored beside the two baselines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.shared import SHARED, needs_shared
from u2seg.config.load import load_settings
from u2seg.evaluation.label_quality import score_masks
from u2seg.labels.check import check_labels
from u2seg.pipeline import generate_labels

COCO = SHARED / "data" / "coco_train128"
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart" / "quickstart.yaml"
NAMES = ("000000000030.jpg", "000000000034.jpg", "000000000036.jpg", "000000000077.jpg")


@pytest.mark.slow
@pytest.mark.shared
@needs_shared("data", "coco_train128")
def test_masks_of_four_photographs_beat_the_baselines(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in NAMES:
        shutil.copy(COCO / "images" / name, photos)
    changes = ["U2SEG.CLUSTERS.NUM_CLUSTERS", "3", "U2SEG.SEMANTICS.STEGO.STEPS", "20"]
    run = generate_labels(load_settings(CONFIG, changes), photos, tmp_path / "run", progress=False)
    assert check_labels(run / "panoptic")["images"] == 4
    scores = score_masks(run, COCO / "instances_train2017.json", photos)
    ours = scores.pop("masks")
    assert 4 <= ours["masks"] <= 12
    for name, baseline in scores.items():
        assert ours["hits"] > baseline["hits"], name
        assert ours["AP50"] > baseline["AP50"], name
