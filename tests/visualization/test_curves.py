"""Curves of a training in the report."""

from __future__ import annotations

import json
import math
from pathlib import Path

from u2seg.visualization.curves import smoothed, training_curves
from u2seg.visualization.sources import Notes, read_train_run


def test_smoothing_by_hand() -> None:
    assert smoothed([0, 3, 6, 0, 9], 1) == [1.5, 3.0, 3.0, 5.0, 4.5]
    assert smoothed([4.0, 8.0], 0) == [4.0, 8.0]
    assert smoothed([], 3) == []
    found = smoothed([math.inf, 1.0, 2.0, math.nan], 5)
    assert found[:3] == [math.inf, 1.5, 1.5]
    assert math.isnan(found[3])


def test_order_labels_and_a_smoothed_line_where_there_are_points_enough() -> None:
    x = [float(i) for i in range(25)]
    y = [float(i % 2) for i in range(25)]
    few = ([0.0, 1.0], [2.0, 1.0])
    curves = {"lr": few, "loss_mask": (x, y), "images_per_second": few, "total_loss": few}
    found = training_curves(curves)
    assert [curve.title for curve in found] == [
        "Training: total_loss", "Training: loss_mask", "Training: images_per_second",
        "Training: lr",
    ]  # fmt: skip
    assert [curve.total for curve in found] == [True, False, False, False]
    assert [curve.svg.count("<polyline") for curve in found] == [1, 2, 1, 1]
    assert "smoothed" in found[1].svg
    assert "images per second over iteration" in found[2].svg
    assert "learning rate over iteration" in found[3].svg


def test_the_speed_is_read_from_metrics_json(tmp_path: Path) -> None:
    rows = [{"iteration": n, "total_loss": 2.0 - n, "images_per_second": 7.5} for n in (0, 1)]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    run = read_train_run(tmp_path, Notes())
    assert run.curves["images_per_second"] == ([0.0, 1.0], [7.5, 7.5])
