from __future__ import annotations

from pathlib import Path

import pytest

from u2seg.structures.labels import LabelSpace
from u2seg.visualization.metrics import is_agreement, metric_rows, reference_sentence
from u2seg.visualization.sources import ImageRecord, LabelRun, PanopticFolder
from u2seg.visualization.statistics import LabelStatistics, label_statistics, label_warnings


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


@pytest.mark.parametrize(("empty", "levels"), [(2, []), (3, ["amber"]), (6, ["red"])])
def test_images_without_masks_warn(empty, levels):
    numbers = LabelStatistics(masks_per_image=[1] * (10 - empty) + [0] * empty)
    found = label_warnings(run_of({}), numbers, [])
    assert [c.level for c in found] == levels
    if levels:
        assert f"{empty} of 10 images" in found[0].text


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({0: 5, 1: 5, 2: 5, 3: 5}, []),
        ({0: 5, 1: 5, 2: 5}, ["1 of 4 clusters are dead"]),
        ({0: 9, 1: 1, 2: 1, 3: 1}, ["One cluster holds 75 %"]),
    ],
)
def test_clusters_warn(sizes, words):
    found = label_warnings(run_of({}), LabelStatistics(cluster_sizes=sizes), [])
    assert len(found) == len(words)
    assert all(word in concern.text for word, concern in zip(words, found, strict=True))


def test_collapsed_stuff_and_skipped_files_warn_worst_first():
    run = run_of({})
    run.skipped = [("a", "b")]
    numbers = LabelStatistics(stuff_share={0: 0.95, 1: 0.01}, border_contact=0.9)
    found = label_warnings(run, numbers, run.images)
    assert [c.level for c in found] == ["red", "amber", "amber"]
    assert "99 % of all stuff" in found[0].text
    assert "1 of 5 files (20 %)" in found[1].text


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
