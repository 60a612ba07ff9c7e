"""Neighbouring images by hand, with and without faiss."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from u2seg.errors import UserError
from u2seg.semantics import neighbors
from u2seg.semantics.neighbors import (
    NeighborCache,
    image_descriptors,
    nearest_images,
    neighbors_of,
)

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


class Counted(list):  # type: ignore[type-arg]
    """A source that counts how often features are read."""

    reads = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads += 1
        return super().__getitem__(index)


def _grids() -> Counted:
    return Counted(row[:, None, None].copy() for row in CIRCLE)


def test_neighbours_are_computed_once_and_kept(tmp_path: Path) -> None:
    cache = NeighborCache(tmp_path / "neighbors.safetensors", "a")
    source = _grids()
    first = neighbors_of(source, 2, 2, False, cache)
    assert first.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    assert source.reads == 5
    assert np.array_equal(neighbors_of(source, 2, 2, False, cache), first)
    assert source.reads == 5
    assert np.array_equal(neighbors_of(source, 2, 2, False, None), first)
    assert source.reads == 10


def test_kept_neighbours_of_other_features_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "neighbors.safetensors"
    cache = NeighborCache(path, "a")
    neighbors_of(_grids(), 2, 2, False, cache)
    for other, count, grids in (
        (NeighborCache(path, "b"), 2, _grids()),  # other key
        (NeighborCache(path, "b"), 3, _grids()),  # more neighbours
        (NeighborCache(path, "b"), 3, Counted(_grids()[:4])),  # fewer images
    ):
        neighbors_of(grids, 2, count, False, other)
        assert grids.reads >= len(grids)
        assert other.load(len(grids), count) is not None


def test_damaged_neighbours_are_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = NeighborCache(tmp_path / "neighbors.safetensors", "a")
    cache.path.write_bytes(b"\x00" * 3)
    assert neighbors_of(_grids(), 2, 1, False, cache).tolist() == [[1], [0], [1], [4], [3]]
    assert "cannot be read" in caplog.text
    cache.store(np.full((5, 1), 9))  # no such image
    assert cache.load(5, 1) is None
