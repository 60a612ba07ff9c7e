"""Baselines beside a model: random clusters, one cluster, label files scored directly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.datasets import FILES, relabelled, write_predictions, write_truth
from tests.evaluation.label_files import CLUSTERS, SPACE, write_labels
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.evaluation.baselines import LABELS, ONE, RANDOM, baselines
from u2seg.evaluation.collect import collect
from u2seg.evaluation.protocols.rules import StuffRule
from u2seg.evaluation.protocols.votes import stuff_votes
from u2seg.evaluation.report.table import format_baselines
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.predictions import read_labels, read_predictions
from u2seg.io.png import write_label_png


@pytest.fixture
def model(tmp_path: Path):
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE)
    return folder, write_truth(tmp_path)


def test_one_cluster_by_hand(model):
    """All things are one cluster and all stuff another; one to one, each takes one class.

    Things vote 3 cats, 1 dog: all are cats, so cat has 3 hits and 1 false positive (3 / 3.5),
    the dog is missed. Stuff votes 22 grass, 8 sky: image 21 is one segment of grass of 15
    pixels, 7 of them right: 7 / 16 (with the void pixel not) is no match; image 22 matches.
    """
    folder, truth = model
    found = evaluate_folder(folder, truth, EvalSettings(baselines=True, bootstrap=0))
    one = found["baselines"][ONE]["protocols"]["custom"]
    assert one["panoptic"]["things"]["PQ"] == pytest.approx(100 * (3 / 3.5 + 0) / 2)
    assert one["panoptic"]["stuff"]["PQ"] == pytest.approx(100 * (1 / 2 + 0) / 2)
    # grass 22 of 22 + 8 of sky; sky none; cat 13 of 13 + 4 of the dog
    assert one["semantic"]["mIoU"] == pytest.approx(100 * (22 / 30 + 13 / 17) / 4)
    assert one["protocol"]["clusters"]["matched_things"] == 1
    assert "per_class" not in one["panoptic"] and "per_class" not in one["instances"]["segm"]
    assert one["instances"]["segm"]["AP50"] < 100.0
    assert found["panoptic"]["all"]["PQ"] == 100.0, "the model itself is untouched"
    assert one["ci95"] is None


def test_random_clusters_keep_kinds_and_segments_and_follow_the_seed(model):
    folder, truth = model
    true_set = read_truth(truth)
    predicted = read_predictions(folder, true_set)
    tables = collect(true_set, predicted)

    def drawn(seed):
        settings = EvalSettings(baselines=True, seed=seed)
        return baselines(settings, true_set, predicted, tables)[0]

    every = [drawn(seed) for seed in range(30)]
    seen: dict[int, set[int]] = {}
    for random in every:
        assert random.name == RANDOM and random.predicted.has_stuff_maps
        for before, after in zip(tables, random.tables, strict=True):
            assert after.overlap is before.overlap and list(after.predicted) == list(
                before.predicted
            )
            for segment, cluster in after.predicted.items():
                old = before.predicted[segment]
                assert SPACE.is_thing(cluster) == SPACE.is_thing(old)
                seen.setdefault(old, set()).add(cluster)
            renamed = dict(zip(before.predicted.values(), after.predicted.values(), strict=True))
            for old, new in zip(before.detections, after.detections, strict=True):
                assert renamed[old] == new, "an instance and its segment agree"
            pairs = after.pairs
            assert (pairs.cluster == after.detections[pairs.detection]).all()
            results = random.predicted.instances[after.image_id]
            assert [r["category_id"] for r in results] == after.detections.tolist()
            stuff = after.stuff_pixels
            assert stuff.pixels.sum() == before.overlap.pixels.sum()
            assert set(stuff.cluster.tolist()) <= {4, 5, -1, -2}
            # the stuff map here says what the segments say, and is renamed as they are
            cells = before.stuff_pixels
            was = zip(cells.cluster.tolist(), cells.true_class.tolist(), strict=True)
            new = {(renamed.get(c, c), t) for c, t in was}
            assert set(zip(stuff.cluster.tolist(), stuff.true_class.tolist(), strict=True)) == new
    assert seen == {3: {1, 2, 3}, 1: {1, 2, 3}, 5: {4, 5}, 4: {4, 5}}
    again = drawn(3)
    assert [t.predicted for t in again.tables] == [t.predicted for t in every[3].tables]


def test_one_cluster_votes_with_the_stuff_maps(model):
    """The stuff map of image 21 gives 2 pixels of sky and 1 of grass, that of 22 its 15 of grass.

    All are cluster 4 then: 2 votes for sky, 16 for grass. The segments would give 8 and 22.
    """
    folder, truth = model
    stuff = np.zeros((4, 6), np.uint8)
    stuff[0, :2], stuff[3, 0], stuff[3, 1] = 1, 2, 255
    write_label_png(folder / "stuff" / FILES[21], stuff)
    true_set = read_truth(truth)
    predicted = read_predictions(folder, true_set)
    settings = EvalSettings(baselines=True)
    one = baselines(settings, true_set, predicted, collect(true_set, predicted))[1]
    assert one.name == ONE
    assert stuff_votes(one.tables, (4, 5), (3, 4), StuffRule()).tolist() == [[16, 2], [0, 0]]
    first = one.tables[0].stuff_pixels
    rows = zip(
        first.cluster.tolist(), first.true_class.tolist(), first.pixels.tolist(), strict=True
    )
    assert [row for row in rows if row[0] == 4] == [(4, 3, 1), (4, 4, 2)]


@pytest.mark.parametrize("score", ["x", None, 7, True])
def test_scores_of_labels_are_numbers(model, tmp_path, score):
    _, truth = model
    path = write_labels(tmp_path / "run") / "panoptic" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["score"] = score
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"instances\.json: the annotation of id 1: 'score' is"):
        read_labels(tmp_path / "run", read_truth(truth))


def test_labels_are_paired_by_file_name_and_keep_their_scores(model, tmp_path):
    _, truth = model
    found = read_labels(write_labels(tmp_path / "run"), read_truth(truth))
    assert list(found.panoptic.segments) == [21] and list(found.instances) == [21]
    assert [(r["image_id"], r["category_id"], r["score"]) for r in found.instances[21]] == [
        (21, 3, 0.6), (21, 1, 0.5),
    ]  # fmt: skip


def test_labels_scored_directly_by_hand(model, tmp_path):
    """The label of image 21 is the truth, image 22 has none: two cats and grass are missed."""
    folder, truth = model
    labels = write_labels(tmp_path / "run")
    settings = EvalSettings(labels=str(labels), bootstrap=20)
    found = evaluate_folder(folder, truth, settings, protocols=["one-to-one", "cups"])
    assert list(found["baselines"]) == [LABELS]
    rows = found["baselines"][LABELS]["protocols"]
    assert list(rows) == ["one-to-one", "cups"]
    for row in rows.values():
        assert row["protocol"]["images_without_prediction"] == 1
        want = 100 * (1 / 2 + 1 + 1 / 1.5 + 1) / 4
        assert row["panoptic"]["all"]["PQ"] == pytest.approx(want)
        assert row["semantic"]["pixel_accuracy"] == pytest.approx(100 * 23 / 47)
        low, high = row["ci95"]["panoptic"]["all"]["PQ"]
        assert low == 0.0 and high == 100.0
    lines = format_baselines(found).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["one-to-one:", "model"], ["one-to-one:", "labels"], ["cups:", "model"],
        ["cups:", "labels"],
    ]  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text())["baselines"] == found["baselines"]


def test_labels_that_do_not_fit_are_refused(model, tmp_path):
    _, truth = model
    true_set = read_truth(truth)
    with pytest.raises(UserError, match=r"holds no panoptic/panoptic.json"):
        read_labels(tmp_path, true_set)
    with pytest.raises(UserError, match=r"is \(9, 6\), the true image \(4, 6\)"):
        read_labels(write_labels(tmp_path / "tall", height=9), true_set)
    other = write_labels(tmp_path / "other")
    path = other / "panoptic" / "panoptic.json"
    path.write_text(path.read_text().replace("a/first", "b/first"))
    with pytest.raises(UserError, match=r"none of the 2 images .*compared by file name"):
        read_labels(other, true_set)


def test_a_given_mapping_is_that_of_the_baselines_too(model, tmp_path):
    """One cluster is cluster 1, the dog's, for every thing: one hit, three errors."""
    folder, truth = model
    settings = EvalSettings(bootstrap=0)
    evaluate_folder(folder, truth, settings)
    given = (folder / "mapping.json").rename(tmp_path / "given.json")
    labels = write_labels(tmp_path / "run")
    settings = EvalSettings(baselines=True, labels=str(labels), bootstrap=0)
    found = evaluate_folder(folder, truth, settings, mapping=given)
    one = found["baselines"][ONE]["protocols"]["custom"]
    assert one["protocol"]["clusters"]["matched_things"] == 2
    assert one["panoptic"]["things"]["PQ"] == pytest.approx(100 * (1 / 2.5 + 0) / 2)
    assert len(format_baselines(found).splitlines()) == 5
    content = json.loads((labels / "panoptic" / "panoptic.json").read_text())
    content["categories"].append({"id": 6, "name": "more", "isthing": 0})
    (labels / "panoptic" / "panoptic.json").write_text(json.dumps(content))
    (folder / "panoptic" / "second.png").unlink()
    with pytest.raises(UserError, match=r"2 stuff clusters, the labels .*run have 3"):
        evaluate_folder(folder, truth, settings, mapping=given)


def test_random_clusters_of_no_segment(tmp_path):
    """An image without any segment has nothing to draw for."""
    maps = {i: (np.zeros((4, 6), np.int32), {}) for i in (21, 22)}
    folder = write_predictions(tmp_path / "p", maps, SPACE)
    found = evaluate_folder(
        folder, write_truth(tmp_path), EvalSettings(baselines=True, bootstrap=0)
    )
    for row in found["baselines"].values():
        assert row["protocols"]["custom"]["panoptic"]["all"]["PQ"] == 0.0
