"""Pretrained ResNets of other projects -> Detectron2's names, for ``MODEL.WEIGHTS``.

Sources and where they keep the encoder: torchvision and timm (plain names), DINO
(facebookresearch/dino: plain names, or ``teacher`` of a full checkpoint), MoCo v1, v2
(``module.encoder_q``) and v3 (``module.base_encoder``). All are ResNets whose second convolution
of a bottleneck has the stride, trained on RGB images scaled by ImageNet's mean and standard
deviation.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file, write_with
from u2seg.io.checkpoints import load_checkpoint, plain_names
from u2seg.modeling.weights import rename_torchvision

Arrays = dict[str, npt.NDArray[np.float32]]
KINDS = ("auto", "torchvision", "dino", "moco", "timm")
SETTINGS = (
    "MODEL.RESNETS.STRIDE_IN_1X1 False",
    "MODEL.PIXEL_MEAN [123.675,116.28,103.53]",
    "MODEL.PIXEL_STD [58.395,57.12,57.375]",
    "INPUT.FORMAT RGB",
)
"""What a config must say for these weights to mean what they meant."""

_PLAIN = tuple(
    (entry, prefix) for prefix in ("", "backbone.") for entry in ("", "state_dict", "model")
)
_PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    # Kind -> (entry of the file, prefix of the plain names), in the order they are looked for.
    "moco": tuple(
        (entry, encoder)
        for encoder in ("encoder_q.", "base_encoder.")
        for entry in ("state_dict", "")
    ),
    "dino": (("teacher", "backbone."), *_PLAIN),
    "torchvision": _PLAIN,
    "timm": _PLAIN,
}
_MARK = "layer1.0.conv1.weight"
_HOST_MARK = "backbone.bottom_up."
"""How the names of the backbone begin in Detectron2's checkpoints of whole models."""
_HEADS = re.compile(r"^(fc|head|classifier|projector|predictor)\.|(^|\.)num_batches_tracked$")
_BLOCKS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
"""(bottleneck blocks?, blocks of the four stages) -> depth; He et al., 2016, table 1."""


@dataclass(frozen=True)
class Conversion:
    """A converted ResNet."""

    model: Arrays
    kind: str
    depth: int
    left_out: tuple[str, ...]


def convert_file(source: Path | str, target: Path | str, kind: str = "auto") -> str:
    """Convert a weight file and return what was done, as text."""
    target = Path(target)
    if target.suffix not in (".pkl", ".pth"):
        raise UserError(f"the output {target} must end with .pkl or .pth, got {target.suffix!r}")
    done = convert_resnet(load_checkpoint(source), str(source), kind)
    content = {"__author__": f"{done.kind}, converted by u2seg", "matching_heuristics": True}
    if target.suffix == ".pkl":
        everything = {"model": done.model, **content}
        write_with(target, lambda file: pickle.dump(everything, file, protocol=4))
    else:
        tensors = {name: torch.from_numpy(array) for name, array in done.model.items()}
        write_with(target, lambda file: torch.save({"model": tensors, **content}, file))
    settings = (f"MODEL.WEIGHTS {target}", f"MODEL.RESNETS.DEPTH {done.depth}", *SETTINGS)
    lines = [
        f"ResNet-{done.depth} of {done.kind}: {len(done.model)} arrays, "
        f"{len(done.left_out)} left out",
        f"  from {source}  sha256 {sha256_file(source)}",
        f"  to   {target}  sha256 {sha256_file(target)}",
        "The settings that go with it:",
        *(f"  {line}" for line in settings),
    ]
    return "\n".join(lines)


def convert_resnet(content: Mapping[str, Any], name: str, kind: str = "auto") -> Conversion:
    """Return the ResNet of a loaded weight file under Detectron2's names."""
    if kind not in KINDS:
        raise UserError(f"--kind is {kind!r}, expected one of {', '.join(KINDS)}")
    kinds = ("moco", "torchvision", "dino") if kind == "auto" else (kind,)
    found, plain = _encoder(content, kinds, name)
    left_out = tuple(sorted(key for key in plain if _HEADS.search(key)))
    renamed = rename_torchvision({k: v for k, v in plain.items() if k not in left_out}) or {}
    depth = _depth(renamed, name)
    expected = resnet_shapes(depth)
    _check_names(renamed, expected, depth, name)
    model = {key: _array(renamed[key], expected[key], f"{name}: {key}") for key in expected}
    return Conversion(model, found, depth, left_out)


def resnet_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Return the host's names of a ResNet's arrays and their shapes.

    Examples:
        >>> shapes = resnet_shapes(50)
        >>> len(shapes), shapes["stem.conv1.weight"], shapes["res2.0.shortcut.weight"]
        (265, (64, 3, 7, 7), (256, 64, 1, 1))
        >>> resnet_shapes(18)["res5.0.conv1.norm.running_var"]
        (512,)
    """
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.OUT_FEATURES = depth, ["res5"]
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    state = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _encoder(
    content: Mapping[str, Any], kinds: tuple[str, ...], name: str
) -> tuple[str, dict[str, Any]]:
    """Return the kind and the arrays of the encoder, without the prefix of their names."""
    for kind in kinds:
        for entry, prefix in _PLACES[kind]:
            place = content.get(entry) if entry else content
            named = plain_names(place) if isinstance(place, Mapping) else {}
            if prefix + _MARK in named:
                names = (key for key in named if key.startswith(prefix))
                return kind, {key[len(prefix) :]: named[key] for key in names}
    model = content.get("model", content)
    if isinstance(model, Mapping) and any(str(key).startswith(_HOST_MARK) for key in model):
        raise UserError(
            f"{name} holds a whole model in Detectron2's names already: give it to MODEL.WEIGHTS "
            "as it is"
        )
    shown = ", ".join(str(key) for key in list(content)[:4])
    # auto looks for timm's networks too: they have torchvision's names.
    sought = kinds if len(kinds) == 1 else KINDS[1:]
    raise UserError(
        f"{name} holds no ResNet of {' or '.join(sought)}: no {_MARK} in any of the usual places; "
        f"its first entries are {shown}"
    )


def _depth(renamed: Mapping[str, Any], name: str) -> int:
    bottleneck = "res2.0.conv3.weight" in renamed
    blocks = tuple(
        sum(1 for key in renamed if re.fullmatch(rf"res{stage}\.\d+\.conv1\.weight", key))
        for stage in range(2, 6)
    )
    if (bottleneck, blocks) not in _BLOCKS:
        known = ", ".join(f"{counts} (ResNet-{depth})" for (_, counts), depth in _BLOCKS.items())
        raise UserError(
            f"{name} has {blocks} {'bottleneck' if bottleneck else 'basic'} blocks, "
            f"expected one of {known}"
        )
    return _BLOCKS[bottleneck, blocks]


def _check_names(
    renamed: Mapping[str, Any], expected: Mapping[str, Any], depth: int, name: str
) -> None:
    missing, strange = sorted(expected.keys() - renamed.keys()), renamed.keys() - expected.keys()
    if strange:
        raise UserError(
            f"{name} is no plain ResNet-{depth}: it also has {len(strange)} arrays such as "
            f"{min(strange)}"
        )
    if missing:
        raise UserError(
            f"{name} lacks {len(missing)} of the {len(expected)} arrays of a ResNet-{depth}, e.g. "
            f"{missing[0]}"
        )


def _array(value: Any, shape: tuple[int, ...], where: str) -> npt.NDArray[np.float32]:
    if isinstance(value, torch.Tensor):
        value = value.detach().float().numpy()
    found = tuple(getattr(value, "shape", ()))
    if found != shape:
        raise UserError(f"{where} is {found} in the file, expected {shape}")
    array = np.ascontiguousarray(value, dtype=np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{where} has values that are not finite: the file is damaged")
    return array
