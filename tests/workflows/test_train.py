"""Training and scoring from Python: the commands' work, with errors of no command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import u2seg
from tests.factories import BASE_CONFIG, TINY, make_labels
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json

pytestmark = pytest.mark.d2


def test_train_and_evaluate(tmp_path: Path) -> None:
    labels, output = make_labels(tmp_path), tmp_path / "out"
    metrics = u2seg.train(labels, output, BASE_CONFIG, TINY)
    assert metrics == read_json(output / "evaluation/metrics.json")
    assert (output / "model_final.pth").is_file()
    truth = [labels / "panoptic/panoptic.json", labels / "panoptic/panoptic"]
    again = u2seg.evaluate(
        output / "evaluation", truth, tmp_path / "scores", settings={"U2SEG.EVAL.PROTOCOL": "cups"}
    )
    assert again["protocol"]["name"] == "cups"
    perfect = u2seg.evaluate(labels, truth, tmp_path / "perfect", protocols=["identity"])
    assert perfect["panoptic"]["all"]["PQ"] == 100
    with pytest.raises(UserError, match=r"^workers is 0, expected a number >= 1"):
        u2seg.label(tmp_path / "photos", tmp_path / "labels2", BASE_CONFIG, TINY, workers=0)
    with pytest.raises(UserError, match="no ground truth was given"):
        u2seg.evaluate(output / "evaluation", [])
    with pytest.raises(UserError, match=r"nowhere.* does not exist"):
        u2seg.train(tmp_path / "nowhere", tmp_path / "other", BASE_CONFIG, TINY)
