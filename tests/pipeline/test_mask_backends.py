"""The stage ``masks`` on a tiny ViT: cut image by image, and in batches of tensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from tests.factories import with_values
from u2seg.config.schema import FeatureSettings, MaskSettings, Settings
from u2seg.crf import batched as crf
from u2seg.errors import UserError
from u2seg.features import build_extractor
from u2seg.features.base import target_size
from u2seg.features.vit import VitExtractor
from u2seg.io.images import BadImageError, read_image
from u2seg.io.jsonfile import read_json
from u2seg.masks.batched_propose import MaskBatch, Proposed
from u2seg.masks.propose import propose_masks
from u2seg.pipeline import generate_labels
from u2seg.pipeline.mask_stage import (
    Loaded,
    check_backend,
    group_by_size,
    is_batched,
    masks_of_batches,
)
from u2seg.pipeline.stage import RunContext


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(model.state_dict(), path)
    return path


def with_vit(settings: Settings, weights: Path, backend: str, **changes: object) -> Settings:
    features = FeatureSettings(name="timm:test_vit", image_size=160, device="cpu", batch_size=2)
    features = with_values(features, weights=str(weights), **changes)
    masks = with_values(settings.masks, backend=backend, tau=0.6, max_area=1.0)
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
    collect = MaskBatch.collect

    def count(self: MaskBatch) -> list[Proposed]:
        found = collect(self)
        calls.append(len(found))
        assert not any(one.left for one in found) and any(one.masks for one in found)
        return found

    monkeypatch.setattr(MaskBatch, "collect", count)
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


def loaded(extractor: VitExtractor, images: list[np.ndarray]) -> list[Loaded]:
    names = [{"file_name": f"{i}.png"} for i in range(len(images))]
    return [Loaded(n, i, extractor.work_image(i)) for n, i in zip(names, images, strict=True)]


@pytest.mark.parametrize("resize", ["square", "keep"])
def test_batches_are_refined_like_images(
    settings: Settings, weights: Path, photos: Path, resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks after the CRF and at full size; other proportions make batches of their own."""
    monkeypatch.setattr(crf, "ROOM", 1.0)  # the scenes are small and noisy
    wanted = with_vit(settings, weights, "torch", resize=resize)
    masks = dataclasses.replace(wanted.masks, refiner="dense_crf", min_refine_iou=0.1)
    wanted = dataclasses.replace(wanted, masks=masks)
    extractor = VitExtractor(wanted.features)
    images = [read_image(path) for path in sorted(photos.rglob("*.png"))[:3]]
    images[1] = np.ascontiguousarray(images[1][:60])
    groups = list(group_by_size(loaded(extractor, images), 2))
    assert [len(group) for group in groups] == ([2, 1] if resize == "square" else [1, 1, 1])
    start, total = 0, 0
    for group, together in masks_of_batches(groups, extractor, wanted):
        for part, (_, mine) in zip(group, together, strict=True):
            image = images[start]
            assert part.image is image
            start += 1
            size = target_size(*image.shape[:2], extractor.patch_size, wanted.features)
            assert part.work.shape[:2] == size
            alone = propose_masks(extractor.extract([image])[0], size, masks)
            assert mine is not None and len(mine) == len(alone)
            for a, b in zip(mine, alone, strict=True):
                assert np.mean(a.to_array() == b.to_array()) >= 0.999
                assert a.score == pytest.approx(b.score, abs=1e-6)
            total += len(alone)
    assert start == 3 and total >= 3


def test_unreadable_photographs_keep_their_place_among_the_skipped(
    settings: Settings,
    weights: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads read ahead, in any order; the list of what was skipped does not show it."""
    whole = RunContext.read

    def read(self: RunContext, record: dict[str, str]) -> np.ndarray:
        if record["file_name"] in ("scene 0.png", "scene 4.png"):
            raise BadImageError("gone")
        pixels: np.ndarray = whole(self, record)
        return pixels

    monkeypatch.setattr(RunContext, "read", read)
    wanted = with_vit(settings, weights, "cpu")
    run = dataclasses.replace(wanted.run, max_bad=0.9, shard_size=10)
    written = {}
    for backend in ("cpu", "torch"):
        masks = dataclasses.replace(wanted.masks, backend=backend)
        chosen = dataclasses.replace(wanted, masks=masks, run=run)
        space = tmp_path / backend
        generate_labels(chosen, photos, space, stages=("masks",), progress=False)
        written[backend] = (space / "skipped.jsonl").read_bytes()
        assert read_json(next(space.glob("masks/part-*.json")))
    assert written["torch"] == written["cpu"]
    assert [b"scene 0" in line for line in written["cpu"].splitlines()] == [True, False]


def test_an_image_with_broken_features_is_skipped_alone(
    settings: Settings,
    weights: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = VitExtractor.extract_work

    def spoiled(
        self: VitExtractor, batch: list[np.ndarray], facets: tuple[str, ...]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels, tensors = whole(self, batch, facets)
        features = tensors["key"].clone()
        if len(features) == 1:  # the last shard
            features[0, 0, 0, 0] = float("inf")
        return pixels, {**tensors, "key": features}

    monkeypatch.setattr(VitExtractor, "extract_work", spoiled)
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
    assert not is_batched(MaskSettings(refiner="another"), extractor)


def test_features_without_tensors_are_refused(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    masks = dataclasses.replace(settings.masks, backend="torch")
    wanted = dataclasses.replace(settings, masks=masks)
    with pytest.raises(UserError, match=r"filter_bank.*name a ViT"):
        generate_labels(wanted, photos, tmp_path / "run", stages=("masks",), progress=False)
    with pytest.raises(UserError, match="BACKEND"):
        MaskSettings(backend="jax")
    for key in ("proposer", "refiner"):
        with pytest.raises(UserError, match=f"BACKEND torch has no {key} 'another': use"):
            check_backend(MaskSettings(backend="torch", **{key: "another"}), settings.features)
