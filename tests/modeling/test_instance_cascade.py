"""The model without a semantic head: names of the host, one training step, things alone."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import u2seg.modeling
from tests.modeling.tiny import STUFF, THINGS, sample, tiny_cfg
from u2seg.errors import UserError
from u2seg.modeling.cascade import _panoptic
from u2seg.modeling.outputs import segmentation_of_outputs
from u2seg.structures.labels import LabelSpace

pytestmark = pytest.mark.d2
u2seg.modeling.register()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_cfg("InstanceCascadeRCNN"))


def test_it_is_the_panoptic_model_without_its_semantic_head(model) -> None:
    panoptic = build_model(tiny_cfg()).state_dict()
    wanted = {k: v.shape for k, v in panoptic.items() if not k.startswith("sem_seg_head.")}
    assert {k: v.shape for k, v in model.state_dict().items()} == wanted


def test_training_step_on_the_samples_of_the_panoptic_model(model) -> None:
    learner = copy.deepcopy(model).train()
    before = learner.roi_heads.mask_head.predictor.weight.detach().clone()
    with EventStorage(0):
        losses = learner([sample(1), sample(2, things=0)])
    stages = {f"loss_{kind}_stage{i}" for kind in ("cls", "box_reg") for i in range(3)}
    assert losses.keys() == stages | {"loss_rpn_cls", "loss_rpn_loc", "loss_mask"}
    sum(losses.values()).backward()
    assert [n for n, p in learner.named_parameters() if p.grad is None] == []
    torch.optim.SGD(learner.parameters(), lr=0.1).step()
    assert not torch.equal(before, learner.roi_heads.mask_head.predictor.weight)


def test_prediction(model) -> None:
    space = LabelSpace(THINGS, STUFF)
    model.eval()
    with torch.no_grad():
        output = model([sample(1)])[0]
        assert "pred_masks" not in model.inference([sample(1)], do_postprocess=False)
    assert output["instances"].pred_masks.shape[1:] == (96, 80)
    prediction = segmentation_of_outputs(output, space)
    assert len(prediction.instances) == len(output["instances"]) > 0
    assert prediction.stuff is None


def test_panoptic_map_of_two_instances_by_hand(model) -> None:
    """The second is hidden in part, the third is below the score of 0.5; the rest is void."""
    found = Instances((1, 5))
    masks = [[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]]
    found.pred_masks = torch.tensor(masks, dtype=torch.bool)[:, None, :]
    found.scores = torch.tensor([0.9, 0.8, 0.4])
    found.pred_classes = torch.tensor([4, 0, 1])
    found.pred_boxes = Boxes(torch.zeros(3, 4))
    output = {"instances": found, "panoptic_seg": _panoptic(found, None, model.combine_rules)}
    ids, segments = output["panoptic_seg"]
    assert ids.tolist() == [[1, 1, 2, 2, 0]]
    assert [(s["category_id"], s["isthing"], s["area"]) for s in segments] == [
        (4, True, 2),
        (0, True, 2),
    ]
    prediction = segmentation_of_outputs(output, LabelSpace(THINGS, STUFF))
    assert [mask.cluster for mask in prediction.instances] == [4, 0, 1]


def test_bad_settings_are_refused() -> None:
    cfg = tiny_cfg("InstanceCascadeRCNN")
    cfg.MODEL.MASK_ON = False
    with pytest.raises(UserError, match="InstanceCascadeRCNN needs the mask head"):
        build_model(cfg)
    cfg = tiny_cfg("InstanceCascadeRCNN")
    cfg.MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH = 2.0
    with pytest.raises(UserError, match="OVERLAP_THRESH is 2"):
        build_model(cfg)
