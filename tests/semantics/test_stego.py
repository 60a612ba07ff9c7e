"""STEGO as a whole: it learns, is repeatable, survives odd inputs, and reads no label."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import u2seg.semantics
from tests.factories import seen, with_values
from u2seg.config.schema import SemanticSettings, StegoSettings
from u2seg.errors import UserError
from u2seg.semantics import SEMANTIC_SEGMENTERS
from u2seg.semantics.head import ClusterProbe
from u2seg.semantics.stego import StegoSegmenter
from u2seg.semantics.training import CURVES, start_probe
from u2seg.structures.features import PatchFeatures

SMALL = with_values(
    SemanticSettings(num_classes=3, crf=False, stego=StegoSettings(batch_size=4)),
    code_dim=8, steps=40, samples=5, neg_samples=2, neighbors=3, dropout=0.0, lr=5e-3,
)  # fmt: skip
CENTERS = np.linalg.qr(np.random.default_rng(9).normal(size=(12, 12)))[0][:3]


def _scene(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Noisy features (12, h, w) of three materials, and which material is where."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(3)
    truth = order[np.minimum(np.arange(shape[1]) * 3 // shape[1], 2)][None].repeat(shape[0], 0)
    grid = CENTERS[truth].transpose(2, 0, 1) + rng.normal(0, 0.05, (12, *shape))
    return grid.astype(np.float32), truth


SCENES = [_scene(seed, (6 + seed % 2, 9)) for seed in range(8)]
GRIDS = [grid for grid, _ in SCENES]


def _fit(settings: SemanticSettings = SMALL) -> tuple[StegoSegmenter, dict[str, list[float]]]:
    model = StegoSegmenter(settings, 12)
    return model, model.fit(GRIDS, progress=False)


def test_registered_under_its_name() -> None:
    assert SEMANTIC_SEGMENTERS.names() == ["kmeans_probe", "stego"]
    assert SEMANTIC_SEGMENTERS.get("stego") is StegoSegmenter


@pytest.mark.parametrize("dense", [False, True])
def test_three_materials_are_told_apart(dense: bool) -> None:
    model, curves = _fit(with_values(SMALL, dense_codes=dense))
    assert sorted(curves) == sorted(CURVES)
    assert all(len(values) == SMALL.stego.steps for values in curves.values())
    assert np.mean(curves["total"][-5:]) < np.mean(curves["total"][:5]) - 0.05
    votes = np.zeros((3, 3), dtype=int)
    for grid, truth in SCENES:
        features = PatchFeatures(grid, truth.shape)
        label = model.predict(seen(features, np.zeros((*truth.shape, 3), dtype=np.uint8)))
        np.add.at(votes, (label, truth), 1)
    assert (votes.max(axis=1) == votes.sum(axis=1)).all()  # every cluster is one material
    assert (votes.sum(axis=1) > 0).all()


def test_same_seed_same_model_other_seed_another() -> None:
    first, second = _fit(), _fit()
    assert first[1] == second[1]
    for a, b in zip(first[0].head.parameters(), second[0].head.parameters()):
        assert torch.equal(a, b)
    assert torch.equal(first[0].probe.clusters, second[0].probe.clusters)
    assert _fit(with_values(SMALL, seed=1))[1] != first[1]


def test_one_image_learns_without_random_pairs(caplog: pytest.LogCaptureFixture) -> None:
    model = StegoSegmenter(SMALL, 12)
    curves = model.fit(GRIDS[:1], progress=False)
    assert set(curves["neg"]) == {0.0}
    assert np.isfinite(curves["total"]).all()
    assert "one image only" in caplog.text


def test_constant_images_do_not_fail() -> None:
    model = StegoSegmenter(SMALL, 12)
    model.fit([np.ones((12, 4, 4), dtype=np.float32)] * 3, progress=False)
    zero = StegoSegmenter(SMALL, 12)
    curves = zero.fit([np.zeros((12, 2, 2), dtype=np.float32)] * 3, progress=False)
    assert np.isfinite(curves["total"]).all()


def test_fewer_patches_than_clusters_is_an_error_with_both_numbers() -> None:
    model = StegoSegmenter(with_values(SMALL, num_classes=27), 12)
    with pytest.raises(UserError, match="8 patches cannot make 27 stuff clusters"):
        model.fit([np.ones((12, 2, 2), dtype=np.float32)] * 2, progress=False)


def test_probe_starts_at_the_centres_of_the_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    probe = ClusterProbe(2, 3, generator)
    codes = torch.tensor([[2.0, 0, 0], [5.0, 0, 0], [0, 0, 1.0], [0, 0, 9.0]])
    start_probe(probe, codes, seed=0)
    directions = sorted((probe.clusters / 3**0.5).round(decimals=5).tolist())
    assert directions == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_random_start_is_kept_when_asked_for() -> None:
    model, _ = _fit(with_values(SMALL, probe_start="random", steps=2))

    fresh = StegoSegmenter(with_values(SMALL, probe_start="random"), 12)
    moved = (model.probe.clusters - fresh.probe.clusters).detach().abs().max()
    assert 0 < float(moved) < 0.02


def test_saved_model_predicts_the_same(tmp_path: Path) -> None:
    model, _ = _fit(with_values(SMALL, steps=4, crf=True))
    path = tmp_path / "deep" / "model.safetensors"
    model.save(path)
    loaded = StegoSegmenter.load(path)
    assert loaded.settings == model.settings and loaded.in_dim == 12
    image = np.random.default_rng(0).integers(0, 255, (30, 45, 3)).astype(np.uint8)
    features = PatchFeatures(GRIDS[0], (30, 45))
    mirror = PatchFeatures(GRIDS[0][:, :, ::-1].copy(), (30, 45))
    expected = model.predict(seen(features, image), seen(mirror, image))
    assert expected.max() < 3
    assert np.array_equal(loaded.predict(seen(features, image), seen(mirror, image)), expected)
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        StegoSegmenter.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04 not a model")
    with pytest.raises(UserError, match="not a saved stego model"):
        StegoSegmenter.load(tmp_path / "bad.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors", {"stego": json.dumps({})})
    with pytest.raises(UserError, match="not a saved stego model"):
        StegoSegmenter.load(tmp_path / "other.safetensors")


def test_unfitting_features_are_refused() -> None:
    model = StegoSegmenter(SMALL, 12)
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="5 channels, the model 12"):
        model.predict(seen(PatchFeatures(np.ones((5, 2, 2), np.float32), (8, 8)), image))
    with pytest.raises(ValueError, match="mirror image"):
        model.predict(
            seen(PatchFeatures(np.ones((12, 2, 2), np.float32), (8, 8)), image),
            seen(PatchFeatures(np.ones((12, 2, 3), np.float32), (8, 8)), image),
        )


def test_no_ground_truth_is_named_in_the_package() -> None:
    folder = Path(u2seg.semantics.__file__).parent
    for module in sorted(folder.glob("*.py")):
        text = module.read_text(encoding="utf-8")
        for word in ("supervised_", "u2seg.evaluation", "u2seg.data", "u2seg.io.coco"):
            assert word not in text, f"{module.name} names {word}"
