"""ViT features: facets against a computation by hand, weights from files that the test makes."""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.factories import with_values
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import FeatureSettings, VitSettings
from u2seg.errors import UserError
from u2seg.features import build_extractor
from u2seg.features.vit import (
    VitExtractor,
    dino_positions,
    load_vit_weights,
    resamples_as_dino,
)
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
    base = FeatureSettings(
        name="timm:test_vit", image_size=64, device="cpu", vit=VitSettings(weights=str(path))
    )
    return with_values(base, **changes)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grid(extractor: object, image: np.ndarray, facet: str = "key") -> np.ndarray:
    found: np.ndarray = extractor.extract([image], (facet,))[0].facets[facet].grid  # type: ignore[attr-defined]
    return found


def test_one_pass_gives_every_facet_as_computed_by_hand(weights: Path) -> None:
    extractor = build_extractor(settings(weights))
    assert isinstance(extractor, VitExtractor)
    image, model = picture(64, 64), extractor.model
    calls: list[int] = []
    handle = model.patch_embed.register_forward_pre_hook(lambda *_: calls.append(1))
    (got,) = extractor.extract([image], ("key", "token", "attention", "cls"))
    handle.remove()
    assert len(calls) == 1
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        x = ((pixels - 0.5) / 0.5)[None]
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        last = model.blocks[-1]
        query, key, _ = (last.norm1(tokens)[0] @ last.attn.qkv.weight.T + last.attn.qkv.bias).chunk(
            3, dim=1
        )
        out = model.forward_features(x)[0]
        heads = last.attn.num_heads
        logits = torch.stack(
            [q[0] @ k.T for q, k in zip(query.chunk(heads, 1), key.chunk(heads, 1), strict=True)]
        )
        attention = (logits / (64 / heads) ** 0.5).softmax(dim=1)[:, 1:]
    wanted = {"key": key[1:].T, "token": out[1:].T, "attention": attention}
    for facet, rows in wanted.items():
        features = got.facets[facet]
        np.testing.assert_allclose(features.grid, rows.reshape(-1, 4, 4).numpy(), atol=1e-5)
        assert features.image_size == (64, 64)
    assert got.cls is not None
    np.testing.assert_allclose(got.cls, out[0].numpy(), atol=1e-5)


def test_any_size_and_batching_change_nothing(weights: Path) -> None:
    images = [picture(40, 90, 1), picture(120, 50, 2), picture(33, 33, 3)]
    one = build_extractor(settings(weights, resize="keep", batch_size=1))
    many = build_extractor(settings(weights, resize="keep", batch_size=3))
    for a, b, image in zip(one.extract(images), many.extract(images), images, strict=True):
        np.testing.assert_allclose(a.facets["key"].grid, b.facets["key"].grid, atol=1e-5)
        assert a.facets["key"].image_size == image.shape[:2] and a.pixels is image
    assert one.extract(images)[0].facets["key"].shape == (3, 6)
    square = build_extractor(settings(weights, batch_size=2))
    for inputs, image in zip(square.extract(images), images, strict=True):
        assert inputs.facets["key"].shape == (4, 4)
        # a CPU takes one after the other
        np.testing.assert_array_equal(inputs.facets["key"].grid, grid(square, image))


def test_bf16_is_close(weights: Path) -> None:
    image = picture(64, 64)
    full = grid(build_extractor(settings(weights)), image)
    half = grid(build_extractor(settings(weights, precision="bf16")), image)
    cosine = (full * half).sum() / np.linalg.norm(full) / np.linalg.norm(half)
    assert cosine > 0.999
    assert not np.array_equal(full, half)


def test_weights_without_a_place_are_named(weights: Path, tmp_path: Path) -> None:
    content = torch.load(weights, weights_only=True)["teacher"]
    content = {k.removeprefix("module.backbone."): v for k, v in content.items()}
    blocks = 1 + max(int(name.split(".")[1]) for name in content if name.startswith("blocks."))
    deeper = {k.replace("blocks.0.", f"blocks.{blocks}."): v for k, v in content.items()}
    torch.save({**content, **deeper}, tmp_path / "deeper.pth")
    with pytest.raises(UserError, match=rf"no place for, such as 'blocks\.{blocks}\."):
        build_extractor(settings(tmp_path / "deeper.pth"))
    torch.save({**content, "register_tokens": torch.ones(1, 4, 8)}, tmp_path / "registers.pth")
    with pytest.raises(UserError, match="has register tokens, and this ViT has none"):
        build_extractor(settings(tmp_path / "registers.pth"))


def test_sha256_is_checked(weights: Path) -> None:
    build_extractor(settings(weights, sha256=sha256_file(weights)))
    with pytest.raises(UserError, match="sha256"):
        build_extractor(settings(weights, sha256="0" * 64))


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


def cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Return the cubic convolution kernel (Keys, 1981)."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampling(old: int, new: int) -> np.ndarray:
    """Return the (new, old) matrix of DINO's resampling along one side, in float64."""
    matrix = np.zeros((new, old))
    for target in range(new):
        source = (target + 0.5) * old / (new + 0.1) - 0.5
        for tap in range(int(np.floor(source)) - 1, int(np.floor(source)) + 3):
            matrix[target, np.clip(tap, 0, old - 1)] += cubic(np.array(source - tap))
    return matrix


@pytest.mark.parametrize(
    ("old", "new"), [(28, (60, 60)), (14, (30, 30)), (37, (34, 34)), (14, (14, 19))]
)
def test_positions_are_resampled_by_the_formula_of_dino(old: int, new: tuple[int, int]) -> None:
    table = torch.randn(1, 1 + old * old, 3, generator=torch.Generator().manual_seed(0))
    got = dino_positions(table, (old, old), new)
    grid = table[0, 1:].reshape(old, old, 3).double().numpy()
    wanted = np.einsum("yv,xu,vuc->yxc", resampling(old, new[0]), resampling(old, new[1]), grid)
    np.testing.assert_array_equal(got[0, 0], table[0, 0])
    np.testing.assert_allclose(got[0, 1:].reshape(*new, 3), wanted, atol=2e-5)
    assert dino_positions(table, (old, old), (old, old)) is table


@pytest.mark.parametrize(
    ("name", "dino"),
    [
        ("vit_tiny_patch16_224", False),
        ("vit_small_patch16_224.dino", True),
        ("vit_small_patch14_dinov2.lvd142m", True),
        ("vit_small_patch14_reg4_dinov2.lvd142m", False),
        ("vit_small_patch16_dinov3.lvd1689m", False),
    ],
)
def test_which_models_resample_as_dino(name: str, dino: bool) -> None:
    with torch.device("meta"):
        assert resamples_as_dino(timm.create_model(name, pretrained=False)) is dino


def test_the_extractor_of_a_cited_model_adds_these_positions(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("u2seg.features.vit.resamples_as_dino", lambda _: True)
    extractor = build_extractor(settings(weights, image_size=96))
    model = extractor.model  # type: ignore[attr-defined]
    side = model.patch_embed.grid_size[0]
    with torch.no_grad():
        got = model._pos_embed(torch.zeros(2, 6, 6, 64))
        wanted = dino_positions(model.pos_embed, (side, side), (6, 6))
    torch.testing.assert_close(got[1:, 1:], wanted[:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(got[0, 0], wanted[0, 0] + model.cls_token[0, 0], rtol=0, atol=0)


@pytest.mark.parametrize(("have", "asked"), [(8, 16), (16, 8)])
def test_weights_of_another_patch_size_are_refused(have: int, asked: int) -> None:
    options = {"img_size": 32, "embed_dim": 12, "depth": 1, "num_heads": 1, "num_classes": 0}
    given, model = (
        timm.models.VisionTransformer(patch_size=side, **options) for side in (have, asked)
    )
    message = f"patches of {have} x {have} pixels, U2SEG.FEATURES.NAME asks for one with {asked} x"
    with pytest.raises(UserError, match=message):
        load_vit_weights(model, given.state_dict(), Path("given.pth"))


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "_orig_mod.module.backbone.", "module._orig_mod.module.backbone."]
)
def test_a_whole_dino_training_and_compiled_models_load(
    weights: Path, tmp_path: Path, prefix: str
) -> None:
    state = torch.load(weights)["teacher"]
    names = {name.removeprefix("module.backbone."): value for name, value in state.items()}
    teacher = {f"{prefix}{name}": value for name, value in names.items()}
    options = argparse.Namespace(arch="vit_small", lr=0.1)
    path = tmp_path / "checkpoint.pth"
    torch.save({"student": {}, "teacher": teacher, "args": options, "epoch": 3}, path)
    one, two = (grid(build_extractor(settings(p)), picture(64, 64)) for p in (weights, path))
    np.testing.assert_array_equal(one, two)


def recipe(seed: int, last_bias: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the weights of shared/golden/maskdistill: a DINO ViT-S/16 that needs no download."""
    with torch.device("meta"):
        model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0)
    state = {}
    for name, value in model.state_dict().items():
        draw = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
        x = draw.standard_normal(tuple(value.shape)).astype(np.float32)
        scale = 1.0
        if name.endswith(".bias"):
            scale = 0.02
        elif name in ("cls_token", "pos_embed"):
            scale = 0.05
        elif name == "patch_embed.proj.weight":
            scale = (3 * 16 * 16) ** -0.5
        elif "norm" in name:
            x, scale = 1 + 0.1 * x, 1.0
        else:
            scale = value.shape[1] ** -0.5
            scale *= 0.2 if name.endswith(("attn.proj.weight", "mlp.fc2.weight")) else 1.0
        state[name] = torch.from_numpy(np.float32(x * scale))
    state["blocks.11.attn.qkv.bias"] = torch.from_numpy(last_bias)
    return state


@pytest.mark.shared
@needs_shared("golden", "maskdistill", "masks")
def test_keys_equal_those_of_the_reference_at_other_sizes(tmp_path: Path) -> None:
    folder = SHARED / "golden" / "maskdistill" / "masks"
    known = np.load(folder / "vit_weights_recipe.npz")
    state = recipe(int(known["seed"]), known["qkv_bias_last"])
    sums = [float(state[name].double().sum()) for name in known["key_names"]]
    np.testing.assert_allclose(sums, known["sums"], rtol=1e-4, atol=1e-3)
    torch.save(state, tmp_path / "vit.pth")
    extractor = build_extractor(
        FeatureSettings(
            name="dino_vits16", device="cpu", vit=VitSettings(weights=str(tmp_path / "vit.pth"))
        )
    )
    for path in sorted(folder.glob("photo_*.npz")):
        photo = Image.open(path.with_suffix(".png")).convert("RGB")
        size = [int(224 * side / min(photo.size)) for side in photo.size]
        pixels = np.asarray(photo.resize((size[0], size[1]), Image.Resampling.BILINEAR))
        batch = extractor._normalized(torch.from_numpy(pixels.copy())[None])  # type: ignore[attr-defined]
        batch = torch.nn.functional.pad(batch, (0, -size[0] % 16, 0, -size[1] % 16))
        wanted = np.load(path)["keys"].astype(np.float32)  # (heads, patches, channels)
        keys = extractor._forward(batch, ("key",))["key"][0].numpy()  # type: ignore[attr-defined]
        got = keys.reshape(6, 64, -1).swapaxes(1, 2)
        assert np.linalg.norm(got - wanted) < 1e-3 * np.linalg.norm(wanted)
