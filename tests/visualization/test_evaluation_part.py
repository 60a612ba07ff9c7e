"""The evaluation part of the report, from the files of a real evaluation of two tiny images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.visualization.fake_run import METRICS
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.structures.labels import LabelSpace
from u2seg.visualization.evaluation import (
    MAX_COLUMNS,
    OTHER,
    comparison,
    confusion_table,
    evaluation_part,
    is_agreement,
    read_lines,
)
from u2seg.visualization.report import Page, render, report_line, write_report
from u2seg.visualization.sources import Notes, Predictions, read_predictions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two protocols with baselines; one to one, a cat of the second image has no class."""
    root = tmp_path_factory.mktemp("evaluation")
    maps = relabelled({1: 3, 2: 1, 3: 5, 4: 4})
    maps[22][1][102] = 2
    predictions = write_predictions(root / "p", maps, LabelSpace(3, 2))
    settings = EvalSettings(baselines=True, bootstrap=50)
    evaluate_folder(
        predictions, write_truth(root), settings, protocols=["one-to-one", "u2seg-released"]
    )
    for name in ("a/first.jpg", "second.jpg"):
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        rgb = np.full((4, 6, 3), (40, 90, 160), dtype=np.uint8)
        Image.fromarray(rgb).save(root / "photos" / name)
    return predictions


def part_of(folder, root=None):
    notes = Notes()
    part = evaluation_part(read_predictions(folder, notes), root, notes)
    assert not notes
    return part


def test_pictures_with_and_without_photographs(folder):
    part = part_of(folder, folder.parent / "photos")
    assert [heading for heading, _ in part.groups] == ["Worst", "Best"]
    (worst,) = part.groups[0][1]
    assert worst.name == "second.jpg" and worst.size.startswith("PQ ")
    assert [p.caption for p in worst.pictures] == [
        "photograph", "truth", "prediction; without a class: 1",
    ]  # fmt: skip
    assert part.ranked_by == "PQ"
    (bare,) = part_of(folder).groups[0][1]
    assert [p.caption for p in bare.pictures] == ["truth", "prediction; without a class: 1"]
    assert bare.pictures[0].uri != worst.pictures[1].uri


def test_pseudo_labels_are_not_called_truth(folder, tmp_path):
    copy = tmp_path / "p"
    shutil.copytree(folder, copy)
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["protocol"]["reference"] = "pseudo-labels"
    (copy / "metrics.json").write_text(json.dumps(metrics))
    told = {}
    for name, root in (("truth", folder), ("pseudo-labels", copy)):
        path = write_report(tmp_path, predictions=root, title="t")
        told[name] = path.read_text()
    assert "<figcaption>truth<" in told["truth"] and "What truly lies under" in told["truth"]
    assert "<figcaption>pseudo-labels<" in told["pseudo-labels"]
    assert "PQ (agreement with the pseudo-labels)" in told["pseudo-labels"]
    for word in ("<figcaption>truth<", 'alt="truth of', "truly", "true pixels", "per_class.csv",
                 "Clusters against classes", "Protocols and baselines"):  # fmt: skip
        assert word not in told["pseudo-labels"], word


def cells(text):
    """The rows of the page's tables: first cell -> the others."""
    rows = re.findall(r"<tr><td.*?</tr>", text.replace("\u00a0", " "), re.S)
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in rows]
    return {
        row[0]: [" ".join(re.sub(r"<[^>]*>", " ", c).split()) for c in row[1:]] for row in found
    }


def shown(metrics):
    """The page of these metrics alone."""
    part = Predictions(None, Path("nowhere"), metrics)
    return render(Page("t", evaluation=evaluation_part(part, None, Notes())))


def test_protocols_and_baselines_are_rows_of_one_table(folder):
    part = part_of(folder)
    assert [name for name, _ in part.compared] == [
        "one-to-one: model", "one-to-one: one cluster", "one-to-one: random clusters",
        "u2seg-released: model", "u2seg-released: one cluster", "u2seg-released: random clusters",
    ]  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = cells(shown(metrics))
    low, high = metrics["ci95"]["panoptic"]["all"]["PQ"]
    headline = f"{metrics['panoptic']['all']['PQ']:.1f} [{low:.1f}, {high:.1f}]"
    assert rows["one-to-one: model"][0] == rows["Panoptic, all"][0] == headline
    one = metrics["baselines"]["one_cluster"]["protocols"]["u2seg-released"]
    assert rows["u2seg-released: one cluster"][3].startswith(f"{one['semantic']['mIoU']:.1f}")
    assert len(comparison(METRICS)) == 1 and "Protocols and baselines" not in shown(METRICS)


def test_undefined_and_missing_figures():
    rows = cells(shown({
        "panoptic": {"all": {"PQ": 12.345, "SQ": None, "RQ": float("nan")}, "things": None},
        "instances": "garbled", "semantic": {"mIoU": None, "pixel_accuracy": None},
    }))  # fmt: skip
    assert rows["Panoptic, all"] == ["12.3", "–", "–"]
    assert not {"Panoptic, things", "Semantic segmentation", "Instances by class, boxes"} & {*rows}


def test_the_reference_is_said_plainly():
    assert is_agreement({"protocol": {"reference": "pseudo-labels"}})
    path = {"protocol": {"reference": "/data/pseudo/val.json"}}
    assert not is_agreement(path), "only the word itself, not a path that contains it"
    assert "Measured against: COCO val2017." in shown({"protocol": {"reference": "COCO val2017"}})
    assert "does not say what the predictions" in shown({"semantic": {"mIoU": 1.0}})


def test_the_page_shows_it_all(folder, tmp_path):
    text = write_report(tmp_path / "r.html", predictions=folder, title="t").read_text("utf-8")
    words = re.sub(r"<[^>]*>", " ", text)
    for sentence in (
        "one to one (Hungarian)", "fitted on the same 2 images that are scored",
        "Clusters against classes", "1 of 3 thing clusters have no class",
        "In brackets: 95", "50 resamples", "Images ranked by panoptic quality",
    ):  # fmt: skip
        assert sentence in words, sentence
    again = write_report(tmp_path / "s.html", predictions=folder, title="t")
    assert again.read_text("utf-8") == text


def test_results_in_another_folder_than_the_predictions(folder, tmp_path):
    """As u2seg evaluate --output leaves them: nothing of the first evaluation is shown."""
    alone, results = tmp_path / "predictions", tmp_path / "results"
    shutil.copytree(folder, alone)
    results.mkdir()
    for name in ("metrics.json", "per_class.csv", "clusters.csv", "worst.json", "worst"):
        (alone / name).rename(results / name)
    line = report_line(results, "t", predictions=alone, results=results)
    assert line == f"report: {results / 'report.html'}"
    whole = write_report(tmp_path / "whole", predictions=folder, title="t")
    assert (results / "report.html").read_bytes() == whole.read_bytes()


def test_classes_are_a_table(folder):
    part = part_of(folder)
    assert part.class_columns == ("class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU",
                                  "accuracy", "AP", "AP50", "AR100", "clusters")  # fmt: skip
    rows = {row[0]: row[1:] for row in part.classes}
    assert list(rows) == ["cat", "dog", "grass", "sky"]
    # of three cats one has no class
    assert rows["cat"][:7] == ["thing", "80.0", "100.0", "80.0", "2", "0", "1"]
    assert rows["cat"][-1] == "thing_2" and rows["sky"][9:12] == ["–", "–", "–"]


def one_line(text):
    return " ".join(text.split())


def test_the_protocol_in_words():
    released = {
        "name": "u2seg-released", "matching": "majority", "unmatched": "false_positive",
        "things": {"votes": "instances", "overlap": "box", "iou": 0.7, "strict": True,
                   "score": 0.6},
        "stuff": {"votes": "images", "iou": 0.15}, "images": 9, "images_without_prediction": 2,
        "mapping": {"in_words": "fitted on 4 images of x.json, none of which is scored"},
    }  # fmt: skip
    text = shown({"protocol": released})
    for words in (
        "Protocol u2seg-released", "many to one", "a box IoU above 0.7 and a score from 0.6 on",
        "stuff by images in which the IoU is above 0.15", "none of which is scored",
        "are false positives", "2 of 9 images have no prediction",
    ):  # fmt: skip
        assert words in text, words
    pixels = {"matching": "hungarian", "things": {"votes": "pixels"}, "stuff": {"votes": "pixels"}}
    assert "Votes of things by pixels. Votes of stuff by pixels." in one_line(
        shown({"protocol": pixels})
    )


def lines(*rows):
    names = ("cluster", "class", "pixels", "mapped")
    return [dict(zip(names, map(str, row), strict=True)) for row in rows]


def test_table_of_clusters_by_hand():
    """Cluster a: 30 of cat (its class), 10 of dog; b has no class and a quarter of all pixels."""
    table = confusion_table(
        lines(("a", "cat", 30, 1), ("a", "dog", 10, 0), ("b", "dog", 15, 0), ("c", "cat", 0, 1))
    )
    assert table["heads"] == ["cat", "dog"]
    assert table["rows"] == [
        ("a", [[0.75, True], [0.25, False]], 40 / 55, "cat"),
        ("b", [[0.0, False], [1.0, False]], 15 / 55, "no class"),
    ]


def test_many_classes_share_the_last_column():
    rows = [("a", f"class {i:03d}", 100 - i, int(i == 60)) for i in range(70)]
    table = confusion_table(lines(*rows))
    assert len(table["heads"]) == MAX_COLUMNS + 1 and table["heads"][-1] == OTHER
    [(_, cells, share, given)] = table["rows"]
    assert cells[-1][1] and share == 1.0 and given == "class 060"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("clusters.csv", "cluster,class\na,b\n"),
        ("per_class.csv", "class,PQ\na,b\n"),
        ("worst.json", "{}"),
        ("worst.json", '{"images": {}, "worst": [1], "median": [], "best": [], "classes": {}}'),
    ],
)
def test_garbled_files_are_notes(folder, tmp_path, name, content):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).write_text(content)
    notes = Notes()
    evaluation_part(read_predictions(copy, notes), None, notes)
    assert len(notes) == 1 and "left out" in notes[0]


def test_a_map_outside_the_folder_is_not_opened(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = json.loads((copy / "worst.json").read_text())
    content["images"]["22"]["truth"] = "../secret.png"
    (copy / "worst.json").write_text(json.dumps(content))
    notes = Notes()
    evaluation_part(read_predictions(copy, notes), None, notes)
    assert "leaves its root" in notes[0]


def test_a_huge_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("u2seg.visualization.evaluation._LARGEST", 3)
    (tmp_path / "clusters.csv").write_text("abcd")
    with pytest.raises(UserError, match="is larger than"):
        read_lines(tmp_path / "clusters.csv")
    with pytest.raises(UserError, match="cannot read"):
        read_lines(tmp_path / "none.csv")
