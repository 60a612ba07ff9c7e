"""Charts: what is drawn, by hand; text is escaped; equal data gives equal bytes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from u2seg.visualization import charts
from u2seg.visualization.sources import Notes, read_train_run

AXES = {"x_label": "x", "y_label": "y"}


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


def heights(svg: str) -> list[float]:
    """Heights of the filled rectangles, in units of the smallest that is not 0."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*fill: {charts.COLORS[0]}', svg)
    spans = [[float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)] for path in paths]
    found = [max(span) - min(span) for span in spans]
    unit = min(height for height in found if height > 0)
    return [round(height / unit, 2) for height in found]


def curve(svg: str, color: str = charts.COLORS[0]) -> list[tuple[float, float]]:
    path = re.findall(rf'<path d="([^"]*)"[^>]*fill: none; stroke: {color}', svg)[0]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]


def test_lines_by_hand() -> None:
    svg = charts.line_chart({"a": ([0, 1, math.nan, 2], [0, 5, 9, 10]), "b": ([0], [3])}, **AXES)
    (x0, y0), (x1, y1), (x2, y2) = curve(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.01) and y0 - y1 == pytest.approx(
        y1 - y2, abs=0.01
    )
    assert {"x", "y", "a", "b"} <= set(texts(svg))
    assert "no values" in charts.line_chart({"a": ([0], [math.nan])}, **AXES)


def test_long_curves_are_averaged_in_bins() -> None:
    svg = charts.line_chart({"a": (range(3000), [float(v % 10) for v in range(3000)])}, **AXES)
    assert len({y for _, y in curve(svg)}) == 1, "each bin of ten has the mean 4.5"


def test_histograms_and_columns_by_hand() -> None:
    assert heights(charts.histogram([0, 1, 1, 3], integers=True, **AXES)) == [1, 2, 0, 1]
    svg = charts.histogram([0, 1, 10, 100], log=True, bins=3, **AXES)
    assert heights(svg) == [1, 1, 1] and {"1", "10", "100"} <= set(texts(svg))
    assert heights(charts.columns([6, 3, 0], **AXES)) == [2, 1, 0]


def test_bars_have_a_name_and_a_note_each() -> None:
    svg = charts.bars([("masks", 2.0, "2 s"), ("train", 1.0, "1 s")])
    assert sorted(texts(svg)) == ["1 s", "2 s", "masks", "train"]


@pytest.mark.parametrize(
    "svg",
    [
        charts.line_chart(
            {"<b>&$x$": ([0, 1], [1, 2]), "b": ([0], [0])}, x_label="<i>", y_label='"'
        ),
        charts.bars([("<script>", 1.0, "</svg>")]),
    ],
)
def test_text_is_escaped_and_takes_the_colour_of_the_page(svg: str) -> None:
    assert not re.search(r"<(script|b|i|metadata)>", svg) and "http://purl" not in svg
    assert "currentColor" in svg and texts(svg)


def test_equal_data_gives_equal_bytes() -> None:
    one, two = (charts.columns([3, 2], **AXES) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("values", [[3.0, 3.0], [0.0, 0.0], [-2.0, -2.0]])
def test_equal_values_have_a_chart_too(values: list[float]) -> None:
    assert texts(charts.line_chart({"a": ([0, 1], values)}, **AXES))
    assert texts(charts.histogram(values, **AXES))


def test_smoothing_by_hand() -> None:
    assert charts.smoothed([0, 3, 6, 0, 9], 1) == [1.5, 3.0, 3.0, 5.0, 4.5]
    assert charts.smoothed([4.0, 8.0], 0) == [4.0, 8.0] and charts.smoothed([], 3) == []
    found = charts.smoothed([math.inf, 1.0, 2.0, math.nan], 5)
    assert found[:3] == [math.inf, 1.5, 1.5] and math.isnan(found[3])


def test_order_labels_and_a_smoothed_line_where_there_are_points_enough() -> None:
    x = [float(i) for i in range(25)]
    few = ([0.0, 1.0], [2.0, 1.0])
    curves = {"lr": few, "loss_mask": (x, x), "images_per_second": few, "total_loss": few}
    found = charts.training_curves(curves)
    names = ["total_loss", "loss_mask", "images_per_second", "lr"]
    assert [curve.title for curve in found] == [f"Training: {name}" for name in names]
    assert [curve.total for curve in found] == [True, False, False, False]
    assert ["smoothed" in curve.draw() for curve in found] == [False, True, False, False]
    assert "images per second over iteration" in found[2].draw()
    assert "learning rate over iteration" in found[3].draw()


def test_the_speed_is_read_from_metrics_json(tmp_path: Path) -> None:
    rows = [{"iteration": n, "total_loss": 2.0 - n, "images_per_second": 7.5} for n in (0, 1)]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    run = read_train_run(tmp_path, Notes())
    assert run.curves["images_per_second"] == ([0.0, 1.0], [7.5, 7.5]) and run.iterations == 2
