from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import UserError
from u2seg.structures.labels import LabelSpace
from u2seg.structures.panoptic import PanopticLabel, Segment
from u2seg.visualization.draw import (
    Tag,
    draw_masks,
    draw_panoptic,
    draw_stuff,
    draw_tags,
    letter_size,
)

SPACE = LabelSpace(2, 2)


def label_of(ids, categories, score=1.0):
    segments = tuple(
        Segment(i + 1, c, SPACE.is_thing(c), 1, (0.0, 0.0, 1.0, 1.0), score)
        for i, c in enumerate(categories)
    )
    return PanopticLabel(np.asarray(ids, dtype=np.int32), segments)


def grey(height, width, value=100):
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_blend_by_hand():
    # (100 * 192 + c * 64) >> 8 with the colours of categories 1 and 3
    one, three = SPACE.colors()[0].astype(int), SPACE.colors()[2].astype(int)
    drawn = draw_panoptic(grey(1, 3), label_of([[0, 1, 2]], [1, 3]), SPACE, alpha=0.25)
    expected = [[100, 100, 100], (19200 + 64 * one) >> 8, (19200 + 64 * three) >> 8]
    assert drawn.tolist() == [[list(map(int, row)) for row in expected]]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_extreme_alpha_is_exact(alpha):
    drawn = draw_panoptic(grey(2, 2), label_of([[1, 1], [1, 1]], [2]), SPACE, alpha=alpha)
    wanted = SPACE.colors()[1] if alpha else [100, 100, 100]
    assert (drawn == wanted).all()


def test_outline_is_the_dark_rim_of_both_sides():
    ids = np.ones((60, 60), np.int32)
    ids[20:40, 20:40] = 2
    drawn = draw_panoptic(grey(60, 60), label_of(ids, [1, 2]), SPACE, alpha=0, names=False)
    inner, outer = SPACE.colors()[1] // 2, SPACE.colors()[0] // 2
    assert drawn[20, 30].tolist() == inner.tolist()
    assert drawn[19, 30].tolist() == outer.tolist()
    assert drawn[21, 30].tolist() == drawn[18, 30].tolist() == [100, 100, 100]
    assert drawn[0, 0].tolist() == [100, 100, 100], "the image border is no outline"


@pytest.mark.parametrize("size", [(1, 1), (7, 400), (3, 3), (47, 47), (64, 64), (700, 900)])
def test_every_size_works_and_keeps_its_input(size):
    image = grey(*size)
    drawn = draw_panoptic(image, label_of(np.ones(size), [1]), SPACE)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 100).all()


def test_names_are_written_in_the_middle_and_only_on_request():
    ids = np.ones((200, 300), np.int32)
    label = label_of(ids, [1])
    with_names = draw_panoptic(grey(200, 300), label, SPACE)
    without = draw_panoptic(grey(200, 300), label, SPACE, names=False)
    rows, cols = np.nonzero((with_names != without).any(axis=2))
    assert abs(rows.mean() - 100) < 6 and rows.max() - rows.min() < 25
    assert cols.min() > 0 and cols.max() < 299


def test_tags_stay_inside_and_do_not_cover_each_other():
    picture = Image.new("RGB", (200, 60))
    tags = [Tag("thing_12", 0, 0, (200, 0, 0))] * 3
    assert draw_tags(picture, tags, 12) == 3
    assert draw_tags(Image.new("RGB", (20, 60)), tags, 12) == 0, "wider than the picture"
    assert draw_tags(Image.new("RGB", (200, 18)), tags, 12) == 1, "room for one line"


def test_unknown_segment_and_category_are_refused():
    with pytest.raises(UserError, match="holds 9, which no segment"):
        draw_panoptic(grey(1, 1), label_of([[9]], [1]), SPACE)
    bad = PanopticLabel(np.array([[1]], np.int32), (Segment(1, 99, True, 1, (0, 0, 1, 1)),))
    with pytest.raises(UserError, match="99 is outside"):
        draw_panoptic(grey(1, 1), bad, SPACE)


@pytest.mark.parametrize(
    ("image", "alpha", "message"),
    [
        (np.zeros((2, 2, 3)), 0.5, "uint8"),
        (np.zeros((2, 2), np.uint8), 0.5, r"\(H, W, 3\)"),
        (grey(2, 3), 0.5, "1 x 1 .* 2 x 3"),
        (grey(1, 1), 1.5, "alpha must be 0..1"),
    ],
)
def test_bad_input_is_refused(image, alpha, message):
    with pytest.raises(UserError, match=message):
        draw_panoptic(image, label_of([[1]], [1]), SPACE, alpha=alpha)


def test_small_masks_lie_above_large_ones_in_any_order():
    large, small = np.ones((1, 3), bool), np.array([[False, True, False]])
    colors = LabelSpace(2, 0).colors()
    drawn = draw_masks(grey(1, 3), [small, large], alpha=1)
    assert drawn.tolist() == [[colors[1].tolist(), colors[0].tolist(), colors[1].tolist()]]


def test_a_mask_hidden_under_its_parts_still_has_an_outline():
    whole = np.zeros((60, 60), bool)
    whole[10:50, 10:50] = True
    left, right = whole.copy(), whole.copy()
    left[:, 30:] = right[:, :30] = False
    left[:, 10:12] = False  # smaller than the other half: drawn last
    colors = LabelSpace(3, 0).colors()
    drawn = draw_masks(grey(60, 60), [whole, left, right], alpha=1)
    assert drawn[20, 10].tolist() == (colors[0] // 2).tolist(), "rim of the whole"
    assert drawn[20, 12].tolist() == (colors[1] // 2).tolist()
    assert drawn[20, 49].tolist() == (colors[2] // 2).tolist()
    assert (
        drawn[20, 20].tolist() == colors[1].tolist()
        and drawn[20, 40].tolist() == colors[2].tolist()
    )


def test_mask_of_another_size_is_refused():
    with pytest.raises(UserError, match="2 x 2"):
        draw_masks(grey(1, 3), [np.ones((2, 2), bool)])


def test_stuff_map_and_target_use_the_same_colours():
    colors = SPACE.colors()
    flat = draw_stuff(grey(1, 3, 0), np.array([[0, 1, 255]], np.uint8), SPACE, alpha=1)
    assert flat.tolist() == [[colors[2].tolist(), colors[3].tolist(), [0, 0, 0]]]
    target = draw_stuff(
        grey(1, 4, 0), np.array([[0, 1, 2, 255]], np.uint8), SPACE, alpha=1, target=True
    )
    white, void = [255] * 3, [0] * 3
    assert target.tolist() == [[white, colors[2].tolist(), colors[3].tolist(), void]]


@pytest.mark.parametrize(("value", "target"), [(2, False), (254, False), (3, True)])
def test_stuff_value_out_of_range_is_refused(value, target):
    with pytest.raises(UserError, match=f"holds the value {value}"):
        draw_stuff(grey(1, 1), np.array([[value]], np.uint8), SPACE, target=target)


def test_stuff_has_no_outline_beside_stuff():
    ids = np.ones((60, 60), np.int32)
    ids[:, 30:] = 2
    drawn = draw_panoptic(grey(60, 60), label_of(ids, [3, 4]), SPACE, alpha=0, names=False)
    assert (drawn == 100).all()


def test_letters_grow_with_the_picture():
    assert [letter_size(100, 900), letter_size(520, 600), letter_size(9000, 9000)] == [10, 20, 64]
