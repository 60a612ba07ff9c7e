"""The table of losses, the lines of metrics.json and of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from u2seg.engine.telemetry import LossTable, drop_lines, progress_line
from u2seg.errors import UserError


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_rows_are_appended_under_one_head(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    table = LossTable(path, 0)
    table.add(19, {"total_loss": 1.5, "loss_mask": 0.25, "memory_gb": 2, "lr": 0.01})
    table.add(39, {"total_loss": 1 / 3, "loss_mask": float("nan"), "lr": 0.01})
    assert lines(path) == [
        "iteration,loss_mask,lr,total_loss,memory_gb",
        "19,0.25,0.01,1.5,2",
        "39,nan,0.01,0.333333333,",
    ]


def test_a_resumed_training_replaces_the_rows_it_computes_again(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("iteration,total_loss\n19,3\n39,2\n59,1\n7")
    table = LossTable(path, 40)
    assert lines(path) == ["iteration,total_loss", "19,3", "39,2"]
    table.add(59, {"total_loss": 1.5})
    assert lines(path) == ["iteration,total_loss", "19,3", "39,2", "59,1.5"]


def test_a_new_column_widens_the_table(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    table = LossTable(path, 0)
    table.add(1, {"total_loss": 1})
    table.add(2, {"total_loss": 2, "loss_rpn": 3})
    assert lines(path) == ["iteration,total_loss,loss_rpn", "1,1,", "2,2,3"]


def test_an_empty_table_begins_anew_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("iterat")  # killed while writing the head
    table = LossTable(path, 5)
    table.add(5, {"total_loss": 1})
    assert lines(path) == ["iteration,total_loss", "5,1"]
    path.write_text("name,price\nbread,2\n")
    with pytest.raises(UserError, match="is no table of losses"):
        LossTable(path, 5)


def test_metrics_json_loses_later_and_garbled_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    drop_lines(path, 3)
    assert not path.exists()
    rows = [json.dumps({"iteration": n, "total_loss": 1.0}) for n in (1, 2, 3, 4)]
    path.write_text("\n".join([*rows, "[1]", '{"iteration": 5, "to']))
    drop_lines(path, 3)
    assert lines(path) == rows[:2]


def test_the_line_leaves_out_what_is_not_known() -> None:
    assert progress_line(0, 2, {"loss_b": 1, "total_loss": 3.25, "loss_a": 2.25, "time": 1}) == (
        "iteration 1 of 2  total_loss 3.25  loss_a 2.25  loss_b 1"
    )
