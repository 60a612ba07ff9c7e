"""Drop-loss: hand-computed losses of three proposals, and what it leaves as it is."""

from __future__ import annotations

import copy
import math

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import u2seg.modeling
from tests.modeling.tiny import sample, tiny_cfg
from u2seg.config.load import add_u2seg_config
from u2seg.modeling.heads import kept_rows, stage_losses

pytestmark = pytest.mark.d2
u2seg.modeling.register()
LN2, LN3 = math.log(2), math.log(3)


def config(name: str = "PseudoCascadeROIHeads", droploss: bool = True, iou: float = 0.01):
    cfg = tiny_cfg()
    add_u2seg_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = name
    cfg.U2SEG.TRAIN.DROPLOSS, cfg.U2SEG.TRAIN.DROPLOSS_IOU = droploss, iou
    return cfg


def boxes(*rows: tuple[float, ...]) -> Boxes:
    return Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


def losses_of(model, batch, seed: int = 3):
    learner = copy.deepcopy(model).train()
    torch.manual_seed(seed)
    with EventStorage(0) as storage:
        losses = learner(batch)
    return losses, storage.latest()


# One pseudo-box (0, 0, 10, 10). Predictions: the box itself (IoU 1), its right half moved by 8
# (overlap 2 x 10 of a union of 180: IoU 1/9), and one far away (IoU 0).
PREDICTED = ((0, 0, 10, 10), (8, 0, 18, 10), (30, 30, 40, 40))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.0, [0, 1]), (0.01, [0, 1]), (0.111, [0, 1]), (0.1112, [0]), (0.99, [0]), (1.0, [])],
)
def test_kept_rows_by_hand(threshold: float, expected: list[int]) -> None:
    predicted = boxes(*PREDICTED).tensor
    assert kept_rows([predicted], [boxes((0, 0, 10, 10))], threshold).tolist() == expected


def test_every_pseudo_box_of_the_own_image_counts_and_no_other() -> None:
    far = boxes((30, 30, 40, 40)).tensor
    twelve = boxes(*[(0, 0, 10, 10)] * 11, (30, 30, 40, 40))  # the last of many equal ones
    assert kept_rows([far], [twelve], 0.01).tolist() == [0]
    first, second = boxes((0, 0, 10, 10)), boxes((30, 30, 40, 40))
    assert kept_rows([far, far], [first, second], 0.01).tolist() == [1]


def test_box_that_is_not_finite_is_kept() -> None:
    broken = torch.tensor([[math.nan, 0.0, 1.0, 1.0], [0.0, 0.0, math.inf, 1.0]])
    assert kept_rows([broken], [boxes((30, 30, 40, 40))], 0.5).tolist() == [0, 1]


def predictor() -> FastRCNNOutputLayers:
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    return FastRCNNOutputLayers(
        ShapeSpec(channels=1), box2box_transform=transform, num_classes=2,
        cls_agnostic_bbox_reg=True,
    )  # fmt: skip


def three_proposals() -> tuple[tuple[torch.Tensor, torch.Tensor], list[Instances]]:
    """Return predictions and proposals: a thing of class 0, background, background.

    Class losses: logits (0, 0, 0) give ln 3 for the thing; (ln 2, 0, 0) give ln 4 for
    background; (0, 0, ln 2) give ln 2. The thing's box is right but for dx, which is 0.5 off.
    """
    scores = torch.tensor([[0.0, 0, 0], [LN2, 0, 0], [0, 0, LN2]], requires_grad=True)
    deltas = torch.zeros(3, 4)
    deltas[0, 0] = 0.5
    proposals = Instances((64, 64))
    proposals.proposal_boxes = boxes(*PREDICTED)
    proposals.gt_boxes = boxes(*[(0, 0, 10, 10)] * 3)
    proposals.gt_classes = torch.tensor([0, 2, 2])
    return (scores, deltas.requires_grad_()), [proposals]


@pytest.mark.parametrize(
    ("kept", "class_sum", "box_sum"),
    [
        ([0, 1, 2], LN3 + 2 * LN2 + LN2, 0.5),
        ([0, 1], LN3 + 2 * LN2, 0.5),
        ([0], LN3, 0.5),
        ([2], LN2, 0.0),
        ([], 0.0, 0.0),
    ],
)
def test_losses_by_hand(kept: list[int], class_sum: float, box_sum: float) -> None:
    predictions, proposals = three_proposals()
    with EventStorage(0):
        rows = torch.tensor(kept, dtype=torch.int64)
        losses = stage_losses(predictor(), predictions, proposals, rows)
    assert float(losses["loss_cls"].detach()) == pytest.approx(class_sum / 3, rel=1e-6)
    assert float(losses["loss_box_reg"].detach()) == pytest.approx(box_sum / 3, rel=1e-6)
    sum(losses.values()).backward()
    untouched = [row for row in range(3) if row not in kept]
    assert predictions[0].grad[untouched].abs().sum() == 0
    assert all(predictions[0].grad[row].abs().sum() > 0 for row in kept)


def test_every_stage_is_looked_at_with_its_own_boxes() -> None:
    """Hand-set predictors: stage 0 leaves the boxes, stage 1 moves them by twice their width.

    Of the proposals (0, 0, 10, 10) = the pseudo-box and (20, 0, 30, 10), stage 0 drops the
    second. Moved by 20 to the right, both are off the pseudo-box: stage 1 drops both. Stage 2
    moves them back by 20 and drops the second again.
    """
    heads = build_model(config()).roi_heads.train()
    heads._run_stage = lambda _features, proposals, stage: outputs(proposals, stage)

    def outputs(proposals, stage):
        count = sum(len(p) for p in proposals)
        scores = torch.zeros(count, 6, requires_grad=True)
        scale = heads.box_predictor[stage].box2box_transform.weights[0]
        shift = torch.zeros(count, 4)
        shift[:, 0] = (0.0, 2.0 * scale, -2.0 * scale)[stage]
        return scores, shift.requires_grad_()

    first, target = Instances((64, 64)), Instances((64, 64))
    first.proposal_boxes = boxes((0, 0, 10, 10), (20, 0, 30, 10))
    first.gt_boxes, first.gt_classes = boxes(*[(0, 0, 10, 10)] * 2), torch.tensor([1, 5])
    target.gt_boxes, target.gt_classes = boxes((0, 0, 10, 10)), torch.tensor([1])
    with EventStorage(0) as storage:
        losses = heads._forward_box({"p2": None, "p3": None}, [first], [target])
        dropped = [storage.latest()[f"stage{s}/roi_head/num_dropped"][0] for s in range(3)]
    # Equal logits of 5 + 1 classes: ln 6 for each proposal kept, of 2.
    found = [float(losses[f"loss_cls_stage{s}"].detach()) for s in range(3)]
    assert dropped == [1, 2, 1]
    assert found == pytest.approx([math.log(6) / 2, 0.0, math.log(6) / 2])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(config())


@pytest.fixture(scope="module")
def stock(model):
    host = build_model(config("CascadeROIHeads"))
    host.load_state_dict(model.state_dict())  # strict: the names are the host's
    return host


def test_switched_off_it_is_the_host(model, stock) -> None:
    off = build_model(config(droploss=False))
    off.load_state_dict(model.state_dict())
    ours, theirs = (losses_of(m, [sample(1), sample(2)])[0] for m in (off, stock))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_only_box_head_losses_shrink(model, stock) -> None:
    (ours, seen), (theirs, _) = (losses_of(m, [sample(1), sample(2)]) for m in (model, stock))
    assert ours.keys() == theirs.keys()
    assert seen["stage0/roi_head/num_dropped"][0] > 0
    for name, value in theirs.items():
        if name.startswith("loss_cls_stage"):
            assert 0 < ours[name] < value
        elif not name.startswith("loss_box_reg_stage"):
            assert torch.equal(ours[name], value), name


def test_threshold_one_and_images_without_things(model) -> None:
    everything = copy.deepcopy(model)
    everything.roi_heads.droploss_iou = 1.0
    learner = copy.deepcopy(model).train()
    empty = [sample(1, things=0), sample(2, things=0)]
    for candidate, batch in ((everything, [sample(1)]), (model, empty)):
        losses, _ = losses_of(candidate, batch)
        box = [v for k, v in losses.items() if "_stage" in k]
        assert len(box) == 6 and all(float(v.detach()) == 0 for v in box)
    with EventStorage(0):
        sum(learner(empty).values()).backward()
    # Zero, not absent: DistributedDataParallel waits for the gradient of every parameter.
    assert [n for n, p in learner.named_parameters() if p.grad is None] == []
