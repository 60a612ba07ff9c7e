"""Small charts as inline SVG: lines, histograms, horizontal bars.

Text takes the colour of its surroundings (``currentColor``), so a chart reads on light and dark
pages; every text from outside is escaped. Numbers are rounded, so equal data gives equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

COLORS = ("#3b82c4", "#d9822b", "#3d9a50", "#c0504d", "#8064a2", "#8c6d46", "#c76bb0", "#7f7f7f")
MAX_POINTS = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 12, 40

Points = tuple[Sequence[float], Sequence[float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers (1, 2, 5 times a power of ten) inside [low, high].

    Examples:
        >>> ticks(0, 10)
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        >>> ticks(0.13, 0.31, 4)
        [0.15, 0.2, 0.25, 0.3]
        >>> ticks(3, 3)
        [3.0]
    """
    if not high > low:
        return [float(low)]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def line_chart(
    series: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    width: int = 640,
    height: int = 260,
) -> str:
    """Return line curves over common axes.

    Args:
        series: Name -> (x values, y values) of equal length; points that are not finite are
            left out; more than 300 points are averaged in 300 bins.
        x_label: Title of the x axis.
        y_label: Title of the y axis.
        width: Pixels; the picture shrinks with the page.
        height: Pixels.

    Returns:
        An ``<svg>`` element; a note in words if there is no finite point.
    """
    drawn = {name: _thin(*points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points[0]}
    if not drawn:
        return _empty("no values to draw")
    xs = [x for points in drawn.values() for x in points[0]]
    ys = [y for points in drawn.values() for y in points[1]]
    legend = 22 if len(drawn) > 1 else 0
    frame = _Frame(width, height, legend, (min(xs), max(xs)), _padded(min(ys), max(ys)))
    parts = [frame.axes(x_label, y_label)]
    for number, (name, (x, y)) in enumerate(drawn.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in zip(x, y, strict=True))
        if len(x) == 1:
            parts.append(f'<circle cx="{frame.x(x[0]):.1f}" cy="{frame.y(y[0]):.1f}" r="3" '
                         f'fill="{color}"/>')  # fmt: skip
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8" '
            f'stroke-linejoin="round"/>'
        )
        if legend:
            left = _LEFT + number * (width - _LEFT) / len(drawn)
            parts.append(f'<rect x="{left:.0f}" y="4" width="12" height="12" fill="{color}"/>')
            parts.append(_text(left + 17, 14, name, "start"))
    return _svg(width, height, f"{y_label} over {x_label}", parts)


def histogram(
    values: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    bins: int = 20,
    integers: bool = False,
    log: bool = False,
    width: int = 460,
    height: int = 230,
) -> str:
    """Return a histogram.

    Args:
        values: Any number of them; not finite ones are left out.
        x_label: Title of the x axis.
        y_label: Title of the y axis.
        bins: How many, at most.
        integers: One bin per whole number (or per equal group of them).
        log: Bins of equal width in log10; values must be > 0, others are left out.
        width: Pixels.
        height: Pixels.

    Returns:
        An ``<svg>`` element; a note in words if nothing is left to draw.
    """
    data = np.asarray([v for v in values if math.isfinite(v) and (v > 0 or not log)], dtype=float)
    if data.size == 0:
        return _empty("no values to draw")
    data = np.log10(data) if log else data
    edges = _edges(data, bins, integers)
    counts, _ = np.histogram(data, bins=edges)
    frame = _Frame(width, height, 0, (edges[0], edges[-1]), (0.0, float(counts.max()) * 1.06))
    axes = frame.axes(x_label, y_label, power=log, whole_x=integers, whole_y=True)
    parts = [axes, *_columns(frame, edges, counts.tolist())]
    return _svg(width, height, f"{y_label} over {x_label}", parts)


def columns(
    values: Sequence[float], *, x_label: str, y_label: str, width: int = 460, height: int = 230
) -> str:
    """Return one column per value, numbered from 1: counts by rank.

    Args:
        values: Whole numbers >= 0; more than 300 are averaged in groups.
        x_label: Title of the x axis.
        y_label: Title of the y axis.
        width: Pixels.
        height: Pixels.

    Returns:
        An ``<svg>`` element; a note in words if there is no value.
    """
    if not values:
        return _empty("no values to draw")
    groups = np.array_split(np.asarray(values, dtype=float), min(len(values), MAX_POINTS))
    means = [float(group.mean()) for group in groups]
    edges = [float(e) for e in np.linspace(0.5, len(values) + 0.5, len(means) + 1)]
    frame = _Frame(width, height, 0, (edges[0], edges[-1]), (0.0, max(*means, 1.0) * 1.06))
    axes = frame.axes(x_label, y_label, whole_x=True, whole_y=True)
    return _svg(width, height, f"{y_label} over {x_label}", [axes, *_columns(frame, edges, means)])


def bars(
    rows: Sequence[tuple[str, float, str]],
    *,
    colors: Sequence[str] = (),
    width: int = 460,
) -> str:
    """Return horizontal bars, one row each.

    Args:
        rows: (name, length >= 0, what is written behind the bar).
        colors: CSS colour of each bar; one colour for all by default.
        width: Pixels; the height follows from the number of rows.

    Returns:
        An ``<svg>`` element; a note in words if there is no row.
    """
    if not rows:
        return _empty("nothing to draw")
    names = min(200, 16 + max(7 * len(name) for name, _, _ in rows))
    behind = 16 + max(7 * len(note) for _, _, note in rows)
    longest = max(value for _, value, _ in rows) or 1.0
    room = max(40, width - names - behind)
    parts = []
    for number, (name, value, note) in enumerate(rows):
        top = 4 + 22 * number
        color = colors[number] if number < len(colors) else COLORS[0]
        length = max(1.0, room * value / longest)
        shown = name if len(name) <= 27 else name[:26] + "…"
        parts.append(_text(names - 8, top + 13, shown, "end"))
        parts.append(
            f'<rect x="{names}" y="{top}" width="{length:.1f}" height="17" rx="2" '
            f'fill="{escape(color)}"/>'
        )
        parts.append(_text(names + length + 6, top + 13, note, "start"))
    return _svg(width, 8 + 22 * len(rows), "bar chart", parts)


class _Frame:
    """Maps data to pixels and draws the axes."""

    def __init__(
        self, width: int, height: int, above: int, xs: tuple[float, float], ys: tuple[float, float]
    ) -> None:
        self.left, self.right = float(_LEFT), float(width - _RIGHT)
        self.top, self.bottom = float(_TOP + above), float(height - _BOTTOM)
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        span = (self.xs[1] - self.xs[0]) or 1.0
        return self.left + (self.right - self.left) * (value - self.xs[0]) / span

    def y(self, value: float) -> float:
        span = (self.ys[1] - self.ys[0]) or 1.0
        return self.bottom - (self.bottom - self.top) * (value - self.ys[0]) / span

    def axes(
        self,
        x_label: str,
        y_label: str,
        *,
        power: bool = False,
        whole_x: bool = False,
        whole_y: bool = False,
    ) -> str:
        parts = []
        for tick in ticks(*self.ys):
            if whole_y and tick != int(tick):
                continue
            y = self.y(tick)
            parts.append(
                f'<line x1="{self.left:.0f}" y1="{y:.1f}" x2="{self.right:.0f}" y2="{y:.1f}" '
                'stroke="currentColor" stroke-opacity="0.15"/>'
            )
            parts.append(_text(self.left - 6, y + 4, number(tick), "end"))
        count = max(2, int((self.right - self.left) / 60))
        for tick in _powers(*self.xs) if power else ticks(*self.xs, count):
            if whole_x and tick != int(tick):
                continue
            text = number(10**tick) if power else number(tick)
            parts.append(_text(self.x(tick), self.bottom + 16, text, "middle"))
        parts.append(
            f'<line x1="{self.left:.0f}" y1="{self.bottom:.1f}" x2="{self.right:.0f}" '
            f'y2="{self.bottom:.1f}" stroke="currentColor" stroke-opacity="0.6"/>'
        )
        parts.append(_text((self.left + self.right) / 2, self.bottom + 34, x_label, "middle"))
        middle = (self.top + self.bottom) / 2
        parts.append(
            f'<text x="12" y="{middle:.1f}" text-anchor="middle" '
            f'transform="rotate(-90 12 {middle:.1f})">{escape(y_label)}</text>'
        )
        return "".join(parts)


def number(value: float) -> str:
    """Return a number as people write it on an axis.

    Examples:
        >>> number(20000), number(0.25), number(3.0), number(1500000), number(0)
        ('20k', '0.25', '3', '1.5M', '0')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


def _powers(low: float, high: float) -> list[float]:
    """Return log10 of 1, 2, 5 times powers of ten (only powers over many decades)."""
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    marks = [decade + math.log10(step) for decade in decades for step in steps]
    return [mark for mark in marks if low <= mark <= high]


def _columns(frame: _Frame, edges: Sequence[float], counts: Sequence[float]) -> list[str]:
    parts = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, right, top = frame.x(low), frame.x(high), frame.y(count)
        gap = 1.0 if right - left > 3 else 0.0
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left - gap):.1f}" '
            f'height="{frame.y(0) - top:.1f}" fill="{COLORS[0]}"/>'
        )
    return parts


def _edges(data: np.ndarray, bins: int, integers: bool) -> list[float]:
    low, high = float(data.min()), float(data.max())
    if integers:
        step = max(1, math.ceil((high - low + 1) / bins))
        count = math.ceil((high - low + 1) / step)
        return [low - 0.5 + step * i for i in range(count + 1)]
    if high <= low:
        return [low - 0.5, low + 0.5]
    return [float(e) for e in np.linspace(low, high, bins + 1)]


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = [
        (float(a), float(b))
        for a, b in zip(x, y, strict=True)
        if math.isfinite(a) and math.isfinite(b)
    ]
    if len(pairs) > MAX_POINTS:
        groups = np.array_split(np.asarray(pairs), MAX_POINTS)
        pairs = [(float(g[:, 0].mean()), float(g[:, 1].mean())) for g in groups]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _padded(low: float, high: float) -> tuple[float, float]:
    if 0 <= low < 0.5 * high:
        low = 0.0
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 else low - pad), high + pad


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(title)}" font-size="12" fill="currentColor" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _empty(reason: str) -> str:
    return f'<p class="none">{escape(reason)}</p>'
