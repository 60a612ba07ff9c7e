from __future__ import annotations

import numpy as np
import pytest

from u2seg.errors import UserError
from u2seg.visualization.compose import (
    PAPER,
    draw_legend,
    masked_crop,
    shrink,
    side_by_side,
)


def flat(height, width, value):
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_side_by_side_scales_to_one_height():
    sheet = side_by_side([flat(10, 20, 50), flat(20, 10, 90)], gap=4)
    assert sheet.shape == (20, 40 + 4 + 10, 3)
    assert (sheet[:, :40] == 50).all() and (sheet[:, 44:] == 90).all()
    assert (sheet[:, 40:44] == PAPER).all()


def test_captions_get_a_strip_above_and_are_cut_to_fit():
    sheet = side_by_side([flat(100, 60, 50)], ["a caption far too long for its picture"])
    assert sheet.shape == (122, 60, 3)
    assert (sheet[22:] == 50).all()
    assert (sheet[:22] < 128).any(), "something is written"


def test_shrink_of_labels_invents_no_value():
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 200
    assert set(np.unique(shrink(labels, 11, labels=True))) == {0, 200}
    assert shrink(labels, 50) is labels, "never enlarged"
    assert shrink(flat(1, 4000, 9), 10).shape == (1, 10, 3), "no side becomes zero"


def test_legend_shows_every_colour():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = draw_legend([(f"stuff_{i}", c) for i, c in enumerate(colors)], width=120)
    for color in colors:
        assert (sheet == color).all(axis=2).sum() > 100
    with pytest.raises(UserError, match="at least one"):
        draw_legend([])


def test_crop_is_centred_and_fades_the_outside():
    image = flat(20, 20, 0)
    image[8:12, 6:14] = (255, 0, 0)
    mask = np.zeros((20, 20), bool)
    mask[8:12, 6:14] = True
    # 8 px wide -> reach 10; columns 5..14, rows 5..14: nothing leaves the photograph
    crop = masked_crop(image, mask, side=10)
    assert crop.shape == (10, 10, 3)
    assert (crop[3:7, 1:9] == (255, 0, 0)).all()
    assert (crop[0] == 168).all(), "(0 + 3 * 225) // 4"


def test_rim_lies_just_outside_the_mask():
    mask = np.zeros((20, 20), bool)
    mask[8:12, 6:14] = True
    crop = masked_crop(flat(20, 20, 0), mask, side=10, rim=(1, 2, 3))
    rim = (crop == (1, 2, 3)).all(axis=2)
    assert rim[2, 1:9].all() and rim[7, 1:9].all() and rim[3:7, 0].all() and rim[3:7, 9].all()
    assert rim.sum() == 2 * 8 + 2 * 4


def test_crop_at_the_corner_is_padded():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True
    crop = masked_crop(flat(8, 8, 30), mask, side=5)
    assert (crop == 30).all(), "one pixel: reach 1"
    mask[:4, :2] = True
    crop = masked_crop(flat(8, 8, 30), mask, side=5)  # 2 wide, 4 high: reach 5, from (-1, -2)
    assert (crop[0] == 236).all() and (crop[:, :2] == 236).all()
    assert (crop[1:, 2:4] == 30).all()


def test_crop_refuses_empty_and_foreign_masks():
    with pytest.raises(UserError, match="empty"):
        masked_crop(flat(4, 4, 0), np.zeros((4, 4), bool))
    with pytest.raises(UserError, match="differ"):
        masked_crop(flat(4, 4, 0), np.ones((2, 2), bool))
