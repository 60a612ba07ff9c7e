"""The baseline: nearest centres of unit features, by hand and on three materials."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.factories import seen
from u2seg.config.schema import SemanticSettings
from u2seg.errors import UserError
from u2seg.semantics import SEMANTIC_SEGMENTERS
from u2seg.semantics.kmeans_probe import KMeansProbe
from u2seg.semantics.stego import StegoSegmenter
from u2seg.structures.features import PatchFeatures

PLAIN = SemanticSettings(segmenter="kmeans_probe", num_classes=2, crf=False)
BLACK = np.zeros((1, 4, 3), dtype=np.uint8)


def _grid(*vectors: tuple[float, ...]) -> np.ndarray:
    """(D, 1, w) from w vectors."""
    return np.array(vectors, dtype=np.float32).T[:, None]


def test_registered_under_its_name() -> None:
    assert SEMANTIC_SEGMENTERS.get("kmeans_probe") is KMeansProbe


def test_centres_of_unit_features_by_hand() -> None:
    # Lengths do not count: (1, 0), (7, 0) are one direction, (0, 2), (0, 9) the other.
    model = KMeansProbe(PLAIN, 2)
    grids = [_grid((1, 0), (1, 0), (1, 0)), _grid((0, 9), (0, 9), (0, 9)), _grid((7, 0), (7, 0))]
    assert model.fit(grids, progress=False) == {}
    assert sorted(model.centers.round(decimals=5).tolist()) == [[0, 1], [1, 0]]


def test_the_nearest_centre_wins_not_the_largest_product() -> None:
    model = KMeansProbe(PLAIN, 2)
    model.centers = torch.tensor([[1.0, 0.0], [0.4, 0.3]])
    # Unit feature (0.8, 0.6): products 0.8 and 0.5, squared distances 0.4 and 0.25.
    label = model.predict(seen(PatchFeatures(_grid((8, 6)), (1, 1)), BLACK[:, :1]))
    assert label.tolist() == [[1]]
    scores = model._log_probs(torch.tensor([8.0, 6.0]).reshape(1, 2, 1, 1)).exp().flatten()
    # Softmax of 2 * 0.8 - 1 and 2 * 0.5 - 0.25.
    expected = np.exp([0.6, 0.75]) / np.exp([0.6, 0.75]).sum()
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-6)


def test_features_are_enlarged_before_they_are_compared() -> None:
    model = KMeansProbe(PLAIN, 2)
    model.centers = torch.eye(2)
    # Patches (1, 0) and (0, 3) at four pixels: (1, 0), (0.75, 0.75), (0.25, 2.25), (0, 3).
    label = model.predict(seen(PatchFeatures(_grid((1, 0), (0, 3)), (1, 4)), BLACK))
    assert label.tolist() == [[0, 0, 1, 1]]


def test_mirror_image_is_turned_back_and_averaged() -> None:
    model = KMeansProbe(PLAIN, 2)
    model.centers = torch.eye(2)
    here = PatchFeatures(_grid((3, 2), (0, 1)), (1, 2))
    mirror = PatchFeatures(_grid((0, 1), (0, 2)), (1, 2))  # turned back: (0, 2), (0, 1)
    assert model.predict(seen(here, BLACK[:, :2])).tolist() == [[0, 1]]
    assert model.predict(seen(here, BLACK[:, :2]), seen(mirror, BLACK[:, :2])).tolist() == [[1, 1]]


def test_seed_decides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grids = [rng.normal(size=(5, 6, 6)).astype(np.float32) for _ in range(3)]
    first, again, other = (
        KMeansProbe(dataclasses.replace(PLAIN, num_classes=4, seed=seed), 5) for seed in (0, 0, 1)
    )
    for model in (first, again, other):
        model.fit(grids, progress=False)
    assert torch.equal(first.centers, again.centers)
    assert not torch.equal(first.centers, other.centers)


def test_bad_sources_are_refused() -> None:
    model = KMeansProbe(PLAIN, 2)
    with pytest.raises(UserError, match="no images"):
        model.fit([], progress=False)
    with pytest.raises(UserError, match="3 channels"):
        model.fit([np.ones((3, 2, 2), np.float32)], progress=False)
    with pytest.raises(UserError, match="not finite"):
        model.fit([np.full((2, 2, 2), np.nan, np.float32)], progress=False)
    with pytest.raises(UserError, match="1 patches cannot make 2 stuff clusters"):
        model.fit([_grid((1, 0))], progress=False)
    with pytest.raises(UserError, match="fewer than 2 patches of these images differ"):
        model.fit([np.zeros((2, 4, 4), np.float32)], progress=False)
    with pytest.raises(ValueError, match="5 channels, the model 2"):
        model.predict(seen(PatchFeatures(np.ones((5, 2, 2), np.float32), (8, 8)), BLACK))


def test_saved_model_is_the_same_and_takes_the_run_s_way_to_predict(tmp_path: Path) -> None:
    model = KMeansProbe(PLAIN, 2)
    model.centers = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert torch.equal(KMeansProbe.load(path).centers, model.centers)
    assert KMeansProbe.load(path).settings == PLAIN
    run = dataclasses.replace(PLAIN, crf=True, max_pixels=77, flip=False, seed=5)
    loaded = KMeansProbe.load(path, run).settings
    assert loaded == dataclasses.replace(PLAIN, crf=True, max_pixels=77, flip=False)
    with pytest.raises(UserError, match=r"has 2 stuff clusters, .*NUM_CLASSES asks for 3"):
        KMeansProbe.load(path, dataclasses.replace(PLAIN, num_classes=3))
    with pytest.raises(UserError, match=r"not a saved stego model .*SEGMENTER"):
        StegoSegmenter.load(path)
