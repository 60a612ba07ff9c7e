"""Refiners and the agreement filter, each rule by hand; CutLER's saved results."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.shared import SHARED, needs_shared
from u2seg.config.schema import CrfSettings
from u2seg.crf import CrfKernels, DenseCrf
from u2seg.errors import UserError
from u2seg.masks.refine import MASK_REFINERS, agrees, dense_crf_refiner, fill_holes, no_refiner

GOLDEN = SHARED / "golden" / "crf"


def test_known_refiners() -> None:
    assert MASK_REFINERS.names() == ["dense_crf", "none"]
    assert MASK_REFINERS.get("none") is no_refiner
    with pytest.raises(UserError, match="Did you mean 'dense_crf'"):
        MASK_REFINERS.get("densecrf")


def test_none_returns_an_equal_copy() -> None:
    masks = np.random.default_rng(0).random((2, 5, 6)) > 0.5
    result = no_refiner(np.zeros((5, 6, 3), dtype=np.uint8), masks, None)
    assert np.array_equal(result, masks) and not np.shares_memory(result, masks)
    with pytest.raises(ValueError, match="do not fit"):
        no_refiner(np.zeros((6, 5, 3), dtype=np.uint8), masks, None)


def test_crf_moves_a_shifted_mask_onto_its_object_and_fills_the_hole() -> None:
    # An object with a dark middle: the CRF follows the colour and leaves a hole there, which
    # is then filled because the background does not reach it.
    image = np.zeros((48, 48, 3), dtype=np.uint8)
    image[10:38, 10:38] = (200, 60, 60)
    obj = image[..., 0] > 0
    image[21:27, 21:27] = 0
    mask = np.zeros((48, 48), dtype=bool)
    mask[12:40, 12:40] = True
    settings = CrfSettings(gaussian_sxy=1.0, gaussian_weight=1.0)
    crf = DenseCrf(image, CrfKernels.from_settings(settings))
    assert not (crf.refine_masks(mask[None], settings.iterations)[0, 22:26, 22:26] > 0.5).any()
    refined = dense_crf_refiner(image, np.stack([mask, mask]), settings)
    assert refined.dtype == np.bool_ and refined.shape == (2, 48, 48)
    assert np.array_equal(refined[0], obj) and np.array_equal(refined[1], obj)


def test_no_masks_give_no_masks() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    empty = np.zeros((0, 4, 4), dtype=bool)
    assert dense_crf_refiner(image, empty, CrfSettings()).shape == (0, 4, 4)


def test_holes_by_hand() -> None:
    # A background pixel that touches the outside only over a corner is a hole.
    mask = np.array(
        [[0, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 0, 0, 1], [0, 0, 0, 0, 1]], dtype=bool
    )
    filled = mask.copy()
    filled[1, 1] = True
    assert np.array_equal(fill_holes(mask), filled)


@pytest.mark.parametrize(
    ("before", "after", "min_iou", "kept"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0], 0.5, True),  # 1 / 2: the threshold itself is kept
        ([1, 1, 1, 0], [1, 0, 0, 0], 0.5, False),  # 1 / 3
        ([1, 1, 0, 0], [0, 0, 1, 1], 0.01, False),  # 0 / 4
        ([1, 1, 0, 0], [0, 0, 0, 0], 0.5, False),  # refined away
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0, False),  # two empties: nothing to keep
        ([1, 1, 1, 1], [1, 1, 1, 1], 1.0, True),
    ],
)
def test_agreement_by_hand(before: list[int], after: list[int], min_iou: float, kept: bool) -> None:
    a, b = (np.array(m, dtype=bool).reshape(2, 2) for m in (before, after))
    assert agrees(a, b, min_iou) is kept


def test_agreement_needs_equal_shapes() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        agrees(np.zeros((2, 2), dtype=bool), np.zeros((2, 3), dtype=bool), 0.5)


@pytest.mark.shared
@needs_shared("golden", "crf")
@pytest.mark.parametrize("number", ["000000000030", "000000000072", "000000000086"])
def test_equals_cutler_after_filling(number: str) -> None:
    saved = np.load(GOLDEN / f"cutler_{number}.npz")
    image = np.array(Image.open(GOLDEN / f"image_{number}.png"))
    mask = saved["mask"] > 0.5
    refined = dense_crf_refiner(image, mask[None], CrfSettings())[0]
    assert (refined == saved["filled"]).mean() >= 0.999
    iou = (refined & mask).sum() / (refined | mask).sum()
    assert iou == pytest.approx(float(saved["iou_mask_vs_filled"]), abs=5e-3)
