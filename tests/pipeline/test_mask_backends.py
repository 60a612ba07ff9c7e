"""The stage ``masks`` on a tiny ViT: cut image by image, and in batches of tensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from u2seg.config.schema import FeatureSettings, MaskSettings, Settings
from u2seg.errors import UserError
from u2seg.features import build_extractor
from u2seg.features.base import target_size
from u2seg.io.images import read_image
from u2seg.io.jsonfile import read_json
from u2seg.masks import batched
from u2seg.masks.propose import propose_masks
from u2seg.pipeline import generate_labels
from u2seg.pipeline.mask_batches import is_batched, masks_of_batch


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(model.state_dict(), path)
    return path


def with_vit(settings: Settings, weights: Path, backend: str, **changes: object) -> Settings:
    features = FeatureSettings(
        name="timm:test_vit", weights=str(weights), image_size=160, device="cpu", batch_size=2
    )
    features = dataclasses.replace(features, **changes)
    masks = dataclasses.replace(settings.masks, backend=backend, tau=0.6, max_area=1.0)
    return dataclasses.replace(settings, features=features, masks=masks)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}])
def test_both_backends_write_the_same_masks(
    settings: Settings,
    weights: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
) -> None:
    calls: list[int] = []
    cut = batched.maskcut_batch

    def count(features: torch.Tensor, masks: MaskSettings) -> batched.BatchMasks:
        calls.append(len(features))
        found = cut(features, masks)
        assert found.settled.all() and found.valid.any()
        return found

    monkeypatch.setattr(batched, "maskcut_batch", count)
    written = {}
    for backend in ("cpu", "torch", "auto"):
        wanted = with_vit(settings, weights, backend, **changes)
        folder = generate_labels(
            wanted, photos, tmp_path / backend, stages=("masks",), progress=False
        )
        written[backend] = [read_json(path) for path in sorted(folder.glob("masks/part-*.json"))]
    assert calls == [2, 2, 1], "shards of two, once"
    assert sum(len(part) for part in written["cpu"]) >= 5
    assert written["torch"] == written["cpu"] == written["auto"]


@pytest.mark.parametrize("resize", ["square", "keep"])
def test_batches_are_refined_like_images(
    settings: Settings, weights: Path, photos: Path, resize: str
) -> None:
    """Masks after the CRF and at full size; other proportions make batches of their own."""
    wanted = with_vit(settings, weights, "torch", resize=resize)
    masks = dataclasses.replace(wanted.masks, refiner="dense_crf", min_refine_iou=0.1)
    wanted = dataclasses.replace(wanted, masks=masks)
    extractor = build_extractor(wanted.features)
    images = [read_image(path) for path in sorted(photos.rglob("*.png"))[:3]]
    images[1] = np.ascontiguousarray(images[1][:60])
    total, start = 0, 0
    for tensor in extractor.extract_tensors(images):  # type: ignore[attr-defined]
        group = images[start : start + len(tensor)]
        start += len(tensor)
        together = masks_of_batch(group, tensor, extractor, wanted)
        for image, mine in zip(group, together, strict=True):
            size = target_size(*image.shape[:2], extractor.patch_size, wanted.features)
            alone = propose_masks(image, extractor.extract([image])[0], size, masks)
            assert mine is not None and len(mine) == len(alone)
            for a, b in zip(mine, alone, strict=True):
                assert np.mean(a.to_array() == b.to_array()) >= 0.999
                assert a.score == pytest.approx(b.score, abs=1e-6)
            total += len(alone)
    assert start == 3 and total >= 3


def test_an_image_with_broken_features_is_skipped_alone(
    settings: Settings,
    weights: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from u2seg.features.vit import VitExtractor

    whole = VitExtractor.extract_tensors

    def spoiled(self: VitExtractor, images: list[np.ndarray], facet: str) -> object:
        for tensor in whole(self, images, facet):
            tensor = tensor.clone()
            if len(tensor) == 1:  # the last shard
                tensor[0, 0, 0, 0] = float("inf")
            yield tensor

    monkeypatch.setattr(VitExtractor, "extract_tensors", spoiled)
    wanted = with_vit(settings, weights, "torch")
    wanted = dataclasses.replace(wanted, run=dataclasses.replace(wanted.run, max_bad=0.5))
    generate_labels(wanted, photos, tmp_path / "run", stages=("masks",), progress=False)
    lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert len(lines) == 1 and "not finite" in lines[0] and "scene 4.png" in lines[0]


def test_auto_batches_maskcut_on_a_gpu_only(settings: Settings, weights: Path) -> None:
    extractor = build_extractor(with_vit(settings, weights, "auto").features)
    assert not is_batched(MaskSettings(), extractor)
    assert is_batched(MaskSettings(backend="torch"), extractor)
    extractor.device = torch.device("cuda")  # type: ignore[attr-defined]
    assert is_batched(MaskSettings(), extractor)
    assert not is_batched(MaskSettings(backend="cpu"), extractor)
    assert not is_batched(MaskSettings(proposer="another"), extractor)


def test_features_without_tensors_are_refused(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    masks = dataclasses.replace(settings.masks, backend="torch")
    wanted = dataclasses.replace(settings, masks=masks)
    with pytest.raises(UserError, match=r"filter_bank.*name a ViT"):
        generate_labels(wanted, photos, tmp_path / "run", stages=("masks",), progress=False)
    with pytest.raises(UserError, match="BACKEND"):
        MaskSettings(backend="jax")
