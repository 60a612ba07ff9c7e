"""Which cuts are kept, and their scores; by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.factories import seen
from u2seg.config.schema import MaskCutSettings, MaskSettings
from u2seg.masks.maskcut import PatchMask
from u2seg.masks.propose import border_share, propose_masks, selected
from u2seg.structures.features import PatchFeatures
from u2seg.structures.masks import InstanceMask


def mask(rows: slice, columns: slice, score: float = 0.8) -> PatchMask:
    grid = np.zeros((4, 5), dtype=bool)
    grid[rows, columns] = True
    return PatchMask(grid, score)


SKY = mask(slice(0, 2), slice(0, 5))  # 7 of the 14 border patches
BALL = mask(slice(1, 3), slice(1, 4), 0.5)  # none
FOOT = mask(slice(2, 4), slice(1, 3), 0.6)  # 2


def scores(settings: MaskSettings) -> list[float]:
    return [kept.score for cut in (SKY, BALL, FOOT) if (kept := selected(cut, settings))]


def test_border_share_by_hand() -> None:
    assert [border_share(m.grid) for m in (SKY, BALL, FOOT)] == [0.5, 0.0, 2 / 14]
    assert border_share(np.ones((4, 5), dtype=bool)) == 1.0
    # Where every patch lies on the border, it is the share of all.
    assert border_share(np.array([[True, False, False, False]])) == 0.25


def test_the_reference_keeps_every_cut_and_its_score() -> None:
    assert scores(MaskSettings()) == [0.8, 0.5, 0.6]


def test_masks_along_the_border_are_dropped() -> None:
    assert scores(MaskSettings(max_border=0.5)) == [0.8, 0.5, 0.6]
    assert scores(MaskSettings(max_border=0.49)) == [0.5, 0.6]
    assert scores(MaskSettings(max_border=0.0)) == [0.5]


def test_the_border_lowers_the_score_and_not_the_order() -> None:
    expected = [0.8 * 7 / 14, 0.5, 0.6 * 12 / 14]
    assert scores(MaskSettings(score="border")) == pytest.approx(expected)


@pytest.mark.parametrize("proposer", ["maskcut", "tokencut"])
def test_photographs_get_what_is_selected(proposer: str) -> None:
    """The left two of six columns: 2 x 2 + 2 of the 16 + 0 border patches of a 4 x 6 grid."""
    row = np.repeat([[1.0, 0.0], [0.0, 1.0]], [2, 4], axis=1).astype(np.float32)
    features = PatchFeatures(row[:, None].repeat(4, axis=1), (16, 24))
    image = np.zeros((16, 24, 3), np.uint8)

    def propose(**changes: object) -> list[InstanceMask]:
        settings = MaskSettings(
            proposer=proposer, refiner="none", maskcut=MaskCutSettings(tau=0.5, num_masks=1)
        )
        inputs = seen(features, image, "key")
        return propose_masks(inputs, (16, 24), replace(settings, **changes))

    [cut], [border] = propose(), propose(score="border")
    assert cut.area == border.area == 16 * 8
    assert border.score == pytest.approx(cut.score * 10 / 16)
    assert propose(max_border=6 / 16) and not propose(max_border=0.37)
