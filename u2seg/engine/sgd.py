"""The host's SGD and gradient clipping with the same numbers in fewer passes over memory.

The host makes one parameter group per parameter and clips parameter after parameter; torch's
fused and foreach kernels work on whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from u2seg.errors import UserError

Clip = Callable[[], None]


def fused_sgd(
    optimizer: torch.optim.Optimizer, clipping: Mapping[str, Any]
) -> tuple[torch.optim.Optimizer, Clip | None]:
    """Return the same optimizer on merged groups, and what clips the gradients before a step.

    Args:
        optimizer: Of the host, new, with its clipping.
        clipping: ``cfg.SOLVER.CLIP_GRADIENTS``.

    Returns:
        An ``SGD`` without clipping and the clipping (None = not configured); the optimizer as it
        was and None, if it is of another kind.
    """
    kinds = {"norm": clip_norms, "value": clip_values}
    enabled = bool(clipping["ENABLED"])
    name = type(optimizer).__name__
    if not isinstance(optimizer, SGD) or name not in ("SGD", "SGDWithGradientClip"):
        return optimizer, None
    if enabled and (
        clipping["CLIP_TYPE"] not in kinds or float(clipping.get("NORM_TYPE", 2.0)) != 2.0
    ):
        return optimizer, None
    groups = merged_groups(optimizer.param_groups)
    fast = SGD(groups, lr=groups[0]["lr"], fused=_can_fuse(groups))
    if not enabled:
        return fast, None
    clip, limit = kinds[clipping["CLIP_TYPE"]], float(clipping["CLIP_VALUE"])
    parameters = [p for group in groups for p in group["params"]]
    return fast, lambda: clip([p.grad for p in parameters if p.grad is not None], limit)


def merged_groups(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups of which no two have the same options, in the order they came.

    Examples:
        >>> p, q, r = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
        >>> found = merged_groups([
        ...     {"params": [p], "lr": 1}, {"params": [q], "lr": 2}, {"params": [r], "lr": 1}])
        >>> [(group["lr"], len(group["params"])) for group in found]
        [(1, 2), (2, 1)]
    """
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in groups:
        # How to compute is decided anew.
        options = {k: v for k, v in group.items() if k not in ("params", "foreach", "fused")}
        found = merged.setdefault(tuple(sorted(options.items())), {**options, "params": []})
        found["params"] += group["params"]
    return list(merged.values())


def fitting_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer for one of the same parameters, whose groups are merged.

    Checkpoints of Detectron2 have a group per parameter.

    Args:
        state: From ``state_dict``.
        optimizer: That is to load it.

    Returns:
        It as it is, if the groups are of the same sizes; else with its groups merged likewise.

    Raises:
        UserError: if the groups then differ too.

    Examples:
        >>> p, q = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        >>> old = SGD([{"params": [p]}, {"params": [q]}], lr=0.1).state_dict()
        >>> new = fitting_state(old, SGD([p, q], lr=0.1))
        >>> [group["params"] for group in new["param_groups"]]
        [[0, 1]]
    """
    own, saved = optimizer.param_groups, state["param_groups"]
    if _sizes(saved) == _sizes(own):
        return dict(state)
    merged = merged_groups(saved)
    if _sizes(merged) != _sizes(own):
        raise UserError(
            f"the optimizer's state is of {len(saved)} groups of {sum(_sizes(saved))} parameters, "
            f"this training's has {len(own)} of {sum(_sizes(own))}: it is of other settings. Start "
            "anew in another OUTPUT_DIR, with MODEL.WEIGHTS on this checkpoint"
        )
    for group, mine in zip(merged, own, strict=True):
        group.update({key: mine[key] for key in ("foreach", "fused") if key in mine})
    return {**state, "param_groups": merged}


def _sizes(groups: Iterable[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def clip_norms(gradients: list[Tensor], limit: float) -> None:
    """Scale each gradient whose 2-norm is above ``limit`` down to it, in place.

    As ``torch.nn.utils.clip_grad_norm_`` of each parameter by itself.

    Examples:
        >>> gradients = [torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])]
        >>> clip_norms(gradients, 2.5)  # norms 5 and 1
        >>> [[round(value, 4) for value in g.tolist()] for g in gradients]
        [[1.5, 2.0], [0.6, 0.8]]
    """
    if not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients, 2.0))
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)
    if norms.device.type == "cpu":  # reading costs nothing here, passes over memory do
        for gradient, factor in zip(gradients, factors.tolist(), strict=True):
            if not factor >= 1:  # also if it is NaN
                gradient.mul_(factor)
    else:
        torch._foreach_mul_(gradients, list(factors))


def clip_values(gradients: list[Tensor], limit: float) -> None:
    """Limit each value of each gradient to -limit..limit, in place."""
    if gradients:
        torch._foreach_clamp_min_(gradients, -limit)
        torch._foreach_clamp_max_(gradients, limit)


def _can_fuse(groups: Iterable[dict[str, Any]]) -> bool:
    """Return whether this torch has a fused SGD for the parameters."""
    probe = [p for group in groups for p in group["params"]]
    try:
        SGD([torch.zeros(1, device=probe[0].device)], lr=0.1, fused=True)
    except (RuntimeError, ValueError, TypeError):
        return False
    return all(p.is_floating_point() for p in probe)
