"""Learning rates of the parameters, by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from torch import nn

from tests.label_folder import BASE_CONFIG
from u2seg.engine.optimizer import build_optimizer
from u2seg.host.setup import build_cfg

pytestmark = pytest.mark.d2
WORDS = ["MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", "0.1", "SOLVER.WEIGHT_DECAY", "0.01"]

DECAYS = ["SOLVER.WEIGHT_DECAY_NORM", "0.0", "SOLVER.WEIGHT_DECAY_BIAS", "0.02"]


def toy() -> nn.Module:
    """Return a model with one parameter for each kind of name."""
    model, heads, predictor = nn.Module(), nn.Module(), nn.Module()
    predictor.cls_score, predictor.bbox_pred = nn.Linear(1, 2), nn.Linear(1, 4, bias=False)
    heads.box_predictor, heads.mask_head = nn.ModuleList([predictor]), nn.Module()
    heads.mask_head.predictor = nn.Conv2d(1, 1, 1)
    heads.mask_head.deconv = nn.Conv2d(1, 1, 1, bias=False)
    heads.norm = nn.BatchNorm2d(1)
    model.roi_heads, model.sem_seg_head = heads, nn.Module()
    model.sem_seg_head.predictor = nn.Conv2d(1, 1, 1, bias=False)
    return model


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    found = [
        (names[id(p)], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert len({name for name, *_ in found}) == len(found), "a parameter in two groups"
    return {name: (round(lr, 9), decay) for name, lr, decay in found}


def test_groups_by_hand() -> None:
    model = toy()
    words = [*WORDS, *DECAYS, "U2SEG.TRAIN.HEAD_LR_FACTOR", "4.0"]
    optimizer = build_optimizer(build_cfg(BASE_CONFIG, words), model)
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


def test_biases_follow_their_weights_on_every_host() -> None:
    """Those of norms too, whose decay 0.5's own default of 1e-4 would override."""
    cfg = build_cfg(BASE_CONFIG, [*WORDS, "SOLVER.WEIGHT_DECAY_NORM", "0.003"])
    model = toy()
    decays = {name: decay for name, (_, decay) in rates(model, build_optimizer(cfg, model)).items()}
    assert decays["roi_heads.norm.bias"] == decays["roi_heads.norm.weight"] == 0.003
    assert decays["roi_heads.mask_head.predictor.bias"] == 0.01


def test_one_step_moves_a_last_layer_four_times_as_far() -> None:
    """Gradient 1 everywhere, no decay, no clipping: 0.1 and 0.4."""
    model = toy()
    words = [*WORDS[:4], "SOLVER.WEIGHT_DECAY", "0.0", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    cfg = build_cfg(BASE_CONFIG, [*words, "U2SEG.TRAIN.HEAD_LR_FACTOR", "4"])
    optimizer = build_optimizer(cfg, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {
        name: float((before[name] - p).detach().mean()) for name, p in model.named_parameters()
    }
    assert moved["roi_heads.mask_head.predictor.weight"] == pytest.approx(0.4, rel=1e-5)
    assert moved["roi_heads.mask_head.deconv.weight"] == pytest.approx(0.1, rel=1e-5)


def test_factor_one_is_the_host() -> None:
    from detectron2.solver import build_optimizer as build_host_optimizer

    model, cfg = toy(), build_cfg(BASE_CONFIG, WORDS)
    ours, theirs = build_optimizer(cfg, model), build_host_optimizer(cfg, model)
    assert type(ours).__mro__[1:] == type(theirs).__mro__[1:]
    assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]
    assert rates(model, ours) == rates(model, theirs)


def test_the_real_model_has_fourteen_such_parameters() -> None:
    """Weight and bias of class scores and boxes in three stages, and of the mask predictor."""
    from detectron2.modeling import build_model

    words = [*WORDS, "U2SEG.TRAIN.HEAD_LR_FACTOR", "4"]
    model = build_model(build_cfg(BASE_CONFIG, words))
    for wrapped in (model, nn.Sequential(model)):
        found = rates(wrapped, build_optimizer(build_cfg(BASE_CONFIG, words), wrapped))
        assert sum(lr == 0.4 for lr, _ in found.values()) == 14
        assert len(found) == len(list(model.parameters()))


def test_groups_of_many_parameters_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer hosts merge parameters with equal settings into one group."""
    import detectron2.solver

    def merged(_cfg: object, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)

    monkeypatch.setattr(detectron2.solver, "build_optimizer", merged)
    model = toy()
    cfg = build_cfg(BASE_CONFIG, [*WORDS, "U2SEG.TRAIN.HEAD_LR_FACTOR", "2.5"])
    optimizer = build_optimizer(cfg, model)
    assert [(len(g["params"]), g["lr"], g["momentum"]) for g in optimizer.param_groups] == [
        (4, 0.1, 0.5),
        (5, 0.25, 0.5),
    ]
