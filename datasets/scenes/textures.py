"""Textures of things and stuff as colour fields.

Arrays are (H, W) weights in 0..1 or (H, W, 3) float64 sRGB in 0..255. Lengths are given for an
image of 128 pixels and scale with it (``unit`` = side / 128).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Field = npt.NDArray[np.float64]
Colors = npt.NDArray[np.float64]


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], sigma: tuple[float, float]
) -> Field:
    """Return (H, W) Gaussian noise blurred by ``sigma`` (rows, cols) pixels, deviation 1."""
    noise: Field = gaussian_filter(rng.standard_normal(size), sigma, mode="wrap")
    return noise / max(float(noise.std()), 1e-12)


def _wave(phase: Field) -> Field:
    return 0.5 + 0.5 * np.sin(2 * np.pi * phase)


def stripes(u: Field, v: Field, period: float) -> Field:
    """Return stripes along u: weight 0..1 that repeats every ``period`` in v."""
    return np.asarray(_wave(v / period) > 0.5, dtype=np.float64) + 0.0 * u


def checker(u: Field, v: Field, period: float) -> Field:
    """Return a checker board of 0 and 1 whose two squares together measure ``period``.

    Examples:
        >>> u = np.array([[0.25, 0.75, 1.25]])
        >>> checker(u, np.full_like(u, 0.25), 1.0).tolist()
        [[0.0, 1.0, 0.0]]
    """
    parity = (np.floor(2 * u / period) + np.floor(2 * v / period)) % 2
    return np.asarray(parity, dtype=np.float64)


def dots(u: Field, v: Field, period: float) -> Field:
    """Return round dots (1) on a square grid of side ``period``; their radius is 0.3 of it."""
    du, dv = u / period % 1.0 - 0.5, v / period % 1.0 - 0.5
    return np.asarray(np.hypot(du, dv) <= 0.3, dtype=np.float64)


THING_TEXTURES: dict[str, Callable[[Field, Field, float], Field]] = {
    "stripes": stripes,
    "checker": checker,
    "dots": dots,
}


def _tinted(base: list[float], weight: Field, direction: list[float]) -> Colors:
    """Return the (H, W, 3) colours ``base + weight * direction``."""
    colors: Colors = np.array(base) + weight[..., None] * np.array(direction)
    return colors


def _sky(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Colors:
    height = np.linspace(0.0, 1.0, size[0])[:, None, None]
    top, bottom = np.array([118.0, 170.0, 228.0]), np.array([176.0, 206.0, 240.0])
    cloud = np.clip(0.25 * smooth_noise(rng, size, (6 * unit, 12 * unit)), 0.0, 0.6)[..., None]
    colors: Colors = (1 - cloud) * (top + height * (bottom - top)) + cloud * 240.0
    return colors


def _grass(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Colors:
    blades = smooth_noise(rng, size, (2.2 * unit, 0.6 * unit))
    patches = smooth_noise(rng, size, (14 * unit, 14 * unit))
    return _tinted([78.0, 132.0, 52.0], 14.0 * blades + 7.0 * patches, [0.8, 1.0, 0.5])


def _sand(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Colors:
    grains = smooth_noise(rng, size, (0.5 * unit, 0.5 * unit))
    dunes = smooth_noise(rng, size, (5 * unit, 16 * unit))
    return _tinted([208.0, 186.0, 142.0], 9.0 * grains + 7.0 * dunes, [1.0, 0.95, 0.8])


def _water(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Colors:
    rows = np.arange(size[0], dtype=np.float64)[:, None]
    bend = 1.6 * unit * smooth_noise(rng, size, (6 * unit, 10 * unit))
    ripples = _wave((rows + bend) / (6.0 * unit)) - 0.5
    return _tinted([34.0, 82.0, 124.0], 30.0 * ripples, [0.6, 0.9, 1.0])


STUFF_TEXTURES: dict[str, Callable[[np.random.Generator, tuple[int, int], float], Colors]] = {
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
}
