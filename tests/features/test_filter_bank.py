"""The weights-free features: the lift is a Gaussian kernel, the filters answer as designed."""

from __future__ import annotations

import numpy as np
import pytest

from u2seg.config.schema import FeatureSettings
from u2seg.errors import UserError
from u2seg.features import build_extractor
from u2seg.features.filter_bank import (
    ORIENTATIONS,
    WAVELENGTHS,
    describe_looks,
    gabor_energies,
    lift,
)


def test_cosine_of_lifted_vectors_is_a_gaussian_kernel() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.4, (17, 1, 60)).astype(np.float32)
    lifted = lift(x)[:, 0]
    flat = x[:, 0]
    distance = ((flat[:, :, None] - flat[:, None]) ** 2).sum(axis=0)
    error = np.abs(lifted.T @ lifted - np.exp(-distance / 2))
    assert error.mean() < 0.05 and error.max() < 0.25
    np.testing.assert_allclose(np.linalg.norm(lifted, axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("wavelength", range(len(WAVELENGTHS)))
@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
def test_a_grating_excites_its_own_filter_most(wavelength: int, orientation: int) -> None:
    y, x = np.mgrid[:64, :64]
    angle = np.pi * orientation / ORIENTATIONS
    along = x * np.cos(angle) + y * np.sin(angle)
    grating = 50 + 20 * np.cos(2 * np.pi * along / WAVELENGTHS[wavelength])
    energy = gabor_energies(grating.astype(np.float32))[:, 16:48, 16:48].mean(axis=(1, 2))
    assert int(energy.argmax()) == wavelength * ORIENTATIONS + orientation
    # Quadrature: the energy of a grating at the centre frequency is its amplitude.
    assert energy.max() == pytest.approx(20, rel=0.1)


def test_flat_image_has_no_texture_energy() -> None:
    assert gabor_energies(np.full((32, 32), 70, dtype=np.float32)).max() < 1e-3


def test_colour_moves_the_vector_by_its_scale() -> None:
    grey = np.full((32, 32, 3), 119, dtype=np.uint8)  # L* = 50
    white = np.full((32, 32, 3), 255, dtype=np.uint8)  # L* = 100
    a, b = (describe_looks(image, 8) for image in (grey, white))
    from u2seg.features.filter_bank import LIGHTNESS_SCALE

    difference = (b - a)[:, 2, 2]
    assert difference[0] == pytest.approx(50 / LIGHTNESS_SCALE, abs=0.02)
    assert np.abs(difference[1:]).max() < 0.01


def test_position_counts_for_keys_and_hardly_for_tokens() -> None:
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    bank = build_extractor(FeatureSettings(image_size=64))
    similarity = {}
    for facet, features in bank.extract([image], ("key", "token"))[0].facets.items():
        grid = features.grid
        similarity[facet] = float(grid[:, 0, 0] @ grid[:, -1, -1])
    assert similarity["key"] < 0.4 < 0.9 < similarity["token"]


def test_deterministic_and_any_size() -> None:
    bank = build_extractor(FeatureSettings(image_size=64, resize="keep"))
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 400), (90, 41)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        first, second = (bank.extract([image])[0].facets["key"] for _ in range(2))
        np.testing.assert_array_equal(first.grid, second.grid)
        assert first.image_size == (height, width)
        assert min(first.shape) >= 2
    (inputs,) = bank.extract([image], ("cls",))
    assert inputs.cls is not None and inputs.cls.shape == (bank.dim,) and not inputs.facets


def test_unknown_facet_lists_the_known_ones() -> None:
    bank = build_extractor(FeatureSettings(image_size=64))
    with pytest.raises(UserError, match="'attention': known are key, token, cls"):
        bank.extract([np.zeros((8, 8, 3), np.uint8)], ("attention",))
