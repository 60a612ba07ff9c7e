"""Weight files of other projects -> the host's layout and names. Pure functions.

Layouts: Detectron2 (``model``, ``__author__``), Caffe2 (arrays, perhaps under ``blobs``), pycls
(``model_state``), torchvision and DINO ResNets (``layer1.0.conv1.weight`` ...), plain state
dicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from u2seg.errors import UserError
from u2seg.io.checkpoints import plain_names

Shapes = Mapping[str, tuple[int, ...]]
Mismatch = tuple[str, tuple[int, ...], tuple[int, ...]]

_WRAPPERS = ("module.", "backbone.", "encoder.", "model.")
_TORCHVISION_MARK = "layer1.0.conv1.weight"
# Kept in some files and not in others; always made from the config or harmless.
_OPTIONAL = re.compile(r"(^|\.)(pixel_mean|pixel_std|num_batches_tracked|cell_anchors\.\d+)$")


def to_host_layout(content: dict[str, Any], file_name: str) -> dict[str, Any]:
    """Return the content of a file in the host's layout."""
    suffix = PurePath(file_name).suffix
    if suffix == ".pkl" and not ("model" in content and "__author__" in content):
        blobs = content.get("blobs", content)
        model = {k: v for k, v in blobs.items() if not k.endswith("_momentum")}
        loaded: dict[str, Any] = {"model": model, "__author__": "Caffe2"}
        loaded["matching_heuristics"] = True
    elif suffix == ".pyth" and "model_state" in content:
        loaded = {"model": content["model_state"], "__author__": "pycls"}
    elif isinstance(content.get("model"), dict):
        loaded = dict(content)
    elif isinstance(content.get("state_dict"), dict):
        loaded = {"model": content["state_dict"]}
    elif isinstance(content.get("teacher"), dict):
        raise UserError(
            f"{file_name} is a whole DINO training, with teacher and student: of a ResNet, "
            "u2seg convert makes a file for MODEL.WEIGHTS; a ViT belongs into "
            "U2SEG.FEATURES.VIT.WEIGHTS"
        )
    else:
        loaded = {"model": content}
    loaded["model"] = plain_names(_checked(loaded["model"], file_name))
    renamed = rename_torchvision(loaded["model"])
    if renamed is not None:
        return {"model": renamed, "__author__": "torchvision", "matching_heuristics": True}
    return loaded


def _checked(model: Mapping[str, Any], file_name: str) -> dict[str, Any]:
    for name, value in model.items():
        array = isinstance(value, np.ndarray)
        if not (isinstance(value, torch.Tensor) or (array and value.dtype.kind in "biuf")):
            kind = f"an array of {value.dtype}" if array else type(value).__name__
            raise UserError(
                f"{file_name}: {name!r} is {kind}, expected numbers: this is not a file of model "
                "weights"
            )
        numbers = torch.as_tensor(value)
        bad = numbers.numel() - int(torch.isfinite(numbers).sum())
        if bad:  # every score would be NaN or 0
            raise UserError(
                f"{file_name}: {bad} of {numbers.numel()} numbers of {name} are NaN or infinite: "
                "the file is damaged, or the training that wrote it had diverged. Take an earlier "
                "checkpoint or another file"
            )
    if not model:
        raise UserError(f"{file_name} holds no weights")
    return dict(model)


def rename_torchvision(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a torchvision-style ResNet under Detectron2's names; None if it is not one.

    The classifier is left out. Wrapper prefixes (``module.``, ``backbone.``, ...) are removed.

    Examples:
        >>> names = ["conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "fc.weight",
        ...          "layer2.0.downsample.1.bias", "layer4.1.bn2.running_mean"]
        >>> for name in rename_torchvision(dict.fromkeys(names)):
        ...     print(name)
        stem.conv1.weight
        stem.conv1.norm.bias
        res2.0.conv1.weight
        res3.0.shortcut.norm.bias
        res5.1.conv2.norm.running_mean
    """
    plain = strip_wrappers(model)
    if _TORCHVISION_MARK not in plain:
        return None
    renamed = {}
    for name, value in plain.items():
        if name.startswith(("fc.", "head.")):
            continue
        new = re.sub(r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
        new = new.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        new = re.sub(r"(^|\.)bn(\d)\.", r"\1conv\2.norm.", new)
        renamed[new if new.startswith("res") else f"stem.{new}"] = value
    return renamed


def strip_wrappers(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping without the prefixes that all its names share.

    Examples:
        >>> strip_wrappers({"module.backbone.a": 1, "module.backbone.b": 2})
        {'a': 1, 'b': 2}
        >>> strip_wrappers({"module.a": 1, "b": 2})
        {'module.a': 1, 'b': 2}
    """
    plain = dict(model)
    while plain:
        shared = [p for p in _WRAPPERS if all(name.startswith(p) for name in plain)]
        if not shared:
            break
        plain = {name[len(shared[0]) :]: value for name, value in plain.items()}
    return plain


def shape_mismatches(found: Shapes, expected: Shapes) -> list[Mismatch]:
    """Return (name, shape in the file, shape in the model) of those that differ, by name.

    Examples:
        >>> shape_mismatches({"a": (3,), "b": (2,)}, {"a": (4,), "b": (2,), "c": (1,)})
        [('a', (3,), (4,))]
    """
    shared = sorted(found.keys() & expected.keys())
    return [(n, found[n], expected[n]) for n in shared if found[n] != expected[n]]


def missing_names(found: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Return the names a model needs and a file lacks, sorted; optional buffers do not count."""
    return sorted(n for n in set(expected) - set(found) if not _OPTIONAL.search(n))


def explain_mismatches(mismatches: list[Mismatch]) -> str:
    """Return one sentence or two about shapes that differ, with cluster numbers if they tell.

    Examples:
        >>> name = "roi_heads.box_predictor.0.cls_score.bias"
        >>> print(explain_mismatches([(name, (801,), (301,))]))
        roi_heads.box_predictor.0.cls_score.bias is (801,) in the file and (301,) in the model. \
The file has 800 thing clusters, the model 300: set U2SEG.CLUSTERS.NUM_CLUSTERS 800.
    """
    name, found, expected = mismatches[0]
    more = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
    text = f"{name} is {found} in the file and {expected} in the model{more}."
    kinds = (
        (r"cls_score\.(weight|bias)$", "thing", "U2SEG.CLUSTERS.NUM_CLUSTERS"),
        (r"sem_seg_head\.predictor\.(weight|bias)$", "stuff", "U2SEG.SEMANTICS.NUM_CLASSES"),
    )
    for pattern, kind, key in kinds:
        hit = next((m for m in mismatches if re.search(pattern, m[0])), None)
        if hit and hit[1][0] != hit[2][0]:
            # Both heads have one row more than clusters: background, and "any thing".
            text += (
                f" The file has {hit[1][0] - 1} {kind} clusters, the model {hit[2][0] - 1}: set "
                f"{key} {hit[1][0] - 1}."
            )
    return text
