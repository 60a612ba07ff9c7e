"""One object pasted into one image, pixel by pixel, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from u2seg.config.training import CopyPasteSettings
from u2seg.data.copy_paste_pixels import (
    Canvas,
    Donor,
    cut_donor,
    scale_donor,
    tight_box,
)

HARD = CopyPasteSettings(blend=0, min_area=1)


def canvas(rules: CopyPasteSettings = HARD, *, stuff: bool = True) -> Canvas:
    """4 x 4: all pixels 10, an object in the upper left 2 x 2, one void pixel, stuff 1 and 2."""
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[0, :2, :2] = True
    target = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 255, 2], [2, 2, 2, 2]])
    image = np.full((3, 4, 4), 10, dtype=np.uint8)
    return Canvas(image, masks, [(0, 0, 2, 2)], target if stuff else None, None, rules)


def donor(mask: list[list[int]], value: int = 200) -> Donor:
    shape = np.array(mask, dtype=bool)
    return Donor(np.full((3, *shape.shape), value, dtype=np.uint8), shape, 5, 4)


def test_a_4x4_image_by_hand() -> None:
    made = canvas()
    assert made.paste(donor([[1, 1], [0, 1]]), top=1, left=1)
    # Wanted: (1, 1), (1, 2) and (2, 2); the last is void and stays as it is.
    image = [[10, 10, 10, 10], [10, 200, 200, 10], [10, 10, 10, 10], [10, 10, 10, 10]]
    assert made.image.tolist() == [image] * 3
    assert made.stuff is not None
    assert made.stuff.tolist() == [[0, 0, 1, 1], [0, 0, 0, 1], [2, 2, 255, 2], [2, 2, 2, 2]]
    old = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    new = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert made.masks[:2].astype(int).tolist() == [old, new]
    assert not made.masks[2].any()
    assert made.boxes == [(0, 0, 2, 2), (1, 1, 3, 2)]
    assert made.alive == [True, True]


@pytest.mark.parametrize(("min_visible", "kept"), [(0.25, True), (0.26, False)])
def test_an_object_of_which_too_little_remains_is_dropped(min_visible: float, kept: bool) -> None:
    made = canvas(replace(HARD, min_visible=min_visible))
    assert made.paste(donor([[1, 1], [1, 0]]), top=0, left=0)  # 1 of 4 pixels remains
    assert made.alive == [kept, True]
    assert made.stuff is not None
    assert made.stuff[:2, :2].tolist() == [[0, 0], [0, 0 if kept else 255]]
    assert bool(made.masks[0, 1, 1]) is kept


def test_what_remains_is_compared_with_the_whole_object() -> None:
    made = canvas(replace(HARD, min_visible=0.5))
    assert made.paste(donor([[1]]), top=0, left=0)  # 3 of 4
    assert made.paste(donor([[1]]), top=0, left=1)  # 2 of 4
    assert made.alive[0]
    made = canvas(replace(HARD, min_visible=0.6))
    assert made.paste(donor([[1]]), top=0, left=0)  # 3 of 4
    assert made.paste(donor([[1]]), top=0, left=1)  # 2 of 4, though 2 of 3
    assert not made.alive[0]


def test_refusing_leaves_everything_as_it_was() -> None:
    made, before = canvas(replace(HARD, covered="refuse")), canvas()
    assert not made.paste(donor([[1, 1], [1, 0]]), top=0, left=0)
    assert np.array_equal(made.image, before.image)
    assert np.array_equal(made.masks, before.masks)
    assert np.array_equal(made.stuff, before.stuff)
    assert made.paste(donor([[1, 1]]), top=0, left=0), "half of it remains"


def test_what_was_pasted_before_is_not_dropped() -> None:
    made = canvas(replace(HARD, min_visible=0.5))
    assert made.paste(donor([[1, 1]]), top=3, left=0)
    assert not made.paste(donor([[1, 1, 1]]), top=3, left=0)
    assert made.paste(donor([[1, 1, 1]], value=90), top=3, left=1), "half of it remains"
    assert made.image[0, 3].tolist() == [200, 90, 90, 90]
    assert made.boxes[1:] == [(0, 3, 1, 4), (1, 3, 4, 4)]


def test_the_rest_of_a_dropped_object_may_belong_to_another() -> None:
    made = canvas()
    made.masks[1, 1, 1] = True
    made.boxes.append((1, 1, 2, 2))
    made.alive.append(True)
    assert made.paste(donor([[1, 1], [1, 0]]), top=0, left=0)
    assert made.alive == [False, True, True]
    assert made.stuff is not None and made.stuff[1, 1] == 0


def test_ignored_regions_and_small_rests_are_refused() -> None:
    made = canvas(stuff=False)
    made.ignored = np.zeros((4, 4), dtype=bool)
    made.ignored[:, 3] = True
    assert made.paste(donor([[1, 1], [1, 1]]), top=0, left=2)
    assert made.masks[1].nonzero()[1].tolist() == [2, 2]
    made.ignored[:] = True
    assert not made.paste(donor([[1, 1], [1, 1]]), top=2, left=0)
    assert not canvas(replace(HARD, min_area=5)).paste(donor([[1, 1], [1, 1]]), top=0, left=0)


def test_blending_by_hand() -> None:
    made = canvas(replace(HARD, blend=1), stuff=False)
    assert made.paste(donor([[1, 1, 1]] * 3, value=201), top=1, left=1)
    # Rim: half and half, (10 + 201 + 1) // 2; the middle lies two steps inside.
    rows = [[10, 10, 10, 10], [10, 106, 106, 106], [10, 106, 201, 106], [10, 106, 106, 106]]
    assert made.image.tolist() == [rows] * 3


def test_cutting_out_tightens_and_copies() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 1:3] = True
    found = cut_donor(image, mask, (0, 0, 4, 4), 7)
    assert found is not None
    assert found.image.tolist() == [[[5, 6]], [[21, 22]], [[37, 38]]]
    assert (found.mask.tolist(), found.cluster, found.side) == ([[True, True]], 7, 4)
    image[:] = 0
    assert found.image.any()
    assert cut_donor(image, mask, (0, 2, 4, 4), 7) is None


def test_scaling_keeps_shape_and_tightness() -> None:
    big = donor([[1] * 8] * 4)
    half = scale_donor(big, 0.5)
    assert half is not None
    assert half.mask.shape == (2, 4)
    assert half.mask.all()
    assert (half.image == 200).all()
    assert scale_donor(big, 1.0) is big
    rng = np.random.default_rng(0)
    for factor in (0.3, 0.77, 1.9):
        ragged = np.pad(rng.random((20, 30)) < 0.4, 1)
        found = scale_donor(Donor(np.zeros((3, 22, 32), np.uint8), ragged, 0, 9), factor)
        assert found is not None
        height, width = found.mask.shape
        assert tight_box(found.mask) == (0, 0, width, height)
        assert found.image.shape == (3, height, width)
    speck = Donor(np.zeros((3, 9, 9), np.uint8), np.eye(9, dtype=bool), 0, 9)
    assert scale_donor(speck, 0.12) is None
