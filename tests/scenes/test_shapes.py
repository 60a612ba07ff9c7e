"""Outlines: hand-computed pixels, areas against geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scenes.shapes import SHAPES, Pose, object_coordinates, shape_mask
from scenes.textures import checker, dots, stripes


def test_object_coordinates_rotate_clockwise_on_the_screen() -> None:
    # A quarter turn clockwise takes the object's u axis (right) to the screen's down.
    u, v = object_coordinates(Pose(x=0.5, y=0.5, radius=1.0, angle=math.pi / 2), (2, 2))
    assert u[1, 0] == pytest.approx(1.0)  # the pixel below the centre
    assert v[1, 0] == pytest.approx(0.0)
    assert v[0, 1] == pytest.approx(-1.0)  # the pixel to its right is the object's "up"


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("disc", math.pi),
        ("square", 2.0),
        ("triangle", 3 * math.sqrt(3) / 4),
        # ten triangles: centre, tip at 1, inner corner at 0.55, 36 degrees between them
        ("star", 10 * 0.5 * 0.55 * math.sin(math.pi / 5)),
        ("cross", 2 * (1.84 * 0.72) - 0.72**2),
    ],
)
def test_areas_match_geometry_at_any_angle(shape: str, area: float) -> None:
    for angle in (0.0, 0.4, 2.0):
        mask = shape_mask(shape, Pose(100.3, 99.6, 80.0, angle), (200, 200))
        assert np.count_nonzero(mask) / 80**2 == pytest.approx(area, rel=0.02)
    assert set(SHAPES) == {"disc", "square", "triangle", "star", "cross"}


def test_triangle_and_star_point_up() -> None:
    for shape in ("triangle", "star"):
        mask = shape_mask(shape, Pose(50, 50, 40, 0.0), (100, 100))
        top = int(np.flatnonzero(mask.any(axis=1))[0])
        assert top in (10, 11)
        assert set(np.flatnonzero(mask[top])) <= {49, 50}


def test_shapes_are_cut_at_the_border() -> None:
    assert np.count_nonzero(shape_mask("square", Pose(0, 0, 2 * 2**0.5, 0), (5, 5))) == 4


def test_textures_by_hand() -> None:
    u = np.array([[0.1, 0.4, 0.6, 0.9]])
    zero = np.full_like(u, 0.1)
    assert checker(u, zero, 1.0).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert stripes(zero, u, 1.0).tolist() == [[1.0, 1.0, 0.0, 0.0]]
    half = np.full_like(u, 0.5)  # through the middle of a dot: radius 0.3 around 0.5
    assert dots(u, half, 1.0).tolist() == [[0.0, 1.0, 1.0, 0.0]]
