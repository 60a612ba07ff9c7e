"""A batch whose loss is not finite: kept with the weights that produced it, and computed again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from u2seg.engine.loop import (
    Batch,
    NonFinite,
    loss_shares,
    precision,
    random_state,
    set_random_state,
    split,
)
from u2seg.errors import StageError, UserError
from u2seg.io.atomic import write_json, write_with
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.jsonfile import read_json_object

FOLDER = "nonfinite"
_TENSORS = ("image", "sem_seg")
_FIELDS = ("gt_classes", "gt_boxes", "gt_masks")


def stop(found: NonFinite, model: nn.Module, output: Path) -> NoReturn:
    """Save what is needed to compute the batch again, then raise.

    Writes ``<output>/nonfinite/iteration_0000123.json`` (ids, files, losses) and the same with
    ``.pth`` (samples, weights, positions of the random generators). In a distributed run each
    process whose own loss is not finite writes its own, ``iteration_0000123.rank_1.json``.
    """
    rank = f".rank_{comm.get_rank()}" if comm.get_world_size() > 1 else ""
    path = output / FOLDER / f"iteration_{found.iteration:07d}{rank}.json"
    bad = {name: value for name, value in found.losses.items() if not math.isfinite(value)}
    own = bool(bad or found.reason)  # else another process has the batch
    if own:
        save(found, model, path)
    shown = ", ".join(f"{name} {value}" for name, value in bad.items()) or found.reason
    raise StageError(
        f"the loss became infinite or NaN at iteration {found.iteration}"
        f"{f' ({shown})' if shown else ''}; batch and weights are in "
        f"{path if own else path.parent}: see its losses image by image with u2seg train "
        "--replay FILE. Then lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or enable "
        "SOLVER.CLIP_GRADIENTS, and start anew in another folder or from the last checkpoint"
    )


def save(found: NonFinite, model: nn.Module, path: Path) -> None:
    """Write the two files of ``stop``; ``path`` is that of the JSON."""
    content = {
        "batch": [_packed(sample) for sample in found.batch],
        "model": model.state_dict(),
        "random": found.random,
    }
    write_with(path.with_suffix(".pth"), lambda file: torch.save(content, file))
    told = {
        "iteration": found.iteration,
        "images": [
            {"image_id": sample.get("image_id"), "file_name": sample.get("file_name")}
            for sample in found.batch
        ],
        "losses": {name: _number(value) for name, value in found.losses.items()},
        "state": path.with_suffix(".pth").name,
    }
    write_json(path, told, indent=1)


def replay(
    model: nn.Module, path: Path, *, parts: int = 1, dtype: torch.dtype | None = None
) -> str:
    """Compute a saved batch again: as it was, then image by image."""
    told = read_json_object(path, "iteration", "images", "state")
    content = load_checkpoint(path.with_name(Path(str(told["state"])).name))
    missing = {"batch", "model", "random"} - content.keys()
    if missing:
        raise UserError(f"{path.with_suffix('.pth')} lacks {', '.join(sorted(missing))}")
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise UserError(f"{path} is of another model than the config: {error}") from error
    batch = [_unpacked(sample) for sample in content["batch"]]
    device = next(model.parameters()).device
    before = random_state(device)
    rows = []
    try:
        for name, part in (("batch", batch), *((_name(s), [s]) for s in batch)):
            set_random_state(content["random"], device)
            rows.append((name, _losses(model.train(), part, parts, dtype)))
    finally:
        set_random_state(before, device)
    lines = [f"iteration {told['iteration']}"]
    lines += [f"{name}: {losses}" for name, losses in rows]
    return "\n".join(lines)


def _losses(model: Any, batch: Batch, parts: int, dtype: torch.dtype | None) -> str:

    losses: dict[str, float] = {}
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), EventStorage():
            pieces = split(batch, parts)
            for part, known in zip(pieces, loss_shares(pieces, device), strict=True):
                with precision(device, dtype):
                    found = model.losses(part)
                for name, value in found.items():
                    share = known.get(name, len(part) / len(batch))
                    losses[name] = losses.get(name, 0.0) + float(value) * share
    except FloatingPointError as error:
        return str(error)
    losses = {"total_loss": sum(losses.values()), **losses}
    return "  ".join(f"{key} {value:.4g}" for key, value in losses.items())


def _packed(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample as plain tensors, numbers and text, which is all a checkpoint may hold."""
    packed: dict[str, Any] = {
        key: value for key, value in sample.items() if isinstance(value, int | float | str)
    }
    packed.update({key: sample[key].cpu() for key in _TENSORS if key in sample})
    if "instances" in sample:
        instances = sample["instances"]
        fields = {key: instances.get(key) for key in _FIELDS}
        packed["instances"] = {
            "size": list(instances.image_size),
            **{key: getattr(value, "tensor", value).cpu() for key, value in fields.items()},
        }
    return packed


def _unpacked(packed: Mapping[str, Any]) -> dict[str, Any]:
    sample = dict(packed)
    if "instances" in packed:
        found = packed["instances"]
        height, width = (int(side) for side in found["size"])
        instances = Instances((height, width))
        instances.gt_classes = found["gt_classes"]
        instances.gt_boxes = Boxes(found["gt_boxes"])
        instances.gt_masks = BitMasks(found["gt_masks"])
        sample["instances"] = instances
    return sample


def _name(sample: Mapping[str, Any]) -> str:
    return f"image {sample.get('image_id')} ({sample.get('file_name')})"


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
