"""Small charts for a page, drawn by matplotlib: lines, histograms, columns, bars.

Each is an inline ``<svg>`` whose text stays text and takes the colour of its surroundings
(``currentColor``), so it reads on light and dark pages. Equal data gives equal bytes.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from u2seg.visualization.draw import printable

COLORS = ("#3b82c4", "#d9822b", "#3d9a50", "#c0504d", "#8064a2", "#8c6d46", "#c76bb0", "#7f7f7f")
MAX_POINTS = 300
RATE = "images_per_second"
Points = tuple[Sequence[float], Sequence[float]]
_INK = "#010203"
"""Stands for the colour of the page's text while matplotlib draws."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "u2seg",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color",
         "grid.color"), _INK,
    ),
}  # fmt: skip
_LABELS = {"lr": "learning rate", RATE: "images per second"}
_SMOOTH_FROM = 20
"""Points from which on a smoothed curve is drawn over the logged one."""


@dataclass(frozen=True)
class Chart:
    """A chart that is drawn when it is shown; ``total`` marks the sum of a stage's losses."""

    title: str
    draw: Callable[[], str]
    total: bool = False


def line_chart(series: Mapping[str, Points], x_label: str, y_label: str) -> str:
    """Return curves over common axes; a note in words if there is no finite point."""
    drawn = {name: _thin(*points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if len(points)}
    if not drawn:
        return _empty("no values to draw")

    def draw(axes: Any) -> None:
        for color, (name, points) in zip(COLORS * len(drawn), drawn.items(), strict=False):
            mark = "o" if len(points) == 1 else None
            axes.plot(points[:, 0], points[:, 1], color=color, label=printable(name), marker=mark)
        if len(drawn) > 1:
            axes.legend(loc="upper right")
        axes.set(xlabel=x_label, ylabel=y_label)

    return _svg(3.6, 2.1, f"{y_label} over {x_label}", draw)


def histogram(
    values: Sequence[float],
    x_label: str,
    y_label: str,
    *,
    bins: int = 20,
    integers: bool = False,
    log: bool = False,
) -> str:
    """Return a histogram of the finite values; a note in words if there is none."""
    data = np.asarray([v for v in values if math.isfinite(v) and (v > 0 or not log)], dtype=float)
    if data.size == 0:
        return _empty("no values to draw")
    low, high = float(data.min()), float(data.max())
    if integers:
        step = max(1, math.ceil((high - low + 1) / bins))
        edges = low - 0.5 + step * np.arange(math.ceil((high - low + 1) / step) + 1)
    elif log:
        edges = np.geomspace(low, high, bins + 1) if high > low else np.array([low / 2, low * 2])
    else:
        edges = np.linspace(low, high, bins + 1) if high > low else low + np.array([-0.5, 0.5])

    return _columns(edges, np.histogram(data, edges)[0], x_label, y_label, integers, log)


def columns(values: Sequence[float], x_label: str, y_label: str) -> str:
    """Return one column per value, numbered from 1; more than 300 are averaged in groups."""
    if not values:
        return _empty("no values to draw")
    groups = np.array_split(np.asarray(values, dtype=float), min(len(values), MAX_POINTS))
    edges = np.linspace(0.5, len(values) + 0.5, len(groups) + 1)
    return _columns(edges, [group.mean() for group in groups], x_label, y_label, True)


def _columns(
    edges: Any, heights: Any, x_label: str, y_label: str, integers: bool = False, log: bool = False
) -> str:
    def draw(axes: Any) -> None:
        axes.bar(edges[:-1], heights, 0.97 * np.diff(edges), align="edge", color=COLORS[0])
        axes.locator_params("y", integer=True)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        if integers:
            axes.locator_params("x", integer=True)
        axes.set(xlabel=x_label, ylabel=y_label)

    return _svg(3.6, 2.1, f"{y_label} over {x_label}", draw)


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Return horizontal bars, one row each: (name, length >= 0, what is written behind it)."""
    if not rows:
        return _empty("nothing to draw")

    def draw(axes: Any) -> None:
        drawn = axes.barh(range(len(rows)), [row[1] for row in rows], color=COLORS[0])
        axes.bar_label(drawn, [row[2] for row in rows], padding=4)
        axes.set_yticks(range(len(rows)), [_short(row[0]) for row in rows])
        axes.invert_yaxis()
        axes.margins(x=0.3)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.grid(visible=False)

    return _svg(4.0, 0.3 + 0.24 * len(rows), "bar chart", draw)


def training_curves(curves: Mapping[str, Points]) -> list[Chart]:
    """Return the charts of a training: the total first, learning rate and speed last."""
    charts = []
    for name in sorted(curves, key=lambda n: (n != "total_loss", n in _LABELS, n)):
        x, y = curves[name]
        series: dict[str, Points] = {name: (x, y)}
        if name not in _LABELS and len(y) >= _SMOOTH_FROM:
            series = {"logged": (x, y), "smoothed": (x, smoothed(y, math.ceil(len(y) / 40)))}
        label = _LABELS.get(name, "loss")
        draw = functools.partial(line_chart, series, "iteration", label)
        charts.append(Chart(f"Training: {name}", draw, name == "total_loss"))
    return charts


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and its neighbours, ``window`` of them on either side.

    At the ends there are fewer neighbours; values that are not finite are left out of the means,
    and stay as they are.

    Examples:
        >>> smoothed([1.0, 2.0, 6.0, 4.0], 1)
        [1.5, 3.0, 4.0, 5.0]
        >>> smoothed([1.0, math.nan, 3.0], 1)
        [1.0, nan, 3.0]
    """
    data = np.asarray(values, dtype=float)
    good = np.isfinite(data)
    if not data.size:
        return []
    ones = np.ones(2 * window + 1)
    sums = np.convolve(np.where(good, data, 0.0), ones)[window : window + data.size]
    counts = np.convolve(good.astype(float), ones)[window : window + data.size]
    means = sums / np.maximum(counts, 1)
    return [float(v) for v in np.where(good, means, data)]


def _svg(width: float, height: float, title: str, draw: Callable[[Any], None]) -> str:
    """Return what ``draw`` draws on axes of a size in inches, as an element of a page."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        draw(figure.add_axes((0, 0, 1, 1)))
        quiet = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(
            file, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.05,
            metadata=quiet,
        )  # fmt: skip
    text = file.getvalue().partition("<svg")[2].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\s*\n\s*", " ", text, flags=re.S)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    return f'<svg role="img" aria-label="{escape(title)}"{text}'


def _thin(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """Return the finite points as (n, 2), at most 300: more are averaged in as many bins."""
    points = np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) > MAX_POINTS:
        points = np.array([group.mean(axis=0) for group in np.array_split(points, MAX_POINTS)])
    return points


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 27 else name[:26] + "…"


def _empty(reason: str) -> str:
    return f'<p class="none">{reason}</p>'
