"""The evaluation part of the report, from the files of a real evaluation of two tiny images."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.visualization.fake_run import METRICS
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.structures.labels import LabelSpace
from u2seg.visualization.confusion import MAX_COLUMNS, OTHER, confusion_chart, read_lines
from u2seg.visualization.evaluation import (
    comparison_rows,
    evaluation_part,
    interval_sentence,
    protocol_sentences,
)
from u2seg.visualization.matrix import matrix_chart
from u2seg.visualization.metrics import interval_text, metric_rows
from u2seg.visualization.report import report_line, write_report
from u2seg.visualization.sources import Notes, read_predictions


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
    assert part.ranked_by.startswith("panoptic quality")
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
        path = write_report(tmp_path, labels=None, train=None, predictions=root, title="t")
        told[name] = path.read_text()
    assert "<figcaption>truth<" in told["truth"] and "What truly lies under" in told["truth"]
    assert "<figcaption>pseudo-labels<" in told["pseudo-labels"]
    assert "What the pseudo-labels hold under" in told["pseudo-labels"]
    for word in ("<figcaption>truth<", 'alt="truth of', "truly", "true pixels"):
        assert word not in told["pseudo-labels"], word


def test_protocols_and_baselines_are_rows_of_one_table(folder):
    rows = part_of(folder).compared
    assert [row.name for row in rows] == [
        "one-to-one: model", "one-to-one: one cluster", "one-to-one: random clusters",
        "u2seg-released: model", "u2seg-released: one cluster", "u2seg-released: random clusters",
    ]  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert rows[0].values[0] == f"{metrics['panoptic']['all']['PQ']:.1f}"
    assert rows[0].intervals[0] == interval_text(metrics["ci95"]["panoptic"]["all"]["PQ"]) != ""
    one = metrics["baselines"]["one_cluster"]["protocols"]["u2seg-released"]
    assert rows[4].values[3] == f"{one['semantic']['mIoU']:.1f}"
    assert comparison_rows(METRICS) == [], "a single row says nothing new"


def test_the_page_shows_it_all(folder, tmp_path):
    text = write_report(
        tmp_path / "r.html", labels=None, train=None, predictions=folder, title="t"
    ).read_text("utf-8")
    words = re.sub(r"<[^>]*>", " ", text)
    for sentence in (
        "one to one (Hungarian)", "fitted on the same 2 images that are scored",
        "Clusters against classes", "1 of 3 thing clusters have no class",
        "In brackets: 95", "50 resamples", "Images ranked by panoptic quality",
    ):  # fmt: skip
        assert sentence in words, sentence
    again = write_report(
        tmp_path / "s.html", labels=None, train=None, predictions=folder, title="t"
    )
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
    assert part.class_columns == ["class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU",
                                  "accuracy", "AP", "AP50", "AR100", "clusters"]  # fmt: skip
    rows = {row[0]: row[1:] for row in part.classes}
    assert list(rows) == ["cat", "dog", "grass", "sky"]
    # of three cats one has no class
    assert rows["cat"][:7] == ["thing", "80.0", "100.0", "80.0", "2", "0", "1"]
    assert rows["cat"][-1] == "thing_2" and rows["sky"][9:12] == ["–", "–", "–"]


def test_intervals_stand_behind_their_figures():
    ci95 = {"panoptic": {"all": {"PQ": [30.04, 45.26], "SQ": None}}}
    row = next(r for r in metric_rows({**METRICS, "ci95": ci95}) if r.name == "Panoptic, all")
    assert row.cells[:2] == [("38.2", "[30.0, 45.3]"), ("70.0", "")]
    assert interval_text([1.0]) == interval_text("ab") == interval_text([1.0, None]) == ""
    assert interval_sentence({}) == "" and "1000 resamples" in interval_sentence(
        {"resamples": 1000}
    )


def test_the_protocol_in_words():
    released = {
        "name": "u2seg-released", "matching": "majority", "unmatched": "false_positive",
        "things": {"votes": "instances", "overlap": "box", "iou": 0.7, "strict": True,
                   "score": 0.6},
        "stuff": {"votes": "images", "iou": 0.15}, "images": 9, "images_without_prediction": 2,
        "mapping": {"in_words": "fitted on 4 images of x.json, none of which is scored"},
    }  # fmt: skip
    text = " ".join(protocol_sentences(released))
    for words in (
        "Protocol u2seg-released", "many to one", "a box IoU above 0.7 and a score from 0.6 on",
        "stuff by images in which the IoU is above 0.15", "none of which is scored",
        "are false positives", "2 of 9 images have no prediction",
    ):  # fmt: skip
        assert words in text, words
    pixels = {"matching": "hungarian", "things": {"votes": "pixels"}, "stuff": {"votes": "pixels"}}
    assert "Votes: things by pixels, stuff by pixels." in protocol_sentences(pixels)
    assert protocol_sentences({}) == []


def lines(*rows):
    names = ("cluster", "class", "pixels", "mapped")
    return [dict(zip(names, map(str, row), strict=True)) for row in rows]


def test_chart_of_clusters_by_hand():
    """Cluster a: 30 of cat (its class), 10 of dog; b has no class and a quarter of all pixels."""
    svg = confusion_chart(
        lines(("a", "cat", 30, 1), ("a", "dog", 10, 0), ("b", "dog", 15, 0), ("c", "cat", 0, 1))
    )
    assert re.findall(r'fill-opacity="([^"]*)"', svg) == ["0.75", "0.25", "1.00"]
    assert re.findall(r">(\d+)</text>", svg) == ["75", "25", "100"]
    assert svg.count('stroke-width="2"') == 1, "the class of a is framed, c is not shown"
    assert "73 % → cat" in svg and "27 % → no class" in svg and ">c<" not in svg
    assert OTHER not in svg


def test_many_classes_share_the_last_column():
    rows = [("a", f"class {i:03d}", 100 - i, int(i == 60)) for i in range(70)]
    svg = confusion_chart(lines(*rows))
    assert svg.count("rotate(-45") == MAX_COLUMNS + 1 and OTHER in svg
    assert "→ class 060" in svg


def test_names_are_escaped_and_cut():
    svg = matrix_chart(["<b>" * 20], ["x&y"], {(0, 0): 0.001})
    assert "<b>" not in svg and "&lt;b&gt;" in svg and "x&amp;y" in svg and "…" in svg
    assert "fill-opacity" not in svg, "next to nothing is not drawn"
    assert "nothing to draw" in matrix_chart([], ["a"], {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("clusters.csv", "cluster,class\na,b\n"),
        ("per_class.csv", "class,PQ\na,b\n"),
        ("worst.json", "{}"),
        ("worst.json", '{"images": {}, "worst": [1], "median": [], "best": [], "classes": {}}'),
        ("metrics.json", '{"unmatched_clusters": {"things": {"clusters": 1}}}'),
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
    monkeypatch.setattr("u2seg.visualization.confusion._LARGEST", 3)
    (tmp_path / "clusters.csv").write_text("abcd")
    with pytest.raises(UserError, match="is larger than"):
        read_lines(tmp_path / "clusters.csv")
    with pytest.raises(UserError, match="cannot read"):
        read_lines(tmp_path / "none.csv")
