"""Files beside the metrics: classes, clusters, images, and the worst of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.evaluation.collect import NONE, collect
from u2seg.evaluation.figures import Scoring, image_counts, score
from u2seg.evaluation.protocols.mapping import ClusterMapping
from u2seg.evaluation.report import details as confusion
from u2seg.evaluation.report import details as worst
from u2seg.evaluation.report.details import (
    CLASS_COLUMNS,
    ImageScore,
    class_rows,
    clusters_csv,
    count_clusters,
    csv_text,
    image_scores,
    ranked,
    unmatched_clusters,
    worst_images,
)
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.predictions import read_predictions
from u2seg.io.png import read_panoptic_png
from u2seg.structures.labels import LabelSpace

SPACE = LabelSpace(num_things=3, num_stuff=2)


CLUSTERS = {1: 3, 2: 1, 3: 5, 4: 4}


"""True class -> cluster that stands for it: cat 3, dog 1, grass 5, sky 4; cluster 2 is empty."""


MAPPING = ClusterMapping(things={3: 1}, stuff={4: 4, 5: 3}, votes=((3, 1, 3), (2, 1, 1)))


"""The dog's cluster has no class."""


@pytest.fixture
def scored(tmp_path: Path):
    """The cat takes one of seven pixels of grass, and the pixel of void is called sky."""
    maps = relabelled(CLUSTERS)
    ids, _ = maps[21]
    ids[2, 2], ids[3, 5] = 111, 114
    truth = read_truth(write_truth(tmp_path))
    predicted = read_predictions(write_predictions(tmp_path / "p", maps, SPACE), truth)
    return truth, predicted, collect(truth, predicted)


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_pixels_of_clusters_by_hand(scored):
    truth, predicted, tables = scored
    counts = count_clusters(tables)
    assert counts.pixels == {
        (3, 1): 4 + 9, (3, 3): 1, (1, 2): 4, (5, 3): 6 + 15, (4, 4): 8, (4, NONE): 1,
    }  # fmt: skip
    assert counts.segments == {3: 3, 1: 1, 5: 2, 4: 1} and counts.instances == {3: 3, 1: 1}
    assert counts.of_cluster() == {3: 14, 1: 4, 5: 21, 4: 9}
    found = lines(clusters_csv(counts, predicted.panoptic, truth, MAPPING))
    assert [(r["cluster"], r["class"], r["pixels"], r["votes"], r["mapped"]) for r in found] == [
        ("stuff_1", "grass", "21", "0", "1"), ("thing_2", "cat", "13", "3", "1"),
        ("thing_2", "grass", "1", "0", "0"), ("stuff_0", "sky", "8", "0", "1"),
        ("stuff_0", confusion.UNLABELLED, "1", "0", "0"), ("thing_0", "dog", "4", "0", "0"),
        ("thing_1", "cat", "0", "1", "0"),
    ]  # fmt: skip
    assert float(found[1]["share"]) == pytest.approx(100 * 13 / 14)
    assert [found[i]["kind"] for i in (0, 1)] == ["stuff", "thing"]


def test_what_unmatched_clusters_hold(scored):
    _, predicted, tables = scored
    found = unmatched_clusters(count_clusters(tables), predicted.panoptic, MAPPING)
    assert found["things"] == {
        "clusters": 3, "unmatched": 2, "names": ["thing_0"],
        "pixels": pytest.approx(100 * 4 / 18), "segments": 25.0, "instances": 25.0,
    }  # fmt: skip
    assert found["stuff"] == {
        "clusters": 2, "unmatched": 0, "names": [], "pixels": 0.0, "segments": 0.0,
    }  # fmt: skip
    nothing = unmatched_clusters(count_clusters([]), predicted.panoptic, MAPPING)
    assert nothing["things"]["pixels"] is None and nothing["things"]["unmatched"] == 2


def test_a_row_per_class(scored):
    truth, predicted, tables = scored
    metrics = score(truth, predicted, tables, MAPPING, Scoring()).blocks
    rows = class_rows(metrics, truth, MAPPING, tables, predicted.panoptic.names)
    cat, dog, grass, sky = lines(csv_text(CLASS_COLUMNS, rows))
    assert cat["class"] == "cat" and cat["kind"] == "thing" and cat["clusters"] == "thing_2"
    # one cat 4/5, two perfect
    assert float(cat["PQ"]) == pytest.approx(100 * 2.8 / 3)
    assert (cat["TP"], cat["FP"], cat["FN"], cat["pixels"]) == ("3", "0", "0", "13")
    assert float(cat["IoU"]) == pytest.approx(100 * 13 / 14)
    assert float(cat["AP50"]) == pytest.approx(100.0) and float(cat["AP"]) < 100
    assert (dog["PQ"], dog["FN"], dog["clusters"], dog["AP"]) == ("0.0", "1", "", "0.0")
    assert grass["pixels"] == "22" and sky["AP"] == "" and sky["accuracy"] == "100.0"
    bare = class_rows({"panoptic": None}, truth, MAPPING, tables, predicted.panoptic.names)
    assert bare[0][3:17] == [None] * 14


def test_figures_of_one_image_by_hand(scored):
    truth, _, tables = scored
    counts = [image_counts(table, truth, MAPPING, Scoring()) for table in tables]
    first, second = image_scores(counts, truth)
    # cat 4/5, dog missed, grass 6/7, sky 1 (void does not count); 23 pixels with truth
    assert first.pq == pytest.approx(100 * (4 / 5 + 0 + 6 / 7 + 1) / 4)
    assert first.accuracy == pytest.approx(100 * 18 / 23)
    assert first.missed == pytest.approx(100 * 4 / 23)
    assert second == ImageScore(22, 100.0, 100.0, 0.0)
    text = worst.images_csv([first, second], truth)
    assert [row["name"] for row in lines(text)] == ["a/first", "second"]


def test_ranking_leaves_out_what_is_undefined():
    rows = [ImageScore(1, None, None, None), ImageScore(2, 10.0, 5.0, 1.0),
            ImageScore(3, 5.0, 5.0, 2.0)]  # fmt: skip
    assert [r.image_id for r in ranked(rows, "PQ")] == [3, 2]
    assert [r.image_id for r in ranked(rows, "accuracy")] == [2, 3]
    assert [r.image_id for r in ranked(rows, "missed")] == [3, 2]


def test_worst_images_can_be_drawn_from_files_alone(scored):
    truth, predicted, tables = scored
    counts = [image_counts(table, truth, MAPPING, Scoring()) for table in tables]
    found = worst_images(image_scores(counts, truth), truth, predicted, MAPPING, predicted.folder)
    assert (found["ranked_by"], found["worst"], found["median"], found["best"]) == (
        "PQ", [21], [], [22],
    )  # fmt: skip
    assert found["rankings"]["missed"] == [21, 22]
    first = found["images"]["21"]
    assert first["name"] == "a/first" and first["png"] == "a/first.png" and first["whole_image"]
    assert first["segments"] == {"111": 1, "112": None, "113": 3, "114": 4}
    assert first["true_segments"] == {"11": 1, "12": 2, "13": 3, "14": 4}
    assert found["classes"]["3"] == {"name": "grass", "isthing": 0}
    ids = read_panoptic_png(predicted.folder / first["truth"])
    assert (ids == truth.read(21).ids).all()
    ids = read_panoptic_png(predicted.folder / first["prediction"])
    assert (ids == predicted.panoptic.read_ids(21)).all()


def test_a_truth_that_cannot_be_read_again_is_named(scored, tmp_path):
    truth, predicted, _ = scored
    (tmp_path / "truth" / "second.png").unlink()
    with pytest.raises(UserError, match=r"second\.png"):
        worst_images([ImageScore(22, 1.0, 1.0, 1.0)], truth, predicted, MAPPING, predicted.folder)


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
