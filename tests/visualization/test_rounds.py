"""The table of rounds, by hand; tests/workflows/test_run.py sees its pictures in a whole run."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.visualization.fake_run import METRICS, write_run
from tests.visualization.test_report import facts
from u2seg.io.atomic import write_json
from u2seg.visualization.report import build_page, write_report
from u2seg.visualization.rounds import read_rounds
from u2seg.visualization.sources import Notes


def test_rows_say_what_changed_and_what_it_brought(tmp_path: Path) -> None:
    first = {"round": 0, "labels": {"images": 3}, "panoptic": {"all": {"PQ": 10.04}}}
    labels = {"predicted": 1234, "agreed": 1, "kept": 20, "replaced": 3, "stuff_changed": 56}
    second = {
        "round": 1,
        "relabel": "agree",
        "labels": labels,
        "panoptic": {"all": {"PQ": 12.3}},
        "semantic": {"mIoU": None},
        "class_agnostic": {"segm": {"AR100": 5.0}},
    }
    write_json(tmp_path / "rounds.json", {"rounds": [first, second]})
    notes = Notes()
    found = read_rounds(tmp_path / "rounds.json", None, 3, notes)
    assert found.columns == [
        "round", "relabel", "things by score", "by agreement", "kept", "replaced",
        "stuff pixels changed", "PQ", "mask AR100",
    ]  # fmt: skip
    assert found.rows == [
        ["0", "–", "–", "–", "–", "–", "–", "10.0", "–"],
        ["1", "agree", "1,234", "1", "20", "3", "56", "12.3", "5.0"],
    ]
    assert not notes and not found.samples


def test_without_truth_figures_are_said_not_to_compare(tmp_path: Path) -> None:
    folders = write_run(tmp_path, count=1)
    entries = [{"round": n, "labels": {}, "panoptic": {"all": {"PQ": 50.0}}} for n in (0, 1)]
    write_json(tmp_path / "rounds.json", {"rounds": entries})
    for reference, column, card, told in (
        (
            "pseudo-labels",
            "PQ, own labels",
            "PQ (agreement with the last round&#39;s own labels)",
            1,
        ),
        ("scenes val", "PQ", "PQ", 0),
    ):
        metrics = {**METRICS, "protocol": {"reference": reference}}
        write_json(folders.predictions / "metrics.json", metrics)
        inputs = {"labels": None, "train": None, "predictions": folders.predictions}
        page = build_page(**inputs, title="t", rounds=tmp_path / "rounds.json")
        assert page.rounds.columns == ["round", column] and facts(page)[card] == "38.2"
        path = write_report(tmp_path, **inputs, title="t", rounds=tmp_path / "rounds.json")
        assert path.read_text().count("cannot be compared between rounds") == told


def test_time_and_iterations_of_all_rounds_are_added(tmp_path: Path) -> None:
    folders = write_run(tmp_path, count=1)  # 381 iterations in 190 + 22.5 s, say its files
    home = tmp_path / "rounds" / "1"
    shutil.copytree(folders.train, home / "train")
    write_json(home / "labels" / "timings.json", {"images": 1.5, "panoptic": 2.5})
    write_json(tmp_path / "rounds.json", {"rounds": [{"round": n, "labels": {}} for n in (0, 1)]})
    inputs = {"labels": None, "train": home / "train", "predictions": None, "title": "t"}
    shown = facts(build_page(**inputs, rounds=tmp_path / "rounds.json"))
    assert shown["training iterations"] == "762"
    assert shown["computing time"] == "7 min 9 s"  # 2 * 212.5 + 4 s
    (folders.train / "metrics.json").unlink()
    shown = facts(build_page(**inputs, rounds=tmp_path / "rounds.json"))
    assert shown["training iterations of the last round"] == "381"


def test_without_a_round_there_is_no_section(tmp_path: Path) -> None:
    notes = Notes()
    assert read_rounds(tmp_path / "rounds.json", None, 3, notes).rows == []
    write_json(tmp_path / "rounds.json", {"rounds": [{"round": 0, "labels": {}}]})
    assert read_rounds(tmp_path / "rounds.json", None, 3, notes).rows == []
    assert not notes


def test_a_garbled_summary_is_a_note(tmp_path: Path) -> None:
    notes = Notes()
    (tmp_path / "rounds.json").write_text('{"rounds": [{"round": 0}, {"round": 1}]}')
    assert read_rounds(tmp_path / "rounds.json", None, 3, notes).rows == []
    assert len(notes) == 1 and "rounds left out" in notes[0]
