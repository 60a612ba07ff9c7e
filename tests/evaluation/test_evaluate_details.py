"""What a whole evaluation says beyond its figures: intervals, origin, tables, worst images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.test_task_rules import result_folder, river_and_sea
from u2seg.config.evaluation import EvalSettings
from u2seg.evaluation import evaluate_folder, format_metrics
from u2seg.evaluation.truth.formats import scored_truth
from u2seg.io.atomic import sha256_file
from u2seg.structures.labels import LabelSpace

SPACE = LabelSpace(num_things=3, num_stuff=2)
FILES = ("per_class.csv", "clusters.csv", "images.csv", "worst.json")


@pytest.fixture
def files(tmp_path: Path):
    """The cat of the first image takes one of seven pixels of grass: 4/5 and 6/7."""
    maps = relabelled({1: 3, 2: 1, 3: 5, 4: 4})
    maps[21][0][2, 2] = 111
    return write_predictions(tmp_path / "p", maps, SPACE), write_truth(tmp_path)


def test_intervals_of_two_images_by_hand(files):
    """Resamples are the first image twice, both, the second twice; each extreme comes often."""
    folder, truth = files
    metrics = evaluate_folder(folder, truth, EvalSettings(bootstrap=200, seed=5))
    ci95 = metrics["ci95"]
    assert {k: ci95[k] for k in ("method", "resamples", "seed", "mapping")} == {
        "method": "percentile bootstrap over images", "resamples": 200, "seed": 5,
        "mapping": "kept",
    }  # fmt: skip
    first = 100 * (4 / 5 + 1 + 6 / 7 + 1) / 4
    assert ci95["panoptic"]["all"]["PQ"] == pytest.approx([first, 100.0])
    assert ci95["panoptic"]["stuff"]["RQ"] == [100.0, 100.0]
    assert ci95["semantic"]["pixel_accuracy"] == pytest.approx([100 * 22 / 23, 100.0])
    assert ci95["semantic"]["mIoU"][0] == pytest.approx(100 * (4 / 5 + 1 + 6 / 7 + 1) / 4)
    for part in ("class_agnostic", "instances"):
        for kind in ("box", "segm"):
            low, high = ci95[part][kind]["AP"]
            assert low < metrics[part][kind]["AP"] < high
            assert high == pytest.approx(100.0)
    assert set(ci95["instances"]["segm"]) == {"AP", "AP50", "AP75", "AR1", "AR10", "AR100"}
    table = format_metrics(metrics).splitlines()
    row = table.index(next(line for line in table if line.startswith("all")))
    assert table[row + 1].split() == ["95", "%", *[f"{first:.1f}-100.0"] * 2, "100.0-100.0"]


def test_intervals_of_both_treatments_of_clusters_without_a_class(tmp_path):
    """The second cat of image 22 has a cluster of its own; image 21 alone is perfect.

    22 twice: cats 2 / (2 + 2/2) as void, 2 / (2 + 2/2 + 2/2) as false positives; grass is right.
    """
    maps = relabelled({1: 3, 2: 1, 3: 5, 4: 4})
    maps[22][1][102] = 2
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    metrics = evaluate_folder(folder, write_truth(tmp_path), EvalSettings(bootstrap=200))
    found = metrics["ci95"]["unmatched"]
    assert found["void"]["all"]["PQ"] == pytest.approx([100 * (2 / 3 + 1) / 2, 100.0])
    assert found["false_positive"]["all"]["PQ"] == pytest.approx([100 * (1 / 2 + 1) / 2, 100.0])
    assert found["void"] == metrics["ci95"]["panoptic"]
    assert "stuff_merging" not in metrics["ci95"]
    settings = EvalSettings(bootstrap=200, unmatched="false_positive")
    counted = evaluate_folder(folder, write_truth(tmp_path), settings)
    assert counted["ci95"]["unmatched"] == found


def test_intervals_of_both_mergings(tmp_path):
    """One image: one water on river and sea is nothing, or all."""
    paths = river_and_sea(tmp_path)
    folder = result_folder(tmp_path / "p", {"a": [[2, 2, 2, 2]]}, LabelSpace(1, 1))
    settings = EvalSettings(classes="coco-95", bootstrap=20)
    truth = scored_truth("coco-panoptic", paths, settings, folder)
    found = evaluate_folder(folder, truth, settings)["ci95"]["stuff_merging"]
    assert found["neither"]["all"]["PQ"] == [0.0, 0.0]
    assert found["both"]["stuff"]["PQ"] == [100.0, 100.0]


def test_no_resamples_no_intervals(files):
    folder, truth = files
    metrics = evaluate_folder(folder, truth, EvalSettings(bootstrap=0))
    assert metrics["ci95"] is None
    assert "95 %" not in format_metrics(metrics)


def test_every_protocol_has_intervals_over_the_same_draws(files):
    folder, truth = files
    settings = EvalSettings(bootstrap=30)
    metrics = evaluate_folder(folder, truth, settings, protocols=["one-to-one", "cups"])
    one, two = (metrics["protocols"][name] for name in ("one-to-one", "cups"))
    assert one["panoptic"] == two["panoptic"] and one["ci95"] == two["ci95"] == metrics["ci95"]
    assert one["unmatched_clusters"]["things"]["unmatched"] == 1


def test_where_the_figures_come_from(files, tmp_path):
    folder, truth = files
    metrics = evaluate_folder(folder, truth, EvalSettings(bootstrap=0, seed=3))
    found = metrics["provenance"]
    assert found["sha256"]["truth"] == sha256_file(truth.panoptic_json)
    assert found["sha256"]["predictions/instances.json"] == sha256_file(folder / "instances.json")
    assert "mapping" not in found["sha256"]
    assert found["settings"]["SEED"] == 3 and list(found["protocols"]) == ["custom"]
    assert found["versions"]["numpy"] == np.__version__
    given = (folder / "mapping.json").rename(tmp_path / "given.json")
    again = evaluate_folder(folder, truth, EvalSettings(bootstrap=0), mapping=given)
    assert again["provenance"]["sha256"]["mapping"] == sha256_file(given)


def test_rules_of_record_are_those_that_were_used(files, tmp_path):
    """Not the keys: a named protocol and a mapping bring their own."""
    folder, truth = files
    settings = EvalSettings(bootstrap=0)
    found = evaluate_folder(folder, truth, settings, protocols=["u2seg-released", "cups"])
    recorded = found["provenance"]["protocols"]
    assert recorded["u2seg-released"]["things"]["iou"] == 0.7
    assert recorded["cups"]["matching"] == "hungarian+majority"
    assert not {"PROTOCOL", "MATCH_IOU", "MERGE_STUFF"} & set(found["provenance"]["settings"])
    given = (folder / "mapping.json").rename(tmp_path / "given.json")
    again = evaluate_folder(folder, truth, settings, mapping=given)
    assert again["provenance"]["protocols"]["u2seg-released"]["merge_stuff"] is False


def test_what_voted_for_stuff(files, tmp_path):
    folder, truth = files
    pixels = EvalSettings(thing_votes="pixels", bootstrap=0)
    together = replace(pixels, apart=False)
    for settings, maps in ((pixels, "stuff maps"), (together, "panoptic segments")):
        found = evaluate_folder(folder, truth, settings)
        assert found["protocol"]["stuff_votes_from"] == maps
    given = (folder / "mapping.json").rename(tmp_path / "given.json")
    again = evaluate_folder(folder, truth, EvalSettings(bootstrap=0), mapping=given)
    assert again["protocol"]["stuff_votes_from"] is None
