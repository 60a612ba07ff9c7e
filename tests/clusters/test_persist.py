"""Saved centroids: round trip, and every way two files can disagree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from u2seg.clusters.persist import CentroidInfo, load_centroids, save_centroids
from u2seg.errors import UserError

INFO = CentroidInfo("filter_bank", "masked_mean", True)
CENTERS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "clusters" / "centroids.npy"
    save_centroids(path, CENTERS, INFO)
    return path


def test_round_trip(saved: Path) -> None:
    centers, info = load_centroids(saved, INFO, num_clusters=3)
    np.testing.assert_array_equal(centers, CENTERS)
    assert centers.dtype == np.float32
    assert info == INFO
    note = json.loads(saved.with_suffix(".json").read_text())
    assert (note["K"], note["D"], note["feature"]) == (3, 2, "filter_bank")


@pytest.mark.parametrize(
    ("expected", "clusters", "message"),
    [
        (CentroidInfo("dino_vitb8", "masked_mean", True), None, r"FEATURES\.NAME 'filter_bank'"),
        (CentroidInfo("filter_bank", "crop_cls", True), None, r"DESCRIPTOR 'masked_mean'"),
        (CentroidInfo("filter_bank", "masked_mean", False), None, r"NORMALIZE True, now it is F"),
        (None, 4, r"holds 3 centroids, but U2SEG\.CLUSTERS\.NUM_CLUSTERS is 4: set it to 3"),
    ],
)
def test_other_settings_are_refused(
    saved: Path, expected: CentroidInfo | None, clusters: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_centroids(saved, expected, clusters)


def _swap_array(path: Path) -> None:
    np.save(path, CENTERS + 1)


def _drop_json(path: Path) -> None:
    path.with_suffix(".json").unlink()


def _drop_array(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _pickle(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def _integers(path: Path) -> None:
    np.save(path, CENTERS.astype(np.int64))


def _nan(path: Path) -> None:
    np.save(path, np.full((3, 2), np.nan, dtype=np.float32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_swap_array, "do not belong together"),
        (_drop_json, r"centroids\.json does not exist"),
        (_drop_array, r"centroids\.npy does not exist: give a saved"),
        (_truncate, "not a readable .npy"),
        (_pickle, "not a readable .npy"),
        (_integers, r"\(K, D\) float32"),
        (_nan, "NaN or infinity"),
    ],
)
def test_damage_is_named(saved: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(saved)
    with pytest.raises(UserError, match=message):
        load_centroids(saved)


@pytest.mark.parametrize(
    "centers", [np.ones(3, np.float32), np.ones((0, 2), np.float32), np.full((1, 1), np.inf)]
)
def test_bad_centroids_are_not_saved(tmp_path: Path, centers: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(K, D\) and finite"):
        save_centroids(tmp_path / "c.npy", centers, INFO)
    assert not list(tmp_path.iterdir())
