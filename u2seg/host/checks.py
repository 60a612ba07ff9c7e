"""Refuse settings of Detectron2's nodes that it would only stumble over after the start.

``U2SEG`` settings are validated by their own classes; the host validates little, and late.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from typing import Any

from u2seg.errors import UserError

logger = logging.getLogger(__name__)
_REGISTRIES = {
    "META_ARCH_REGISTRY": "MODEL.META_ARCHITECTURE",
    "BACKBONE_REGISTRY": "MODEL.BACKBONE.NAME",
    "ANCHOR_GENERATOR_REGISTRY": "MODEL.ANCHOR_GENERATOR.NAME",
    "PROPOSAL_GENERATOR_REGISTRY": "MODEL.PROPOSAL_GENERATOR.NAME",
    "RPN_HEAD_REGISTRY": "MODEL.RPN.HEAD_NAME",
    "ROI_HEADS_REGISTRY": "MODEL.ROI_HEADS.NAME",
    "ROI_BOX_HEAD_REGISTRY": "MODEL.ROI_BOX_HEAD.NAME",
    "ROI_MASK_HEAD_REGISTRY": "MODEL.ROI_MASK_HEAD.NAME",
    "SEM_SEG_HEADS_REGISTRY": "MODEL.SEM_SEG_HEAD.NAME",
}
"""Registry of ``detectron2.modeling`` -> key that names one of its members."""
_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN")
_CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("INPUT.FORMAT", ("RGB", "BGR")),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", ("choice", "range")),
    ("INPUT.RANDOM_FLIP", ("horizontal", "vertical", "none")),
    ("MODEL.RESNETS.NORM", _NORMS),
    ("MODEL.FPN.NORM", _NORMS),
    ("MODEL.SEM_SEG_HEAD.NORM", _NORMS),
    ("SOLVER.LR_SCHEDULER_NAME", ("WarmupMultiStepLR", "WarmupCosineLR")),
    ("SOLVER.WARMUP_METHOD", ("linear", "constant")),
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", ("value", "norm")),
    ("INPUT.CROP.TYPE", ("relative_range", "relative", "absolute", "absolute_range")),
)
_AT_LEAST = {
    1: ("SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.CHECKPOINT_PERIOD",
        "TEST.DETECTIONS_PER_IMAGE", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST",
        "INPUT.MAX_SIZE_TEST"),
    0: ("SOLVER.WARMUP_ITERS", "SOLVER.BASE_LR", "SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY",
        "SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.REFERENCE_WORLD_SIZE",
        "DATALOADER.NUM_WORKERS", "TEST.EVAL_PERIOD"),
}  # fmt: skip
_GROUPS = 32
"""Groups of the host's group normalization."""
_NORMALIZED = (
    ("MODEL.RESNETS.NORM", "MODEL.RESNETS.STEM_OUT_CHANNELS"),
    ("MODEL.RESNETS.NORM", "MODEL.RESNETS.RES2_OUT_CHANNELS"),
    ("MODEL.FPN.NORM", "MODEL.FPN.OUT_CHANNELS"),
    ("MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_BOX_HEAD.CONV_DIM"),
    ("MODEL.ROI_MASK_HEAD.NORM", "MODEL.ROI_MASK_HEAD.CONV_DIM"),
)
"""Which norm is applied to how many channels; the panoptic model checks its semantic head."""


def check_host_settings(cfg: Any) -> None:
    """Refuse what cannot work, before anything is built."""
    _check_registries(cfg)
    for key, common in _CHOICES:
        value, allowed = _get(cfg, key), (*common, *_newer_choices(cfg, key))
        if value not in allowed:
            shown = ", ".join(repr(choice) for choice in allowed)
            raise UserError(f"{key} is {value!r}, expected one of {shown}")
    depths = (18, 34, 50, 101, 152)
    if "resnet" in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.RESNETS.DEPTH not in depths:
        raise UserError(
            f"MODEL.RESNETS.DEPTH is {cfg.MODEL.RESNETS.DEPTH}, expected one of {depths}"
        )
    for least, key in ((least, key) for least, keys in _AT_LEAST.items() for key in keys):
        if _get(cfg, key) is not None and not _get(cfg, key) >= least:
            raise UserError(f"{key} is {_get(cfg, key)}, expected >= {least}")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not sizes or min(sizes) < 1:
        raise UserError(f"INPUT.MIN_SIZE_TRAIN is {sizes}, expected at least one side >= 1 pixel")
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        if len(_get(cfg, key)) != 3:
            raise UserError(f"{key} is {_get(cfg, key)}, expected 3 numbers, one per channel")
    if not all(value > 0 for value in cfg.MODEL.PIXEL_STD):
        raise UserError(
            f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}, expected numbers > 0: images are divided "
            "by them"
        )
    _check_heads(cfg)
    _check_device(str(cfg.MODEL.DEVICE))


def check_training_settings(cfg: Any) -> None:
    """Refuse what only a training stumbles over, some of it after the last iteration."""
    solver = cfg.SOLVER
    if solver.NESTEROV and not solver.MOMENTUM:
        raise UserError("SOLVER.NESTEROV is True, it needs SOLVER.MOMENTUM > 0")
    if cfg.TEST.EXPECTED_RESULTS:
        raise UserError(
            f"TEST.EXPECTED_RESULTS is {cfg.TEST.EXPECTED_RESULTS}, expected []: results are not "
            "compared here, see metrics.json"
        )
    reference = solver.REFERENCE_WORLD_SIZE
    if reference and solver.IMS_PER_BATCH % reference:
        raise UserError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, but SOLVER.IMS_PER_BATCH "
            f"{solver.IMS_PER_BATCH} is no multiple of it; 0 leaves batch and rate as they are"
        )
    _check_steps(solver)


def _check_steps(solver: Any) -> None:
    from detectron2.utils import comm

    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return
    reference = solver.REFERENCE_WORLD_SIZE
    # With a reference the host shortens the schedule, and rounds it.
    scale = comm.get_world_size() / reference if reference else 1.0
    end, *steps = (round(value / scale) for value in (solver.MAX_ITER, *solver.STEPS))
    told = f"SOLVER.STEPS is {tuple(solver.STEPS)} and SOLVER.MAX_ITER {solver.MAX_ITER}"
    if scale != 1:
        told += f", scaled by SOLVER.REFERENCE_WORLD_SIZE {tuple(steps)} and {end}"
    if any(late <= early for early, late in zip([0, *steps], steps, strict=False)):
        raise UserError(f"{told}: expected steps >= 1 in rising order")
    if end < 1 or end in steps:
        raise UserError(
            f"{told}: expected MAX_ITER >= 1, and no step at MAX_ITER (later ones are ignored): "
            "leave the step out, or train longer"
        )


def _check_heads(cfg: Any) -> None:
    if cfg.U2SEG.TRAIN.DROPLOSS:
        _check_drop_loss(str(cfg.MODEL.ROI_HEADS.NAME))
    for norm, channels in _NORMALIZED:
        if _get(cfg, norm) == "GN" and _get(cfg, channels) % _GROUPS:
            raise UserError(
                f"{channels} is {_get(cfg, channels)}, expected a multiple of {_GROUPS}, as "
                f"{norm} is GN with {_GROUPS} groups"
            )
    if cfg.MODEL.ROI_BOX_HEAD.get("USE_FED_LOSS"):
        raise UserError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS is True, expected False: that loss weights classes by "
            "how often a data set of Detectron2 has them, and clusters are of none. Predictions do "
            "not depend on it"
        )
    cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    if "Cascade" in cfg.MODEL.ROI_HEADS.NAME and len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
        raise UserError(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS is {tuple(cascade.IOUS)}, one per stage, but "
            f"BBOX_REG_WEIGHTS has {len(cascade.BBOX_REG_WEIGHTS)}: expected as many"
        )


def _newer_choices(cfg: Any, key: str) -> tuple[str, ...]:
    """Return what newer hosts than 0.6 alone can do."""
    from detectron2.layers import get_norm

    if key == "SOLVER.LR_SCHEDULER_NAME" and "NUM_DECAYS" in cfg.SOLVER:
        return ("WarmupStepWithFixedGammaLR",)
    if key.endswith(".NORM"):
        with contextlib.suppress(KeyError):
            get_norm("LN", _GROUPS)
            return ("LN",)
    return ()


def _check_drop_loss(name: str) -> None:
    """Refuse heads of the host; those of others may have a drop-loss, or have none."""
    from detectron2.modeling import ROI_HEADS_REGISTRY

    from u2seg.modeling.heads import PseudoCascadeROIHeads

    heads = ROI_HEADS_REGISTRY.get(name)
    if issubclass(heads, PseudoCascadeROIHeads):
        return
    told = f"U2SEG.TRAIN.DROPLOSS is True, but MODEL.ROI_HEADS.NAME is {name}, which"
    if not heads.__module__.startswith("detectron2."):
        logger.warning("%s has a drop-loss only if its own code reads that key", told)
        return
    raise UserError(
        f"{told} has no drop-loss: set MODEL.ROI_HEADS.NAME PseudoCascadeROIHeads, or "
        "U2SEG.TRAIN.DROPLOSS False"
    )


def _check_registries(cfg: Any) -> None:
    from u2seg.modeling.student import STUDENTS

    for attribute, key in _REGISTRIES.items():
        registry = getattr(importlib.import_module("detectron2.modeling"), attribute)
        name = _get(cfg, key)
        if key == "MODEL.META_ARCHITECTURE" and name in STUDENTS.names():
            continue
        if not name and key == "MODEL.ROI_BOX_HEAD.NAME" and "Res5" in cfg.MODEL.ROI_HEADS.NAME:
            continue  # the host's C4 heads have no box head
        if name not in registry:
            own = STUDENTS.names() if key == "MODEL.META_ARCHITECTURE" else []
            known = ", ".join(sorted({*own, *(entry for entry, _ in registry)}))
            raise UserError(f"{key} is {name!r}, which is not registered; known are {known}")


def _check_device(name: str) -> None:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"MODEL.DEVICE is {name!r}, this machine has {torch.cuda.device_count()} GPU(s)"
        )


def _get(cfg: Any, key: str) -> Any:
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node
