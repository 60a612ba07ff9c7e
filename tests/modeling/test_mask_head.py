"""Masks of the own class alone: the host's losses, gradients and masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.modeling.tiny import tiny_cfg
from u2seg.modeling.heads import OwnClassMaskHead

pytestmark = pytest.mark.d2


def heads(things: int, *, agnostic: bool = False) -> tuple[Any, Any]:
    """Return the host's head and ours with its weights."""
    cfg = tiny_cfg(things=things)
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = agnostic
    shape = ShapeSpec(channels=6, height=4, width=4)
    torch.manual_seed(1)
    theirs = MaskRCNNConvUpsampleHead(cfg, shape)
    torch.nn.init.normal_(theirs.predictor.weight)
    torch.nn.init.normal_(theirs.predictor.bias)
    ours = OwnClassMaskHead(cfg, shape)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def objects(classes: list[list[int]], field: str) -> list[Instances]:
    """Return images of 16 x 16 pixels with an object per class, a half of each."""
    found = []
    for numbers in classes:
        image = Instances((16, 16))
        masks = torch.zeros(len(numbers), 16, 16, dtype=torch.bool)
        masks[:, 4:12, 4:9] = True
        box = torch.tensor([[4.0, 4.0, 14.0, 12.0]]).repeat(len(numbers), 1)
        image.proposal_boxes, image.gt_masks = Boxes(box), BitMasks(masks)
        image.set(field, torch.tensor(numbers, dtype=torch.int64))
        found.append(image)
    return found


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_and_gradients_are_the_hosts(agnostic: bool) -> None:
    theirs, ours = heads(5, agnostic=agnostic)
    images = objects([[4, 0, 4], [], [2]], "gt_classes")
    x = torch.randn(4, 6, 4, 4)
    values = []
    for head in (theirs, ours):
        with EventStorage(0):
            loss = head(x, images)["loss_mask"]
        loss.backward()
        values.append((loss, [p.grad for p in head.parameters()]))
    torch.testing.assert_close(values[1][0], values[0][0], rtol=1e-6, atol=0)
    for mine, host in zip(values[1][1], values[0][1], strict=True):
        torch.testing.assert_close(mine, host, rtol=1e-5, atol=1e-7)


def test_masks_are_the_hosts() -> None:
    theirs, ours = (head.eval() for head in heads(5))
    x = torch.randn(3, 6, 4, 4)
    found = []
    for head in (theirs, ours):
        images = objects([[3, 1], [], [0]], "pred_classes")
        with torch.no_grad():
            found.append(torch.cat([i.pred_masks for i in head(x, images)]))
    assert found[1].shape == (3, 1, 8, 8)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


def test_no_object_is_a_loss_of_zero_that_reaches_every_weight() -> None:
    _, ours = heads(5)
    with EventStorage(0):
        loss = ours(torch.zeros(0, 6, 4, 4), objects([[], []], "gt_classes"))["loss_mask"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in ours.parameters())
