from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from u2seg.visualization import charts


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def tags(svg: str, name: str) -> list[ElementTree.Element]:
    return [e for e in parse(svg).iter() if e.tag.endswith(name)]


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in tags(svg, "text")]


def test_line_by_hand():
    svg = charts.line_chart(
        {"a": ([0, 1, 2], [0.0, 5.0, 10.0])}, x_label="x", y_label="y", width=278, height=252
    )
    # plot area x 64..264, y 12..212; y axis 0..10.6
    points = tags(svg, "polyline")[0].get("points").split()
    assert points == ["64.0,212.0", "164.0,117.7", "264.0,23.3"]


def test_values_that_are_not_finite_are_left_out():
    svg = charts.line_chart({"a": ([0, 1, 2], [1.0, math.nan, math.inf])}, x_label="x", y_label="y")
    assert len(tags(svg, "polyline")[0].get("points").split()) == 1
    assert len(tags(svg, "circle")) == 1, "a single point is a dot"
    assert "no values" in charts.line_chart({"a": ([0], [math.nan])}, x_label="x", y_label="y")


def test_long_curves_are_averaged_in_bins():
    x = range(3000)
    svg = charts.line_chart({"a": (x, [float(v % 10) for v in x])}, x_label="x", y_label="y")
    points = tags(svg, "polyline")[0].get("points").split()
    assert len(points) == charts.MAX_POINTS
    assert len({p.split(",")[1] for p in points}) == 1, "each bin of ten has the mean 4.5"


def test_histogram_by_hand():
    svg = charts.histogram([0, 1, 1, 3], x_label="n", y_label="c", integers=True)
    heights = [float(r.get("height")) for r in tags(svg, "rect")]
    unit = heights[0]
    assert heights == pytest.approx([unit, 2 * unit, 0, unit], abs=0.2)


def test_log_histogram_leaves_out_zero_and_labels_values():
    svg = charts.histogram([0, 1, 10, 100], x_label="n", y_label="c", log=True, bins=3)
    heights = [float(r.get("height")) for r in tags(svg, "rect")]
    assert heights[0] == heights[1] == heights[2] > 0
    assert {"1", "10", "100"} <= set(texts(svg))


def test_columns_and_bars_have_one_mark_per_value():
    assert len(tags(charts.columns([5, 3, 0], x_label="x", y_label="y"), "rect")) == 3
    svg = charts.bars([("masks", 2.0, "2 s"), ("train", 1.0, "1 s")])
    widths = [float(r.get("width")) for r in tags(svg, "rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert texts(svg) == ["masks", "2 s", "train", "1 s"]


@pytest.mark.parametrize(
    "svg",
    [
        charts.line_chart({"<b>&": ([0, 1], [1, 2]), "b": ([0], [0])}, x_label="<i>", y_label='"'),
        charts.bars([("<script>", 1.0, "</svg>")]),
        charts.histogram([1.0], x_label="<", y_label="&"),
    ],
)
def test_text_is_escaped_and_the_svg_is_well_formed(svg):
    parse(svg)
    assert not re.search(r"<(script|b|i)>", svg)


def test_equal_values_and_constant_curves_do_not_divide_by_zero():
    for values in ([3.0, 3.0], [0.0, 0.0], [-2.0, -2.0]):
        parse(charts.line_chart({"a": ([0, 1], values)}, x_label="x", y_label="y"))
        parse(charts.histogram(values, x_label="x", y_label="y"))
    assert "nothing" in charts.bars([])
