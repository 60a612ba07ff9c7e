"""The table of rounds, by hand; tests/test_workflow.py sees its pictures in a whole run."""

from __future__ import annotations

from pathlib import Path

from u2seg.io.atomic import write_json
from u2seg.visualization.rounds import COLUMNS, read_rounds
from u2seg.visualization.sources import Notes


def test_rows_say_what_changed_and_what_it_brought(tmp_path: Path) -> None:
    first = {"round": 0, "labels": {"images": 3}, "panoptic": {"all": {"PQ": 10.04}}}
    labels = {"predicted": 1234, "agreed": 1, "kept": 20, "replaced": 3, "stuff_changed": 56}
    second = {
        "round": 1,
        "labels": labels,
        "panoptic": {"all": {"PQ": 12.3}},
        "semantic": {"mIoU": None},
        "class_agnostic": {"segm": {"AR100": 5.0}},
    }
    write_json(tmp_path / "rounds.json", {"rounds": [first, second]})
    notes = Notes()
    found = read_rounds(tmp_path / "rounds.json", None, 3, notes)
    assert found.rows == [
        ("0", "–", "–", "–", "–", "–", "10.0", "–", "–"),
        ("1", "1,234", "1", "20", "3", "56", "12.3", "–", "5.0"),
    ]
    assert len(found.rows[0]) == len(COLUMNS)
    assert not notes and not found.samples


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
