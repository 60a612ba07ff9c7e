"""A fitted segmenter in one safetensors file: tensors, and who wrote them with which settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from u2seg.config.load import section_from_tree, section_tree
from u2seg.config.schema import SemanticSettings
from u2seg.errors import UserError
from u2seg.io.atomic import write_bytes

PREDICTION = ("max_pixels", "crf", "flip", "dense_crf")
"""Settings that a fitted model takes from the run that uses it, not from the one that made it."""

SECTION = "U2SEG.SEMANTICS"
Model = TypeVar("Model")


def save_model(
    path: Path | str,
    method: str,
    settings: SemanticSettings,
    in_dim: int,
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a fitted segmenter, atomically.

    Args:
        path: The file.
        method: Its registered name.
        settings: It was made with.
        in_dim: Feature channels, D.
        tensors: What it learnt.
    """
    from safetensors.torch import save

    note = {"in_dim": in_dim, "settings": section_tree(settings, SECTION)}
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, {method: json.dumps(note, sort_keys=True)}))


def load_model(
    path: Path | str,
    method: str,
    build: Callable[[SemanticSettings, int, dict[str, Tensor]], Model],
    current: SemanticSettings | None,
) -> Model:
    """Return what ``build`` makes of a file that ``save_model`` wrote.

    Args:
        path: The file.
        method: Registered name of the segmenter that should have written it.
        build: (settings, D, tensors) -> segmenter; may raise anything if they do not fit.
        current: Settings of this run, whose ``PREDICTION`` fields count; None = the saved ones.

    Raises:
        UserError: if the file is missing, damaged, was written by another method, or has another
            number of clusters than ``current`` asks for.
    """
    from safetensors import safe_open

    if not Path(path).is_file():
        raise UserError(
            f"model {path} does not exist: run the semantics stage first, or correct "
            "U2SEG.SEMANTICS.MODEL"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            note: dict[str, Any] = json.loads(file.metadata()[method])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        saved = section_from_tree(SemanticSettings(), note["settings"], SECTION)
        settings = saved
        if current is not None:
            kept = {name: getattr(current, name) for name in PREDICTION}
            settings = dataclasses.replace(saved, **kept)
        model = build(settings, int(note["in_dim"]), tensors)
    except Exception as error:
        raise UserError(
            f"{path} is not a saved {method} model ({error}): run the semantics stage again, or "
            "name another U2SEG.SEMANTICS.SEGMENTER or MODEL"
        ) from error
    if current is not None and saved.num_classes != current.num_classes:
        raise UserError(
            f"{path} has {saved.num_classes} stuff clusters, U2SEG.SEMANTICS.NUM_CLASSES asks for "
            f"{current.num_classes}: make them equal"
        )
    return model
