"""Masks by number: the host's values, and no copies."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

import u2seg.modeling
from tests.modeling.tiny import THINGS, sample, tiny_cfg
from u2seg.modeling.shared_masks import SharedMasks, with_shared_masks

pytestmark = pytest.mark.d2
u2seg.modeling.register()


def random_masks(count: int = 5, height: int = 31, width: int = 47, seed: int = 0) -> torch.Tensor:
    """Return masks of straight edges and of noise; the last one is empty."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, height, width, generator=generator) < 0.6
    masks[0] = False
    masks[0, 5:20, 7:30] = True
    masks[-1] = False
    return masks


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    """Return boxes, some of them beyond the frame, one without area."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 40 - 5
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 30], dim=1)
    boxes[0, 2:] = boxes[0, :2]
    boxes[1] = torch.tensor([7.0, 5.0, 30.0, 20.0])
    return boxes


def pair(rows: torch.Tensor) -> tuple[SharedMasks, BitMasks]:
    """Return the same rows of ours and of the host's."""
    masks = random_masks()
    return SharedMasks(masks)[rows], BitMasks(masks)[rows]


def test_a_crop_by_hand() -> None:
    """Columns 0..2 of 6 are the object; the box 1..5 in two pixels has 2 of 2, then 0 of 2.

    The box 1..4 in one column covers 2 of its 3 pixels; the box 2..4 covers 1 of 2: half counts.
    """
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, :, :3] = True
    both = SharedMasks(mask)[torch.tensor([0, 0, 0])]
    boxes = torch.tensor([[1.0, 0, 5, 4], [1.0, 0, 4, 4], [3.0, 0, 5, 4]])
    assert both[:1].crop_and_resize(boxes[:1], 2).tolist() == [[[True, False]] * 2]
    assert both[1:].crop_and_resize(boxes[1:], 1).flatten().tolist() == [True, False]
    half = torch.tensor([[2.0, 0, 4, 4]])
    assert both[:1].crop_and_resize(half, 1).flatten().tolist() == [True]


@pytest.mark.parametrize("size", [7, 28])
@pytest.mark.parametrize("seed", range(3))
def test_crops_are_the_hosts(size: int, seed: int) -> None:
    rows = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(seed))
    ours, theirs = pair(rows)
    boxes = random_boxes(40, seed)
    expected = theirs.crop_and_resize(boxes, size)
    assert 0 < int(expected.sum()) < expected.numel()
    assert torch.equal(ours.crop_and_resize(boxes, size), expected)


def test_selecting_and_moving_copy_no_mask() -> None:
    """2048 rows of 5 masks: everything still refers to the pixels it was made of."""
    source = random_masks()
    rows = torch.arange(2048) % 5
    many = SharedMasks(source)[rows]
    place = source.data_ptr()
    foreground = many[rows != 0]
    for masks in (many, foreground, many.to("cpu")):
        assert masks.source.data_ptr() == place
        assert masks.source.untyped_storage().nbytes() == source.numel()
    assert next(iter(foreground)).untyped_storage().data_ptr() == place


def test_polygons_and_images_without_masks_stay() -> None:
    triangle = PolygonMasks([[[0.0, 0.0, 4.0, 0.0, 0.0, 4.0]]])
    polygon = Instances((8, 8), gt_masks=triangle)
    boxes = Instances((8, 8), gt_boxes=Boxes(torch.zeros(1, 4)))
    bits = Instances((31, 47), gt_masks=BitMasks(random_masks()), gt_classes=torch.arange(5))
    first, second, third = with_shared_masks([polygon, boxes, bits])
    assert first is polygon
    assert second is boxes
    assert third.gt_masks.source is bits.gt_masks.tensor
    assert type(bits.gt_masks) is BitMasks
    assert with_shared_masks([third])[0].gt_masks is third.gt_masks


def proposals(boxes: torch.Tensor) -> Instances:
    found = Instances((64, 64))
    found.proposal_boxes = Boxes(boxes)
    found.objectness_logits = torch.zeros(len(boxes))
    return found


@pytest.mark.parametrize("heads", ["CascadeROIHeads", "PseudoCascadeROIHeads"])
def test_sampled_proposals_refer_to_the_images_masks(heads: str) -> None:
    """The sampled proposals, the mask targets and the loss are those of the host's heads."""
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.NAME = heads
    ours = build_model(cfg).roi_heads
    theirs = CascadeROIHeads.label_and_sample_proposals
    targets = [sample(1)["instances"], sample(2, things=0)["instances"]]
    near = targets[0].gt_boxes.tensor[[0, 1, 0, 1]] + torch.tensor([2.0, -1.0, 1.0, 3.0])
    found = []
    for function in (type(ours).label_and_sample_proposals, theirs):
        torch.manual_seed(0)
        with EventStorage(0):
            sampled = function(ours, [proposals(near), proposals(near)], targets)
            foreground, _ = select_foreground_proposals(sampled, THINGS)
            logits = torch.randn(sum(map(len, foreground)), 1, 28, 28)
            found.append((sampled, foreground, mask_rcnn_loss(logits, foreground)))
    assert torch.equal(found[0][2], found[1][2])
    mine, host = (images[0][0].gt_masks for images in found)
    assert torch.equal(mine.tensor, host.tensor)
    assert type(host) is BitMasks
    truth = targets[0].gt_masks.tensor
    for images in found[0][:2]:
        assert images[0].gt_masks.source.data_ptr() == truth.data_ptr()
        assert not images[1].has("gt_masks")
    assert type(targets[0].gt_masks) is BitMasks
