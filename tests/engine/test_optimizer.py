"""Groups, steps, clipping and saved state of the optimizer: by hand and beside the host's."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from torch import nn

from tests.factories import BASE_CONFIG
from u2seg.engine.loop import TrainingLoop
from u2seg.engine.optimizer import (
    build_clip,
    build_optimizer,
    clip_norms,
    load_state,
    parameter_names,
)
from u2seg.errors import UserError
from u2seg.host.setup import build_cfg
from u2seg.modeling.host_student import HostStudent
from u2seg.modeling.student import build_student

pytestmark = pytest.mark.d2
WORDS = ["MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", "0.1", "SOLVER.WEIGHT_DECAY", "0.01"]
DECAYS = ["SOLVER.WEIGHT_DECAY_NORM", "0.0", "SOLVER.WEIGHT_DECAY_BIAS", "0.02"]


class Toy(HostStudent, nn.Module):
    """One parameter for each kind of name."""

    def __init__(self) -> None:
        super().__init__()
        heads, predictor = nn.Module(), nn.Module()
        predictor.cls_score, predictor.bbox_pred = nn.Linear(1, 2), nn.Linear(1, 4, bias=False)
        heads.box_predictor, heads.mask_head = nn.ModuleList([predictor]), nn.Module()
        heads.mask_head.predictor = nn.Conv2d(1, 1, 1)
        heads.mask_head.deconv = nn.Conv2d(1, 1, 1, bias=False)
        heads.norm = nn.BatchNorm2d(1)
        self.roi_heads, self.sem_seg_head = heads, nn.Module()
        self.sem_seg_head.predictor = nn.Conv2d(1, 1, 1, bias=False)


class Plain(HostStudent, nn.Sequential):
    """A few layers and norms."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 5)
        )  # fmt: skip


def config(*words: str) -> Any:
    return build_cfg(BASE_CONFIG, [*WORDS, *words])


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    names = iter(parameter_names(model, optimizer))
    return {
        next(names): (round(group["lr"], 9), group["weight_decay"])
        for group in optimizer.param_groups
        for _ in group["params"]
    }


def test_groups_by_hand() -> None:
    model = Toy()
    optimizer = build_optimizer(config(*DECAYS, "U2SEG.TRAIN.HEAD_LR_FACTOR", "4.0"), model)
    stage = "roi_heads.box_predictor.0."
    assert rates(model, optimizer) == {
        f"{stage}cls_score.weight": (0.4, 0.01),
        f"{stage}cls_score.bias": (0.4, 0.02),
        f"{stage}bbox_pred.weight": (0.4, 0.01),
        "roi_heads.mask_head.predictor.weight": (0.4, 0.01),
        "roi_heads.mask_head.predictor.bias": (0.4, 0.02),
        "roi_heads.mask_head.deconv.weight": (0.1, 0.01),
        "roi_heads.norm.weight": (0.1, 0.0),
        "roi_heads.norm.bias": (0.1, 0.02),
        "sem_seg_head.predictor.weight": (0.1, 0.01),
    }
    # boxes and masks that all classes share do not depend on their number
    assert model.class_layers() == {
        f"{stage}cls_score.weight", f"{stage}cls_score.bias", "sem_seg_head.predictor.weight",
    }  # fmt: skip


def test_biases_follow_their_weights_on_every_host() -> None:
    """Those of norms too, whose decay 0.5's own default of 1e-4 would override."""
    model = Toy()
    found = rates(model, build_optimizer(config("SOLVER.WEIGHT_DECAY_NORM", "0.003"), model))
    assert found["roi_heads.norm.bias"][1] == found["roi_heads.norm.weight"][1] == 0.003
    assert found["roi_heads.mask_head.predictor.bias"][1] == 0.01


def test_the_real_model_has_fourteen_last_layers() -> None:
    """Weight and bias of class scores and boxes in three stages, and of the mask predictor."""
    cfg = config("U2SEG.TRAIN.HEAD_LR_FACTOR", "4")
    model = build_student(cfg)
    found = rates(model, build_optimizer(cfg, model))
    assert sum(lr == 0.4 for lr, _ in found.values()) == 14
    assert len(found) == len(list(model.parameters()))
    assert len(model.class_layers()) == 10  # without boxes, with the semantic predictor


@pytest.mark.parametrize("groups", ["", "0.weight 0.weight 0.bias"])
def test_groups_that_lack_a_parameter_or_have_it_twice_are_refused(groups: str) -> None:
    class Careless(Plain):
        def parameter_groups(self, settings: Any) -> list[dict[str, Any]]:
            named = dict(self.named_parameters())
            return [{"params": [named[name]], "lr": 1.0} for name in groups.split()]

    with pytest.raises(UserError, match=r"Careless has .* in (no group|two groups): each of the 6"):
        build_optimizer(config(), Careless())


def test_adamw_on_request() -> None:
    optimizer = build_optimizer(config("U2SEG.TRAIN.OPTIMIZER", "AdamW"), Plain())
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


@pytest.mark.parametrize(
    "clip",
    [
        ("ENABLED", "False"),
        ("ENABLED", "True", "CLIP_TYPE", "norm", "CLIP_VALUE", "0.5", "NORM_TYPE", "2.0"),
        ("ENABLED", "True", "CLIP_TYPE", "norm", "CLIP_VALUE", "0.5", "NORM_TYPE", "1.0"),
        ("ENABLED", "True", "CLIP_TYPE", "value", "CLIP_VALUE", "0.05"),
    ],
    ids=str,
)
def test_the_same_weights_as_the_host(clip: tuple[str, ...]) -> None:
    from detectron2.solver import build_optimizer as build_host_optimizer

    words = ["SOLVER.WEIGHT_DECAY_NORM", "0.05", "SOLVER.BIAS_LR_FACTOR", "2.0"]
    for key, value in zip(clip[::2], clip[1::2], strict=True):
        words += [f"SOLVER.CLIP_GRADIENTS.{key}", value]
    cfg = config(*words, "SOLVER.BASE_LR", "0.01")
    theirs, ours = Plain(), Plain()
    host, fast = build_host_optimizer(cfg, theirs), build_optimizer(cfg, ours)
    clipping = build_clip(cfg.SOLVER.CLIP_GRADIENTS, fast)
    assert (clipping is None) == (clip[1] == "False")
    for number in range(6):
        x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(number))
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


def stepped(module: nn.Module, *suffixes: str) -> torch.optim.SGD:
    """Return an optimizer with momentum and a group for each end of a name, one step old."""
    named = list(module.named_parameters())
    groups = [{"params": [p for n, p in named if n.endswith(end)]} for end in suffixes]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _, p in named:
        p.grad = torch.full_like(p, p.numel())
    optimizer.step()
    return optimizer


def test_a_state_in_another_order_is_matched_by_name_or_refused() -> None:
    """Fused kernels check no shapes: the momentum of another parameter may end the process."""
    theirs, ours = Plain(), Plain()
    saved, fast = stepped(theirs, "bias", "weight"), stepped(ours, "weight", "bias")
    names, saved_names = parameter_names(ours, fast), parameter_names(theirs, saved)
    load_state(fast, saved.state_dict(), names, saved_names)
    for (name, p), mine in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        one, other = saved.state[p]["momentum_buffer"], fast.state[mine]["momentum_buffer"]
        assert torch.equal(one, other), name
    for wrong in (names, [*saved_names[:-1], "3.tone"]):
        with pytest.raises(UserError, match=r"not of this model: .*MODEL.WEIGHTS"):
            load_state(fast, saved.state_dict(), names, wrong)
    more = torch.optim.SGD([*Plain().parameters(), nn.Parameter(torch.ones(1))], 0.1)
    with pytest.raises(UserError, match="not of this model"):
        load_state(fast, more.state_dict(), names, [*names, "more"])


def test_clipping_by_hand() -> None:
    gradients = [torch.tensor([[0.0, -6.0], [8.0, 0.0]]), torch.tensor([0.3])]
    clip_norms(gradients, 5.0)  # norms 10 and 0.3
    torch.testing.assert_close(gradients[0], torch.tensor([[0.0, -3.0], [4.0, 0.0]]))
    assert gradients[1].tolist() == [pytest.approx(0.3)]
    bad = [torch.tensor([float("nan"), 1.0])]
    clip_norms(bad, 5.0)
    assert bad[0].isnan().all(), "or the loss that is not finite would go unnoticed"


def test_the_scale_of_the_loss_is_taken_out_before_clipping() -> None:
    """Gradient 3, clipped to 2, at a rate of 0.5; the scaled one is 3 * 65536."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0]))

        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"loss": (3 * self.w).sum()}

    line = Line()
    optimizer = torch.optim.SGD(line.parameters(), 0.5)
    clipping = {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 2.0, "NORM_TYPE": 2.0}
    clip = build_clip(clipping, optimizer)
    TrainingLoop(line, [[{}]], optimizer, dtype=torch.float16, clip=clip).run_step()
    assert line.w.detach().tolist() == pytest.approx([0.0], abs=1e-5)
