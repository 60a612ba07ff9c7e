"""The host's SGD and gradient clipping with the same numbers in fewer passes over memory.

The host clips parameter after parameter, and 0.5 makes one group per parameter; torch's fused and
foreach kernels work on whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
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


def parameter_names(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of an optimizer's parameters, in the order that its state counts them.

    Args:
        model: Whose they are; before or after wrapping it for several processes.
        optimizer: Of the model.
    """
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    names = {id(p): name for name, p in plain.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def fitting_state(
    state: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    saved_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the state of an optimizer for one of the same parameters, in other groups perhaps.

    What the versions of Detectron2 differ in is how they group and so order the parameters.

    Args:
        state: From ``state_dict``.
        optimizer: That is to load it.
        names: Of its parameters, from ``parameter_names``.
        saved_names: Of the parameters in ``state``, likewise. None = unknown (a checkpoint of
            Detectron2 or of an earlier version): they are matched by their order.

    Returns:
        The saved state of each parameter, with the optimizer's own groups and options.

    Raises:
        UserError: if parameters differ in number, name or shape, or in weight decay where names
            are unknown.

    Examples:
        >>> p, q = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        >>> old = SGD([{"params": [q]}, {"params": [p]}], lr=0.1).state_dict()
        >>> old["state"] = {0: {"momentum_buffer": torch.ones(1)}}  # of q
        >>> fitting_state(old, SGD([p, q], lr=0.1), ["p", "q"], ["q", "p"])["state"]
        {1: {'momentum_buffer': tensor([1.])}}
    """
    own = optimizer.param_groups
    groups = [dict(group) for group in state["param_groups"]]
    if saved_names is None and _sizes(groups) != _sizes(own):
        groups = merged_groups(groups)
    saved = [index for group in groups for index in group["params"]]
    order = names if saved_names is None else saved_names
    if len(saved) != len(order) or sorted(order) != sorted(names):
        odd = sorted(set(order) ^ set(names))
        told = f", e.g. {odd[0]} is of one of the two alone" if odd else ""
        raise UserError(
            f"the optimizer's state is of {len(saved)} parameters, this training has "
            f"{len(names)}{told}: it is of other settings. {_ANEW}"
        )
    numbers = dict(zip(order, saved, strict=True))
    found = [state["state"].get(numbers[name], {}) for name in names]
    parameters = [p for group in own for p in group["params"]]
    wrong = [n for n, p, f in zip(names, parameters, found, strict=True) if not _fits(f, p)]
    if not wrong and saved_names is None and _decays(groups) != _decays(own):
        wrong = list(names)
    if wrong:
        raise UserError(
            f"the optimizer's state does not fit {len(wrong)} of {len(names)} parameters, e.g. "
            f"{wrong[0]}: another Detectron2 or other settings ordered them otherwise. {_ANEW}"
        )
    return {**optimizer.state_dict(), "state": {i: entry for i, entry in enumerate(found) if entry}}


_ANEW = "Start anew in another OUTPUT_DIR, with MODEL.WEIGHTS on this checkpoint"


def _sizes(groups: Iterable[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _decays(groups: Iterable[Mapping[str, Any]]) -> list[float]:
    return [group.get("weight_decay", 0.0) for group in groups for _ in group["params"]]


def _fits(entry: Mapping[str, Any], parameter: Tensor) -> bool:
    """Whether what is kept of a parameter has its shape; counters are single numbers."""
    tensors = [value for value in entry.values() if isinstance(value, Tensor) and value.dim()]
    return all(value.shape == parameter.shape for value in tensors)


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
