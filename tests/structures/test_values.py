"""Small value types: panoptic ids, patch features, manifests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from u2seg.structures.features import PatchFeatures
from u2seg.structures.manifest import StageManifest
from u2seg.structures.panoptic import ids_to_rgb, rgb_to_ids


def test_panoptic_colours_by_hand() -> None:
    # id = R + 256 G + 65536 B
    ids = np.array([[0, 255, 256, 65536, 1 + 2 * 256 + 3 * 65536, 2**24 - 1]], dtype=np.int32)
    rgb = ids_to_rgb(ids)
    assert rgb.dtype == np.uint8
    expected = [[0, 0, 0], [255, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3], [255, 255, 255]]
    assert rgb[0].tolist() == expected
    np.testing.assert_array_equal(rgb_to_ids(rgb), ids)


@pytest.mark.parametrize("bad", [-1, 2**24])
def test_ids_without_a_colour_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.16777215"):
        ids_to_rgb(np.array([[0, bad]], dtype=np.int32))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (np.zeros((2, 3)), r"\(D, h, w\)"),
        (np.zeros((5, 0, 3)), r"\(D, h, w\)"),
        (np.full((1, 1, 1), np.nan), "NaN or infinity"),
        (np.full((1, 1, 1), np.inf), "NaN or infinity"),
    ],
)
def test_bad_patch_features_are_refused(grid: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchFeatures(grid.astype(np.float32), (2, 2))


def test_manifest_round_trip() -> None:
    manifest = StageManifest(
        stage="masks", settings_hash="ab", inputs={"images": "cd"}, files={"x": "ef"},
        counts={"masks": 3}, version="0", seed=1,
    )  # fmt: skip
    assert StageManifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    with pytest.raises(TypeError):
        StageManifest.from_json({"unknown": 1})
