"""The meta-architecture: names of the host, finite losses, one training step, predictions."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.events import EventStorage

import u2seg.modeling
from tests.modeling.tiny import STUFF, THINGS, sample, tiny_cfg
from u2seg.errors import UserError

pytestmark = pytest.mark.d2
u2seg.modeling.register()
LOSSES = {
    "loss_sem_seg", "loss_rpn_cls", "loss_rpn_loc", "loss_mask",
    *(f"loss_{kind}_stage{i}" for kind in ("cls", "box_reg") for i in range(3)),
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_cfg())


def losses_of(model, batch):
    model.train()
    with EventStorage(0):
        return model(batch)


def test_parameters_are_those_of_the_stock_model(model) -> None:
    stock = build_model(tiny_cfg("PanopticFPN")).state_dict()
    ours = model.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in stock.items()}
    # What the published recipe fixes: three cascade stages, K + 1 and S + 1 rows, 4 box values.
    for stage in range(3):
        assert len(ours[f"roi_heads.box_predictor.{stage}.cls_score.bias"]) == THINGS + 1
        assert len(ours[f"roi_heads.box_predictor.{stage}.bbox_pred.bias"]) == 4
    assert len(ours["sem_seg_head.predictor.bias"]) == STUFF + 1
    assert len(ours["roi_heads.mask_head.predictor.bias"]) == THINGS


def test_losses_equal_the_stock_models(model) -> None:
    """The forward pass is written anew: with the same weights and seed it gives the same."""
    stock = build_model(tiny_cfg("PanopticFPN"))
    stock.load_state_dict(model.state_dict())
    batch = [sample(1), sample(2)]
    stock_batch = [{**s, "sem_seg": s["sem_seg"].long()} for s in batch]
    state = copy.deepcopy(model.state_dict())  # batch norm moves in training mode
    torch.manual_seed(3)
    ours = losses_of(model, batch)
    torch.manual_seed(3)
    theirs = losses_of(stock, stock_batch)
    model.load_state_dict(state)
    assert ours.keys() == theirs.keys() == LOSSES
    for name, value in ours.items():
        expected = float(theirs[name].detach())
        assert float(value.detach()) == pytest.approx(expected, rel=1e-5), name


def test_images_without_things_and_without_stuff(model) -> None:
    learner = copy.deepcopy(model)
    losses = losses_of(learner, [sample(1, things=0), sample(2, things=0)])
    assert all(torch.isfinite(v) for v in losses.values())
    assert float(losses["loss_mask"].detach()) == 0.0
    void = losses_of(learner, [sample(1, void=True)])
    assert float(void["loss_sem_seg"].detach()) == 0.0
    sum(void.values()).backward()
    gradient = learner.sem_seg_head.predictor.weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()


def test_images_of_different_size_are_padded_with_void(model) -> None:
    learner = copy.deepcopy(model)
    small = sample(3)
    small["image"], small["sem_seg"] = small["image"][:, :40, :50], small["sem_seg"][:40, :50]
    small["instances"] = sample(3, things=1)["instances"]
    small["instances"].gt_masks.tensor = small["instances"].gt_masks.tensor[:, :40, :50]
    small["instances"]._image_size = (40, 50)
    losses = losses_of(learner, [sample(1), small])
    assert torch.isfinite(sum(losses.values()))


def test_predictions(model) -> None:
    model.eval()
    with torch.no_grad():
        outputs = model([sample(1), {"image": sample(2)["image"]}])
    for output, (height, width) in zip(outputs, ((96, 80), (64, 64)), strict=True):
        assert output["sem_seg"].shape == (STUFF + 1, height, width)
        assert output["instances"].pred_masks.shape[1:] == (height, width)
        ids, segments = output["panoptic_seg"]
        assert ids.shape == (height, width)
        areas = {s["id"]: s["area"] for s in segments}
        assert areas == {i: int((ids == i).sum()) for i in ids.unique().tolist() if i}
        stuff = [entry for entry in segments if not entry["isthing"]]
        assert stuff
        for entry in stuff:
            assert 1 <= entry["category_id"] <= STUFF
            assert 1 / (STUFF + 1) <= entry["score"] <= 1.0
            assert entry["area"] >= 16


def test_instance_loss_weight_scales_the_roi_losses_only(model) -> None:
    cfg = tiny_cfg()
    cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 0.5
    half = build_model(cfg)
    half.load_state_dict(model.state_dict())
    torch.manual_seed(6)
    whole = losses_of(copy.deepcopy(model), [sample(1)])
    torch.manual_seed(6)
    scaled = losses_of(half, [sample(1)])
    for name in LOSSES:
        factor = 0.5 if "stage" in name or name == "loss_mask" else 1.0
        expected = factor * float(whole[name].detach())
        assert float(scaled[name].detach()) == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MASK_ON", False, "MODEL.MASK_ON is False"),
        ("ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False, "CLS_AGNOSTIC_BBOX_REG is False"),
        ("SEM_SEG_HEAD.NUM_CLASSES", 0, "NUM_CLASSES is 0"),
        ("SEM_SEG_HEAD.CONVS_DIM", 48, "CONVS_DIM is 48"),
        ("PANOPTIC_FPN.COMBINE.OVERLAP_THRESH", 2.0, "OVERLAP_THRESH is 2.0"),
        ("ROI_HEADS.IOU_THRESHOLDS", [0.4], "must be equal"),
    ],
)
def test_bad_settings_are_named(key: str, value: object, message: str) -> None:
    cfg = tiny_cfg()
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(UserError, match=message):
        build_model(cfg)


@pytest.mark.parametrize("things", [300, 800])
def test_the_published_recipe_has_the_names_and_shapes_of_the_stock_model(things: int) -> None:
    """Their checkpoints were written by the stock classes; nothing is computed here."""
    from pathlib import Path

    from u2seg.host.setup import build_cfg

    configs = Path(__file__).resolve().parents[2] / "configs" / "COCO-PanopticSegmentation"
    cfg = build_cfg(configs / f"u2seg_R50_{things}.yaml")
    shapes = []
    with torch.device("meta"):
        for name in (cfg.MODEL.META_ARCHITECTURE, "PanopticFPN"):
            state = META_ARCH_REGISTRY.get(name)(cfg).state_dict()
            shapes.append({k: tuple(v.shape) for k, v in state.items()})
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticCascadeRCNN"
    assert shapes[0] == shapes[1]
    assert shapes[0]["roi_heads.box_predictor.2.cls_score.weight"] == (things + 1, 1024)
    assert shapes[0]["roi_heads.mask_head.predictor.weight"] == (things, 256, 1, 1)
    assert shapes[0]["sem_seg_head.predictor.weight"] == (28, 128, 1, 1)
    assert shapes[0]["backbone.bottom_up.res5.2.conv3.weight"] == (2048, 512, 1, 1)
