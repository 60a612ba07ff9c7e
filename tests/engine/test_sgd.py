"""The host's SGD and clipping in fewer passes: the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from u2seg.compat import prepare_host
from u2seg.engine.loop import TrainingLoop
from u2seg.engine.sgd import (
    clip_norms,
    clip_values,
    fitting_state,
    fused_sgd,
    merged_groups,
    parameter_names,
)
from u2seg.errors import UserError


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 5))


def config(**clip: Any) -> Any:
    prepare_host()
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.01, 0.01
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.BIAS_LR_FACTOR = 0.05, 2.0
    for key, value in clip.items():
        cfg.SOLVER.CLIP_GRADIENTS[key] = value
    return cfg


@pytest.mark.d2
@pytest.mark.parametrize(
    "clip",
    [
        {"ENABLED": False},
        {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 0.5, "NORM_TYPE": 2.0},
        {"ENABLED": True, "CLIP_TYPE": "value", "CLIP_VALUE": 0.05},
    ],
    ids=lambda clip: str(clip.get("CLIP_TYPE", "none")),
)
def test_the_same_weights_as_the_host(clip: dict[str, Any]) -> None:
    from detectron2.solver import build_optimizer

    cfg = config(**clip)
    theirs, ours = model(), model()
    host = build_optimizer(cfg, theirs)
    fast, clipping = fused_sgd(build_optimizer(cfg, ours), cfg.SOLVER.CLIP_GRADIENTS)
    assert fast is not host
    assert len(fast.param_groups) <= len(host.param_groups)  # from 0.6 on the host merges too
    for number in range(6):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(4, 3, 4, 4, generator=generator)
        for module, optimizer in ((theirs, host), (ours, fast)):
            optimizer.zero_grad()
            module(x).square().mean().mul(20).backward()
            for group in optimizer.param_groups:
                group["lr"] *= 0.9  # as a schedule does
            if optimizer is fast and clipping is not None:
                clipping()
            optimizer.step()
        for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.d2
def test_the_hosts_state_is_gone_on_with() -> None:
    """Three steps of the host, which may have a group per parameter, then three of both."""
    from detectron2.solver import build_optimizer

    cfg = config()
    theirs, ours = model(), model()
    host = build_optimizer(cfg, theirs)
    fast, _ = fused_sgd(build_optimizer(cfg, ours), cfg.SOLVER.CLIP_GRADIENTS)
    fused = [group["fused"] for group in fast.param_groups]
    for number in range(6):
        x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(number))
        if number == 3:
            ours.load_state_dict(theirs.state_dict())
            saved = copy.deepcopy(host.state_dict())  # or both would have the same momentum
            fast.load_state_dict(fitting_state(saved, fast, parameter_names(ours, fast)))
            for mine, group in zip(fast.param_groups, merged_groups(host.param_groups)):
                mine["lr"] = group["lr"]
        for module, optimizer in ((theirs, host), (ours, fast)):
            optimizer.zero_grad()
            module(x).square().mean().mul(20).backward()
            optimizer.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-7)
    assert [group["fused"] for group in fast.param_groups] == fused
    again = fast.state_dict()
    assert fitting_state(again, fast, parameter_names(ours, fast)) == again


@pytest.mark.d2
def test_the_state_of_other_parameters_is_refused() -> None:
    more = torch.optim.SGD([*model().parameters(), nn.Parameter(torch.ones(1))], 0.1)
    ours = model()
    fast = torch.optim.SGD(ours.parameters(), 0.1)
    names = parameter_names(ours, fast)
    with pytest.raises(UserError, match=r"of 7 parameters, this training has 6: .*MODEL.WEIGHTS"):
        fitting_state(more.state_dict(), fast, names)
    other = [*names[:-1], "3.tone"]
    with pytest.raises(UserError, match=r"e.g. 3.bias is of one of the two alone"):
        fitting_state(fast.state_dict(), fast, names, other)


def grouped(module: nn.Module, *ways: Any) -> torch.optim.SGD:
    """Return an optimizer with momentum and a group for each test of a name, three steps old."""
    named = list(module.named_parameters())
    groups = [
        {"params": [p for n, p in named if way(n)], "weight_decay": 0.1 * i}
        for i, way in enumerate(ways)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _, p in named:
        p.grad = torch.full_like(p, p.numel())
    optimizer.step()
    return optimizer


def test_a_state_in_another_order_is_matched_by_name_or_refused() -> None:
    """Fused SGD checks no shapes: the momentum of another parameter may end the process."""

    def is_bias(name: str) -> bool:
        return name.endswith("bias")

    def is_weight(name: str) -> bool:
        return not is_bias(name)

    theirs, ours = model(), model()
    saved, fast = grouped(theirs, is_bias, is_weight), grouped(ours, is_weight, is_bias)
    names = parameter_names(ours, fast)
    found = fitting_state(saved.state_dict(), fast, names, parameter_names(theirs, saved))
    fast.load_state_dict(found)
    for (name, p), mine in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        one, other = saved.state[p]["momentum_buffer"], fast.state[mine]["momentum_buffer"]
        assert torch.equal(one, other), name
    assert [group["weight_decay"] for group in fast.param_groups] == [0.0, 0.1]
    with pytest.raises(UserError, match=r"does not fit 4 of 6 parameters, e.g. 0.weight: another"):
        fitting_state(saved.state_dict(), fast, names)
    same_shapes = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    one = grouped(same_shapes, lambda n: n == "0.weight", lambda n: n == "1.weight")
    two = torch.optim.SGD(same_shapes.parameters(), 0.1)
    with pytest.raises(UserError, match=r"does not fit 2 of 2"):
        fitting_state(one.state_dict(), two, parameter_names(same_shapes, two))


def test_clipping_of_another_kind_is_left_to_the_host() -> None:
    from detectron2.solver import build_optimizer

    cfg = config(ENABLED=True, CLIP_TYPE="norm", NORM_TYPE=1.0)
    host = build_optimizer(cfg, model())
    assert fused_sgd(host, cfg.SOLVER.CLIP_GRADIENTS) == (host, None)
    adam = torch.optim.AdamW(model().parameters())
    assert fused_sgd(adam, {"ENABLED": False}) == (adam, None)


def test_clipping_by_hand() -> None:
    gradients = [torch.tensor([[0.0, -6.0], [8.0, 0.0]]), torch.tensor([0.3])]
    clip_norms(gradients, 5.0)  # norms 10 and 0.3
    torch.testing.assert_close(gradients[0], torch.tensor([[0.0, -3.0], [4.0, 0.0]]))
    assert gradients[1].tolist() == [pytest.approx(0.3)]
    clip_values(gradients, 3.5)
    torch.testing.assert_close(gradients[0], torch.tensor([[0.0, -3.0], [3.5, 0.0]]))
    clip_norms([], 1.0)
    clip_values([], 1.0)


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    gradients = [torch.tensor([float("nan"), 1.0])]
    clip_norms(gradients, 5.0)
    assert gradients[0].isnan().all()


def test_the_scale_of_the_loss_is_taken_out_before_clipping() -> None:
    """Gradient 3, clipped to 2, at a rate of 0.5; the scaled one is 3 * 65536."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0]))

        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"loss": (3 * self.w).sum()}

    line = Line()
    optimizer, clip = fused_sgd(
        torch.optim.SGD(line.parameters(), 0.5),
        {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 2.0},
    )
    loop = TrainingLoop(line, [[{}]], optimizer, dtype=torch.float16, clip=clip)
    loop.run_step()
    assert line.w.detach().tolist() == pytest.approx([0.0], abs=1e-5)
