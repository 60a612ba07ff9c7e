"""Saved centroids: round trip, and every way two files can disagree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from u2seg.clusters.persist import (
    CentroidInfo,
    Centroids,
    affine_path,
    load_centroids,
    save_centroids,
)
from u2seg.clusters.transform import Transform
from u2seg.config.schema import ClusterSettings, CropSettings
from u2seg.errors import UserError

INFO = CentroidInfo("filter_bank", "masked_mean", True)
AFFINE = np.arange(8, dtype=np.float32).reshape(4, 2)
CENTERS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "clusters" / "centroids.npy"
    save_centroids(path, Centroids(CENTERS, INFO, Transform(True)))
    return path


@pytest.fixture
def reduced(tmp_path: Path) -> Path:
    path = tmp_path / "reduced" / "centroids.npy"
    info = dataclasses.replace(INFO, pca=2)
    save_centroids(path, Centroids(CENTERS, info, Transform(True, AFFINE)))
    return path


def test_round_trip(saved: Path) -> None:
    found = load_centroids(saved, INFO, num_clusters=3)
    np.testing.assert_array_equal(found.array, CENTERS)
    assert found.array.dtype == np.float32
    assert found.info == INFO
    assert found.transform == Transform(True)
    note = json.loads(saved.with_suffix(".json").read_text())
    assert (note["K"], note["D"], note["feature"]) == (3, 2, "filter_bank")


@pytest.mark.parametrize(
    ("expected", "clusters", "message"),
    [
        (CentroidInfo("dino_vitb8", "masked_mean", True), None, r"FEATURES\.NAME 'filter_bank'"),
        (CentroidInfo("filter_bank", "crop_cls", True), None, r"DESCRIPTOR 'masked_mean'"),
        (CentroidInfo("filter_bank", "masked_mean", False), None, r"NORMALIZE True, now it is F"),
        (dataclasses.replace(INFO, whiten="scale"), None, r"CLUSTERS\.WHITEN 'none', now it is 's"),
        (dataclasses.replace(INFO, pca=9), None, r"CLUSTERS\.PCA 0, now it is 9: set U2SEG"),
        (dataclasses.replace(INFO, crop_padding=0.1), None, r"CROP_PADDING 0\.0, now it is 0\.1"),
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
        save_centroids(tmp_path / "c.npy", Centroids(centers, INFO, Transform(True)))
    assert not list(tmp_path.iterdir())


def test_the_pca_travels_with_the_centroids(reduced: Path) -> None:
    found = load_centroids(reduced)
    assert found.transform.affine is not None
    np.testing.assert_array_equal(found.transform.affine, AFFINE)
    assert found.transform.normalize
    affine_path(reduced).unlink()
    with pytest.raises(UserError, match=r"centroids\.affine\.npy is missing"):
        load_centroids(reduced)


@pytest.mark.parametrize("other", [AFFINE + 1, np.ones((4, 3), np.float32)])
def test_another_pca_is_refused(reduced: Path, other: np.ndarray) -> None:
    np.save(affine_path(reduced), other)
    with pytest.raises(UserError, match=r"affine\.npy and .* do not belong together"):
        load_centroids(reduced)


@pytest.mark.parametrize(("key", "value"), [("pca", True), ("pca", "2"), ("normalize", 1)])
def test_odd_notes_are_named(saved: Path, key: str, value: object) -> None:
    path = saved.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=f"centroids.json: {key} is {value!r}, expected"):
        load_centroids(saved)


def test_how_crops_are_cut_counts_only_for_crops() -> None:
    crops = ClusterSettings(descriptor="crop_cls", crops=CropSettings(fit="center", padding=0.2))
    assert CentroidInfo.from_settings("dino_vitb8", crops).crop_fit == "center"
    means = dataclasses.replace(crops, descriptor="masked_mean")
    assert CentroidInfo.from_settings("dino_vitb8", means).crop_padding == 0.0
