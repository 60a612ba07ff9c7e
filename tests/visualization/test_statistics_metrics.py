from __future__ import annotations

from pathlib import Path

import pytest

from u2seg.structures.labels import LabelSpace
from u2seg.visualization.metrics import is_agreement, metric_rows, reference_sentence
from u2seg.visualization.sources import ImageRecord, LabelRun, PanopticFolder
from u2seg.visualization.statistics import label_statistics


def run_of(masks, num_things=4, instances=()):
    space = LabelSpace(num_things, 3)
    run = LabelRun(Path("x"), panoptic=PanopticFolder(Path("x"), space))
    run.images = [ImageRecord(i + 1, f"{i}.jpg", 10, 20) for i in range(4)]
    run.masks = masks
    run.instances = [{"category_id": c} for c in instances]
    return run


def test_statistics_by_hand():
    masks = {
        1: [{"area": 50, "bbox": [0, 2, 5, 5]}, {"area": 2, "bbox": [1, 1, 2, 2]}],
        2: [{"area": 20, "bbox": [10, 1, 10, 3]}],
        99: [{"area": 1, "bbox": [0, 0, 1, 1]}],
    }
    numbers = label_statistics(run_of(masks, instances=[1, 1, 3]))
    assert numbers.masks_per_image == [2, 1, 0, 0]
    assert numbers.area_percent == [25.0, 1.0, 10.0]
    assert numbers.border_contact == pytest.approx(2 / 3)
    assert numbers.cluster_sizes == {0: 2, 2: 1}
    assert numbers.without_masks == 2


def test_metrics_that_are_missing_or_undefined():
    rows = metric_rows({
        "panoptic": {"all": {"PQ": 12.345, "SQ": None, "RQ": float("nan"), "n": 3}, "things": None},
        "instances": "garbled",
    })  # fmt: skip
    assert [(r.name, r.values) for r in rows] == [("Panoptic, all", ("12.3", "–", "–", "3"))]
    assert metric_rows({}) == []


def test_the_reference_is_said_plainly():
    agreement = {"protocol": {"reference": "pseudo-labels"}}
    assert is_agreement(agreement) and "not accuracy" in reference_sentence(agreement)
    path = {"protocol": {"reference": "/data/pseudo/val.json"}}
    assert not is_agreement(path), "only the word itself, not a path that contains it"
    truth = {"protocol": {"reference": "COCO val2017"}}
    assert not is_agreement(truth)
    assert reference_sentence(truth) == "Measured against: COCO val2017."
    assert "does not say" in reference_sentence({})
