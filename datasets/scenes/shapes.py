"""Outlines of things as masks.

Coordinates: a shape is a predicate on object coordinates (u to the right, v down, unit =
the radius of the shape's circumscribed circle), evaluated at pixel centres (x + 0.5, y + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pose:
    """Where a thing lies.

    Args:
        x, y: Centre in pixels, x to the right, y down; the image's corner is (0, 0).
        radius: Radius of the circumscribed circle in pixels, > 0.
        angle: Rotation in radians, clockwise on the screen.
    """

    x: float
    y: float
    radius: float
    angle: float


def object_coordinates(pose: Pose, size: tuple[int, int]) -> tuple[Field, Field]:
    """Return the object coordinates (u, v) of every pixel centre of an (H, W) image.

    Examples:
        >>> u, v = object_coordinates(Pose(x=1.0, y=0.5, radius=0.5, angle=0.0), (1, 2))
        >>> u.tolist(), v.tolist()
        ([[-1.0, 1.0]], [[0.0, 0.0]])
    """
    rows, cols = np.mgrid[: size[0], : size[1]] + 0.5
    dx, dy = (cols - pose.x) / pose.radius, (rows - pose.y) / pose.radius
    cosine, sine = math.cos(pose.angle), math.sin(pose.angle)
    return cosine * dx + sine * dy, -sine * dx + cosine * dy


def shape_mask(shape: str, pose: Pose, size: tuple[int, int]) -> Mask:
    """Return the (H, W) mask of a shape; parts outside the image are cut off.

    Raises:
        KeyError: if ``shape`` is not in ``SHAPES``.

    Examples:
        >>> shape_mask("square", Pose(2, 2, 2**0.5, 0.0), (4, 4)).astype(int).tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    return SHAPES[shape](*object_coordinates(pose, size))


def _disc(u: Field, v: Field) -> Mask:
    return u**2 + v**2 <= 1.0


def _square(u: Field, v: Field) -> Mask:
    return np.maximum(np.abs(u), np.abs(v)) <= math.sqrt(0.5)


def _angle_from_corner(u: Field, v: Field, sector: float) -> Field:
    """Return the angle to the nearest corner direction, 0..sector/2; one corner points up."""
    angle: Field = np.arctan2(u, -v)
    return np.abs((angle + sector / 2) % sector - sector / 2)


def _triangle(u: Field, v: Field) -> Mask:
    """Return an equilateral triangle with one corner up."""
    sector = 2 * math.pi / 3
    folded = _angle_from_corner(u, v, sector)
    # Distance along the normal of the nearest side, against that side's (the apothem).
    return np.hypot(u, v) * np.cos(sector / 2 - folded) <= math.cos(sector / 2)


def _star(u: Field, v: Field) -> Mask:
    """Return a five-pointed star whose inner corners lie at 0.55 of the outer ones."""
    sector = 2 * math.pi / 5
    folded = _angle_from_corner(u, v, sector)
    px, py = np.hypot(u, v) * np.sin(folded), np.hypot(u, v) * np.cos(folded)
    inner_x, inner_y = 0.55 * math.sin(sector / 2), 0.55 * math.cos(sector / 2)
    # Inside = on the centre's side of the edge from the tip (0, 1) to the inner corner.
    side: Mask = px * (inner_y - 1.0) - (py - 1.0) * inner_x >= 0
    return side


def _cross(u: Field, v: Field) -> Mask:
    long, short = 0.92, 0.36
    a, b = np.abs(u), np.abs(v)
    return ((a <= long) & (b <= short)) | ((b <= long) & (a <= short))


SHAPES: dict[str, Callable[[Field, Field], Mask]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
