"""TokenCut's rules by hand, and against its published steps in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.linalg import eigh

from tests.factories import seen
from u2seg.config.schema import MaskSettings, TokenCutSettings
from u2seg.masks.propose import propose_masks
from u2seg.masks.tokencut import salient_component, tokencut
from u2seg.structures.features import PatchFeatures

SETTINGS = TokenCutSettings()
MASKS = MaskSettings(proposer="tokencut", refiner="none")


def published(grid: np.ndarray, tau: float) -> np.ndarray:
    """Return the component, as the published steps say, with the dense solver."""
    flat = grid.reshape(len(grid), -1)
    unit = flat / np.linalg.norm(flat, axis=0)
    affinity = np.where(unit.T @ unit > tau, 1.0, 1e-5)
    degree = np.diag(affinity.sum(axis=1))
    vector = eigh(degree - affinity, degree, subset_by_index=[1, 2])[1][:, 0]
    side = vector > vector.mean()
    seed = np.argmax(np.abs(vector))
    if not side[seed]:
        side = ~side
    labels, _ = ndimage.label(side.reshape(grid.shape[1:]))
    component: np.ndarray = labels == labels.flat[seed]
    return component


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_published_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((6, 14, 17)), (0, 2, 2))
    grid = (smooth + 0.02).astype(np.float32)
    (mask,) = tokencut(PatchFeatures(grid, (140, 170)), SETTINGS)
    np.testing.assert_array_equal(mask.grid, published(grid, SETTINGS.tau))
    assert 0 < mask.score <= 1


def test_side_and_component_do_not_depend_on_the_sign() -> None:
    vector = np.array([[5.0, 4.0, -1.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, 4.0]])
    expected = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
    for signed in (vector, -vector):
        np.testing.assert_array_equal(salient_component(signed), expected)


def test_corners_do_not_count() -> None:
    """MaskCut would call the side with four corners background; TokenCut goes by the seed."""
    vector = np.ones((3, 3))
    vector[1, 1] = -2
    vector[0, 0] = 3
    component = salient_component(vector)  # mean 8 / 9: eight patches, all corners
    assert component.sum() == 8 and not component[1, 1]


def test_constant_features_give_nothing() -> None:
    flat = PatchFeatures(np.ones((3, 4, 4), dtype=np.float32), (32, 32))
    assert tokencut(flat, SETTINGS) == []


def test_one_mask_and_its_box_in_pixels_of_the_photograph() -> None:
    grid = np.zeros((2, 6, 8), dtype=np.float32)
    grid[0] = 1
    grid[:, 2:4, 3:6] = np.array([0, 1])[:, None, None]  # 2 x 3 patches of 10 pixels
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    inputs = seen(PatchFeatures(grid, (60, 80)), image, "key")
    (mask,) = propose_masks(inputs, (60, 80), MASKS)
    assert mask.bbox == (30.0, 20.0, 30.0, 20.0)
    assert mask.area == 600
