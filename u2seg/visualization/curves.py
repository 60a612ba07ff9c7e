"""Curves of a training: losses as logged and smoothed, learning rate, images per second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from u2seg.visualization import charts

RATE = "images_per_second"
_LABELS = {"lr": "learning rate", RATE: "images per second"}
_SMOOTH_FROM = 20
"""Points from which on a smoothed curve is drawn over the logged one."""


@dataclass(frozen=True)
class Curve:
    """A loss curve as SVG; ``total`` marks the sum of a stage's terms."""

    title: str
    svg: str
    total: bool


def training_curves(curves: Mapping[str, charts.Points]) -> list[Curve]:
    """Return the charts of a training: the total first, learning rate and speed last.

    Args:
        curves: Name -> (iterations, values).
    """
    names = sorted(curves, key=lambda name: (name != "total_loss", name in _LABELS, name))
    return [_curve(name, *curves[name]) for name in names]


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
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, data, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    low = np.maximum(np.arange(data.size) - window, 0)
    high = np.minimum(np.arange(data.size) + window + 1, data.size)
    means = (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1)
    return [float(v) for v in np.where(good, means, data)]


def _curve(name: str, x: Sequence[float], y: Sequence[float]) -> Curve:
    series = {name: (x, y)}
    if name not in _LABELS and len(y) >= _SMOOTH_FROM:
        series = {"logged": (x, y), "smoothed": (x, smoothed(y, math.ceil(len(y) / 40)))}
    label = _LABELS.get(name, "loss")
    chart = charts.line_chart(series, x_label="iteration", y_label=label, width=400, height=210)
    return Curve(f"Training: {name}", chart, name == "total_loss")
