"""The five crops: corners and centre, sizes rounded down."""

from __future__ import annotations

import pytest

from u2seg.semantics.crops import CROPS, crop_box


def test_five_crops_by_hand() -> None:
    # 7 x 12 at ratio 0.5: 3 x 6; corners at 0 or 4, 0 or 6; centre at round(2), round(3).
    boxes = [crop_box("five", i, 7, 12, 0.5) for i in range(5)]
    assert boxes == [(0, 0, 3, 6), (0, 6, 3, 12), (4, 0, 7, 6), (4, 6, 7, 12), (2, 3, 5, 9)]


def test_tiny_photographs_keep_a_pixel() -> None:
    assert [crop_box("five", i, 1, 1, 0.5) for i in range(5)] == [(0, 0, 1, 1)] * 5


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77, 1.0])
def test_crops_lie_inside_and_have_one_size(ratio: float) -> None:
    for height, width in ((5, 9), (480, 361)):
        boxes = [crop_box("five", i, height, width, ratio) for i in range(CROPS["five"])]
        assert all(0 <= t < b <= height and 0 <= x < r <= width for t, x, b, r in boxes)
        assert {(b - t, r - x) for t, x, b, r in boxes} == {
            (int(height * ratio), int(width * ratio))
        }
