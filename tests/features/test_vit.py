"""ViT features: facets against a computation by hand, weights from files that the test makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from u2seg.config.schema import FeatureSettings
from u2seg.errors import UserError
from u2seg.features import FEATURE_EXTRACTORS, build_extractor
from u2seg.features.vit import ARCHITECTURES, VitExtractor
from u2seg.io.atomic import sha256_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    with torch.no_grad():
        model.pos_embed.normal_()
    state = {f"module.backbone.{k}": v for k, v in model.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"teacher": {**state, "module.head.weight": torch.ones(1)}, "epoch": 3}, path)
    return path


def settings(path: Path, **changes: object) -> FeatureSettings:
    base = FeatureSettings(name="timm:test_vit", weights=str(path), image_size=64, device="cpu")
    return replace(base, **changes)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_key_facet_is_the_key_projection_of_the_last_block(weights: Path) -> None:
    extractor = build_extractor(settings(weights))
    assert isinstance(extractor, VitExtractor)
    image = picture(64, 64)
    got = extractor.extract([image], "key")[0]
    model = extractor.model
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        x = ((pixels - 0.5) / 0.5)[None]
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        last = model.blocks[-1]
        qkv = last.norm1(tokens) @ last.attn.qkv.weight.T + last.attn.qkv.bias
        keys = qkv[0, 1:, 64:128].T.reshape(64, 4, 4)
    np.testing.assert_allclose(got.grid, keys.numpy(), atol=1e-5)
    assert got.image_size == (64, 64)


def test_token_and_cls_are_normalised_outputs(weights: Path) -> None:
    extractor = build_extractor(settings(weights))
    image = picture(64, 64)
    with torch.no_grad():
        pixels = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
        out = extractor.model.forward_features(pixels[None])[0]  # type: ignore[attr-defined]
    token = extractor.extract([image], "token")[0].grid
    np.testing.assert_allclose(token.reshape(64, 16).T, out[1:].numpy(), atol=1e-5)
    np.testing.assert_allclose(extractor.cls([image])[0], out[0].numpy(), atol=1e-5)


def test_any_size_and_batching_change_nothing(weights: Path) -> None:
    images = [picture(40, 90, 1), picture(120, 50, 2), picture(33, 33, 3)]
    one = build_extractor(settings(weights, resize="keep", batch_size=1))
    many = build_extractor(settings(weights, resize="keep", batch_size=3))
    for a, b, image in zip(one.extract(images), many.extract(images), images, strict=True):
        np.testing.assert_allclose(a.grid, b.grid, atol=1e-5)
        assert a.image_size == image.shape[:2]
    assert one.extract(images)[0].shape == (3, 6)
    square = build_extractor(settings(weights, batch_size=2)).extract(images)
    assert [f.shape for f in square] == [(4, 4)] * 3
    alone = [build_extractor(settings(weights)).extract([image])[0] for image in images]
    for a, b in zip(square, alone, strict=True):
        np.testing.assert_array_equal(a.grid, b.grid)  # a CPU takes one after the other


def test_bf16_is_close(weights: Path) -> None:
    image = picture(64, 64)
    full = build_extractor(settings(weights)).extract([image])[0].grid
    half = build_extractor(settings(weights, precision="bf16")).extract([image])[0].grid
    cosine = (full * half).sum() / np.linalg.norm(full) / np.linalg.norm(half)
    assert cosine > 0.999
    assert not np.array_equal(full, half)


def test_sha256_is_checked(weights: Path) -> None:
    good = sha256_file(weights)
    build_extractor(settings(weights, sha256=good))
    with pytest.raises(UserError, match="sha256"):
        build_extractor(settings(weights, sha256="0" * 64))


def test_file_url_is_fetched_once(weights: Path, tmp_path: Path) -> None:
    from u2seg.features.weights import local_weights

    url = weights.as_uri()
    copy = tmp_path / "copy.pth"
    copy.write_bytes(weights.read_bytes())
    first = local_weights(url, sha256_file(weights), tmp_path)
    assert first.read_bytes() == weights.read_bytes()
    assert local_weights(url, folder=tmp_path) == first
    with pytest.raises(UserError, match="expected 000"):
        local_weights(copy.as_uri(), "000", tmp_path)
    with pytest.raises(UserError, match="cannot download"):
        local_weights(url + "-missing", folder=tmp_path)
    assert [p.name for p in (tmp_path / "weights").iterdir()] == [first.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "/no/such.pth"}, "does not exist"),
        ({"name": "timm:resnet18"}, r"plain ViT|as a ViT"),
        ({"name": "dino_vits99"}, "Did you mean"),
        ({"name": "dino_vits16"}, "another architecture|does not fit"),
        ({"device": "cuda:9"}, "no GPU"),
        ({"device": "moon"}, "no device"),
    ],
)
def test_errors_say_what_to_do(weights: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_extractor(settings(weights, **change))


def test_a_vit_without_fused_keys_is_refused(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.models.eva import Eva

    model = Eva(img_size=32, embed_dim=12, depth=1, num_heads=1, num_classes=0, qkv_fused=False)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
    with pytest.raises(UserError, match="is not a plain ViT"):
        build_extractor(settings(weights))


def test_published_names_are_known_to_timm() -> None:
    known = set(timm.list_pretrained())
    assert set(ARCHITECTURES.values()) <= known
    assert set(ARCHITECTURES) <= set(FEATURE_EXTRACTORS.names())
