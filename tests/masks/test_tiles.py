"""The second pass on tiles: geometry and merging by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from u2seg.config.schema import MaskSettings
from u2seg.masks.tiles import Tile, merge_tiles, second_pass, tile_boxes
from u2seg.structures.masks import InstanceMask

SIZE = (64, 64)
SETTINGS = MaskSettings(tiles=2)


def box(size: tuple[int, int], top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("tiles", [2, 3, 5])
@pytest.mark.parametrize("size", [(331, 640), (427, 501), (1000, 160)])
def test_tiles_cover_the_photograph_and_have_one_size(tiles: int, size: tuple[int, int]) -> None:
    boxes = tile_boxes(*size, tiles)
    if not boxes:
        assert min(size) / tiles < 40
        return
    assert len(boxes) == tiles * tiles
    count = np.zeros(size, dtype=int)
    for tile in boxes:
        count[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert count.min() == 1
    assert len({(t.bottom - t.top, t.right - t.left) for t in boxes}) == 1


@pytest.mark.parametrize("size", [(1, 1), (7, 4000), (4000, 7)])
def test_photographs_too_small_for_tiles_keep_their_masks(size: tuple[int, int]) -> None:
    def never(crops: Sequence[np.ndarray]) -> list[None]:
        raise AssertionError("no tile was to be looked at")

    masks = [InstanceMask.from_array(np.ones(size, dtype=bool), 0.5)]
    assert second_pass(np.zeros((*size, 3), np.uint8), masks, SETTINGS, never) == masks


def test_only_small_whole_new_masks_are_added() -> None:
    first = InstanceMask.from_array(box(SIZE, 0, 0, 20, 20), 0.9)
    tile = Tile(0, 24, 40, 64)  # 40 x 40, touches the photograph's top and right
    inner = (40, 40)
    found = {
        "new": box(inner, 10, 10, 20, 20),
        "large": box(inner, 0, 10, 25, 40),
        "cut off below": box(inner, 30, 10, 40, 20),
        "cut off left": box(inner, 10, 0, 20, 5),
        "at the photograph's corner": box(inner, 0, 35, 5, 40),
        "again, a little larger": box(inner, 10, 10, 20, 21),
    }
    scores = dict.fromkeys(found, 0.5) | {"new": 0.8}
    masks = [InstanceMask.from_array(m, scores[name]) for name, m in found.items()]
    merged = merge_tiles([first], [(tile, masks), (Tile(0, 0, 40, 40), None)], SIZE, 0.25)
    assert [m.bbox for m in merged] == [
        (0.0, 0.0, 20.0, 20.0),
        (34.0, 10.0, 10.0, 10.0),
        (59.0, 0.0, 5.0, 5.0),
    ]
    share = 40 * 40 / (64 * 64)
    assert [m.score for m in merged] == pytest.approx([0.9, 0.8 * share, 0.5 * share])


def test_what_the_first_pass_has_is_no_news() -> None:
    first = InstanceMask.from_array(box(SIZE, 30, 30, 40, 40), 0.9)
    tile = Tile(24, 24, 64, 64)
    half = InstanceMask.from_array(box((40, 40), 6, 6, 16, 26), 0.5)  # half of it covered
    more = InstanceMask.from_array(box((40, 40), 6, 6, 16, 25), 0.5)
    assert len(merge_tiles([first], [(tile, [half])], SIZE, 1.0)) == 2
    assert merge_tiles([first], [(tile, [more])], SIZE, 1.0) == [first]


def test_crops_are_the_tiles_and_masks_land_where_they_were() -> None:
    image = np.arange(70 * 70 * 3, dtype=np.uint32).astype(np.uint8).reshape(70, 70, 3)
    seen = []

    def propose(crops: Sequence[np.ndarray]) -> list[list[InstanceMask] | None]:
        seen.extend(crops)
        mask = InstanceMask.from_array(box((40, 40), 15, 16, 20, 20), 0.7)
        return [None, [], [mask], None]

    (mask,) = second_pass(image, [], SETTINGS, propose)
    np.testing.assert_array_equal(seen[2], image[30:70, 0:40])
    assert mask.bbox == (16.0, 45.0, 4.0, 5.0)
