"""Neighbouring images by hand, with and without faiss."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from u2seg.errors import UserError
from u2seg.semantics import neighbors
from u2seg.semantics.neighbors import image_descriptors, nearest_images

ANGLES = np.radians([0, 10, 25, 80, 90]).astype(np.float32)
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


@pytest.fixture(params=["faiss", "numpy"])
def _backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("_backend")
def test_neighbours_by_hand() -> None:
    assert nearest_images(CIRCLE, 2).tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    assert nearest_images(CIRCLE, 99).shape == (5, 4)
    assert nearest_images(CIRCLE[:1], 7).shape == (1, 0)


@pytest.mark.usefixtures("_backend")
def test_copies_are_neighbours_but_an_image_is_not_its_own() -> None:
    found = nearest_images(np.repeat(CIRCLE[:2], 6, axis=0), 3)
    own = np.arange(12)[:, None]
    assert (found != own).all() and (found // 6 == own // 6).all()


def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(37, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    whole = neighbors._search_numpy(rows, 5)
    monkeypatch.setattr(neighbors, "CHUNK_BYTES", 37 * 4 * 10)
    assert np.array_equal(neighbors._search_numpy(rows, 5), whole)


def test_descriptor_is_the_unit_mean() -> None:
    grid = np.zeros((2, 1, 2), dtype=np.float32)
    grid[:, 0, 0], grid[:, 0, 1] = (6, 0), (0, 8)  # mean (3, 4), length 5
    zero = np.zeros((2, 3, 3), dtype=np.float32)
    rows = image_descriptors([grid, zero], 2, progress=False)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], atol=1e-6)


def test_bad_features_are_named() -> None:
    good = np.ones((2, 3, 3), dtype=np.float32)
    with pytest.raises(UserError, match="no images"):
        image_descriptors([], 2, progress=False)
    with pytest.raises(UserError, match=r"image 1 have shape \(3, 3, 3\), expected \(2, h, w\)"):
        image_descriptors([good, np.ones((3, 3, 3), np.float32)], 2, progress=False)
    with pytest.raises(UserError, match="image 1 hold NaN"):
        image_descriptors([good, good * np.nan], 2, progress=False)
