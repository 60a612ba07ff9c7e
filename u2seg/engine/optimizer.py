"""The optimizer of a student: its own parameter groups, fused kernels, clipping, saved state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from u2seg.config.load import settings_from_cfg
from u2seg.errors import UserError
from u2seg.modeling.student import OptimizerSettings

Clip = Callable[[], None]


def build_optimizer(cfg: Any, student: Any) -> torch.optim.Optimizer:
    """Return the optimizer of ``U2SEG.TRAIN.OPTIMIZER`` on the groups that a student gives."""
    solver, train = cfg.SOLVER, settings_from_cfg(cfg).train
    settings = OptimizerSettings(
        rate=float(solver.BASE_LR),
        weight_decay=float(solver.WEIGHT_DECAY),
        norm_decay=solver.WEIGHT_DECAY_NORM,
        bias_decay=solver.WEIGHT_DECAY_BIAS,
        bias_factor=float(solver.BIAS_LR_FACTOR),
        head_factor=train.head_lr_factor,
    )
    groups = student.parameter_groups(settings)
    _check_complete(groups, student)
    rate, decay = settings.rate, settings.weight_decay
    fused = _can_fuse([p for group in groups for p in group["params"]])
    if train.optimizer == "AdamW":
        return torch.optim.AdamW(groups, rate, weight_decay=decay, fused=fused)
    momentum, nesterov = float(solver.MOMENTUM), bool(solver.NESTEROV)
    return torch.optim.SGD(groups, rate, momentum, 0.0, decay, nesterov, fused=fused)


def _check_complete(groups: Sequence[Mapping[str, Any]], student: nn.Module) -> None:
    given = [id(p) for group in groups for p in group["params"]]
    wanted = {name: id(p) for name, p in student.named_parameters() if p.requires_grad}
    missing = [name for name, number in wanted.items() if number not in given]
    twice = [name for name, number in wanted.items() if given.count(number) > 1]
    if missing or twice:
        told = f"{missing[0]} in no group" if missing else f"{twice[0]} in two groups"
        raise UserError(
            f"parameter_groups of {type(student).__name__} has {told}: each of the "
            f"{len(wanted)} trained parameters belongs in exactly one"
        )


def _can_fuse(parameters: Sequence[Tensor]) -> bool:
    """Return whether this torch has fused optimizers for the parameters."""
    try:
        torch.optim.SGD([torch.zeros(1, device=parameters[0].device)], lr=0.1, fused=True)
    except (RuntimeError, ValueError, TypeError):
        return False
    return all(p.is_floating_point() for p in parameters)


def build_clip(clipping: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Clip | None:
    """Return what clips the gradients before a step; None if that is not configured."""
    if not clipping["ENABLED"]:
        return None
    limit, norm = float(clipping["CLIP_VALUE"]), float(clipping["NORM_TYPE"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip() -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        if clipping["CLIP_TYPE"] == "norm":
            clip_norms(gradients, limit, norm)
        elif gradients:
            torch._foreach_clamp_min_(gradients, -limit)
            torch._foreach_clamp_max_(gradients, limit)

    return clip


def clip_norms(gradients: list[Tensor], limit: float, norm: float = 2.0) -> None:
    """Scale each gradient whose norm is above ``limit`` down to it, in place.

    As ``torch.nn.utils.clip_grad_norm_`` of each parameter by itself.

    Examples:
        >>> gradients = [torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])]
        >>> clip_norms(gradients, 2.5)  # norms 5 and 1
        >>> [[round(value, 4) for value in g.tolist()] for g in gradients]
        [[1.5, 2.0], [0.6, 0.8]]
    """
    if not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients, norm))
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)
    if norms.device.type == "cpu":  # reading costs nothing here, passes over memory do
        for gradient, factor in zip(gradients, factors.tolist(), strict=True):
            if not factor >= 1:  # also if it is NaN
                gradient.mul_(factor)
    else:
        torch._foreach_mul_(gradients, list(factors))


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of an optimizer's parameters, in the order that its state counts them."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def load_state(
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    names: Sequence[str],
    saved_names: Sequence[str],
) -> None:
    """Load the saved state of parameters by their names; the groups stay the optimizer's own.

    Examples:
        >>> p, q = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        >>> old = torch.optim.SGD([{"params": [q]}, {"params": [p]}], lr=0.1).state_dict()
        >>> old["state"] = {0: {"momentum_buffer": torch.ones(1)}}  # of q
        >>> new = torch.optim.SGD([p, q], lr=0.1)
        >>> load_state(new, old, ["p", "q"], ["q", "p"])
        >>> new.state_dict()["state"]
        {1: {'momentum_buffer': tensor([1.])}}
    """
    saved = [index for group in state["param_groups"] for index in group["params"]]
    place = dict(zip(saved_names, saved, strict=True))
    entries = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        entry = state["state"].get(place.get(name), {})
        shapes = {tuple(v.shape) for v in entry.values() if isinstance(v, Tensor) and v.dim()}
        if len(place) != len(names) or name not in place or shapes - {tuple(parameter.shape)}:
            raise UserError(
                f"cannot resume: the optimizer's state in the checkpoint is not of this model: "
                f"{name} {tuple(parameter.shape)} is "
                f"{min(shapes) if shapes else 'missing, or there are others'} there. Start anew in "
                "another OUTPUT_DIR, with MODEL.WEIGHTS on this checkpoint"
            )
        if entry:
            entries[number] = entry
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
