"""STEGO's own checkpoints -> the model file of ``U2SEG.SEMANTICS.MODEL``.

They are checkpoints of PyTorch Lightning: beside the head and the cluster probe they hold DINO's
frozen ViT, which this package loads by itself, and a linear probe that was trained on ground
truth, which is left out. Names: mhamilton723/STEGO commit eb4d6b5, src/train_segmentation.py and
src/modules.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from u2seg.config.schema import SemanticSettings, StegoSettings
from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file
from u2seg.io.checkpoints import load_checkpoint
from u2seg.semantics.persist import save_model
from u2seg.semantics.stego import METHOD, StegoSegmenter

PUBLISHED = "cocostuff27_vit_base_5.ckpt, cityscapes_vit_base_1.ckpt, potsdam_test.ckpt"
_NAMES = {
    "probe.clusters": "cluster_probe.clusters",
    "head.linear.weight": "net.cluster1.0.weight",
    "head.linear.bias": "net.cluster1.0.bias",
}
_NONLINEAR = {
    f"head.nonlinear.{layer}.{part}": f"net.cluster2.{layer}.{part}"
    for layer in (0, 2)
    for part in ("weight", "bias")
}
"""Name in the model file -> name in the checkpoint."""
_PATCHES = "net.model.patch_embed.proj.weight"
_FEATURES = {(384, 8): "dino_vits8", (384, 16): "dino_vits16", (768, 8): "dino_vitb8",
             (768, 16): "dino_vitb16"}  # fmt: skip
"""(channels, patch size) of the ViT in the checkpoint -> ``U2SEG.FEATURES.NAME``."""


def convert_stego(source: Path | str, target: Path | str) -> str:
    """Convert a STEGO checkpoint and return what was done, as text.

    Args:
        source: ``.ckpt``; nothing in it is executed.
        target: ``.safetensors``.

    Raises:
        UserError: if ``source`` cannot be read safely or is no such checkpoint, or ``target`` has
            another suffix or cannot be written.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise UserError(f"the output {target} must end with .safetensors, got {target.suffix!r}")
    state = load_checkpoint(source, strangers=True).get("state_dict")
    state = state if isinstance(state, dict) else {}
    nonlinear = any(str(name).startswith("net.cluster2.") for name in state)
    names = {**_NAMES, **(_NONLINEAR if nonlinear else {})}
    missing = [name for name in (*names.values(), _PATCHES) if name not in state]
    if missing:
        raise UserError(
            f"{source} is no checkpoint of STEGO on DINO features: it has no {missing[0]}. Those "
            f"that can be converted are of the kind of {PUBLISHED}; PiCIE's (picie.pkl, "
            "picie_and_probes.pth) are other models, without a counterpart here"
        )
    tensors = {name: _tensor(state[old], f"{source}: {old}") for name, old in names.items()}
    patches = tuple(state[_PATCHES].shape)
    features = _FEATURES.get((patches[0], patches[-1]), "")
    settings = SemanticSettings(
        num_classes=len(tensors["probe.clusters"]),
        stego=StegoSettings(
            code_dim=tensors["probe.clusters"].shape[-1],
            projection="nonlinear" if nonlinear else "linear",
        ),
    )
    if not features:
        raise UserError(f"{source} is on a ViT with patches {patches}, none of {_FEATURES}")
    try:
        StegoSegmenter.build(settings, patches[0], dict(tensors))
    except RuntimeError as error:  # shapes that do not fit each other
        raise UserError(f"{source} is damaged: {error}") from error
    save_model(target, METHOD, settings, patches[0], tensors)
    lines = [
        f"STEGO on {features}: {settings.num_classes} clusters, codes of {settings.stego.code_dim} "
        "channels; left out: the ViT, the linear probe (trained on ground truth)",
        f"  from {source}  sha256 {sha256_file(source)}",
        f"  to   {target}  sha256 {sha256_file(target)}",
        "The settings that go with it:",
        f"  U2SEG.SEMANTICS.MODEL {target}",
        f"  U2SEG.SEMANTICS.NUM_CLASSES {settings.num_classes}",
        f"  U2SEG.FEATURES.NAME {features}",
    ]
    return "\n".join(lines)


def _tensor(value: Any, where: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or not torch.isfinite(value).all():
        raise UserError(f"{where} is no tensor of finite numbers: the file is damaged")
    return value.detach().float()
