"""The host's optimizer with a learning rate of its own for the last layers of the heads.

Source: U2Seg's low-shot recipe (Dantong88/U2Seg_eff, commit d68ed46): four times the rate on the
mask predictor and on class scores and boxes of the three cascade stages, which start anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from u2seg.config.yacs_bridge import settings_from_cfg

if TYPE_CHECKING:
    import torch

LAST_LAYERS = re.compile(
    r"(^|\.)roi_heads\.(box_predictor\.(\d+\.)?(cls_score|bbox_pred)|mask_head\.predictor)\."
)
"""Names of the parameters that ``U2SEG.TRAIN.HEAD_LR_FACTOR`` is about."""


def build_optimizer(cfg: Any, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the host's optimizer of ``cfg.SOLVER``, gradient clipping included.

    Args:
        cfg: With a ``U2SEG`` node.
        model: Before or after wrapping it for several processes.

    Returns:
        With ``U2SEG.TRAIN.HEAD_LR_FACTOR`` 1 exactly the host's; else its groups hold either
        last layers, at ``factor`` times the rate, or others. All else of a group is kept, and
        schedules multiply both rates alike.
    """
    from detectron2.solver import build_optimizer as build_host_optimizer

    optimizer: torch.optim.Optimizer = build_host_optimizer(cfg, model)
    factor = settings_from_cfg(cfg).train.head_lr_factor
    if factor != 1:
        last = {id(p) for name, p in model.named_parameters() if LAST_LAYERS.search(name)}
        optimizer.param_groups[:] = [
            part for group in optimizer.param_groups for part in _split(group, last, factor)
        ]
    return optimizer


def _split(group: dict[str, Any], last: set[int], factor: float) -> list[dict[str, Any]]:
    """Return the group of the other parameters and that of the last layers, if not empty."""
    others = [p for p in group["params"] if id(p) not in last]
    heads = [p for p in group["params"] if id(p) in last]
    parts = [
        {**group, "params": others},
        {**group, "params": heads, "lr": group["lr"] * factor},
    ]
    return [part for part in parts if part["params"]]
