"""Seeded sampling by hand and against the host; losses weighted by shares."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from detectron2.modeling import build_model
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

import u2seg.modeling
from tests.modeling.tiny import sample, tiny_cfg
from u2seg.modeling.heads import (
    ANCHORS,
    PROPOSALS,
    SeededSampling,
    sample_labels,
    with_own_parts,
)
from u2seg.structures.draws import DRAW_SEED

pytestmark = pytest.mark.d2
u2seg.modeling.register()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return build_model(tiny_cfg())


def test_labels_by_hand() -> None:
    """Background 9. Positives at 0, 3, 4; negatives at 2, 5; of 4 at most half are positive."""
    labels = torch.tensor([5, -1, 9, 5, 7, 9])
    positives, negatives = sample_labels(labels, 4, 0.5, 9, generator())
    drawn = torch.randperm(3, generator=generator())[:2].tolist()
    assert positives.tolist() == [(0, 3, 4)[i] for i in drawn]
    assert sorted(negatives.tolist()) == [2, 5]
    # a third of 4 is 1.33: one positive, and no more negatives than there are
    counts = [len(part) for part in sample_labels(labels, 4, 1 / 3, 9, generator())]
    assert counts == [1, 2]
    none = sample_labels(torch.tensor([-1, -1]), 4, 0.5, 9, generator())
    assert [len(part) for part in none] == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_is_the_hosts(seed: int) -> None:
    """The host draws from the shared generator; with the same seed it draws the same."""
    labels = torch.randint(-1, 4, (200,), generator=generator(seed))
    torch.manual_seed(seed)
    theirs = subsample_labels(labels, 32, 0.25, 3)
    ours = sample_labels(labels, 32, 0.25, 3, generator(seed))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_generators_follow_the_images_and_the_stream() -> None:
    part = SeededSampling()
    cpu = torch.device("cpu")
    assert part.next_generator(ANCHORS, cpu) is None
    part.image_seeds = [11, 22]

    def numbers(stream: int) -> list[float]:
        part._image = 0
        found = [part.next_generator(stream, cpu) for _ in range(2)]
        return [float(torch.rand((), generator=g)) for g in found]

    assert numbers(ANCHORS) == [float(torch.rand((), generator=generator(s))) for s in (11, 22)]
    assert len({*numbers(ANCHORS), *numbers(PROPOSALS)}) == 4


def test_only_the_hosts_own_parts_are_replaced() -> None:
    cfg = tiny_cfg()
    seeded = with_own_parts(cfg).MODEL
    assert (seeded.PROPOSAL_GENERATOR.NAME, seeded.ROI_HEADS.NAME) == (
        "SeededRPN",
        "PseudoCascadeROIHeads",
    )
    assert seeded.ROI_MASK_HEAD.NAME == "OwnClassMaskHead"
    assert cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads"
    cfg.U2SEG.TRAIN.PARTS = ()
    assert with_own_parts(cfg) == cfg


def training_samples(model: Any, seeds: list[int], shared: int) -> tuple[Any, Any]:
    """Return the sampled anchors and proposals of as many equal images."""
    batch = [{**sample(1), DRAW_SEED: seed} for seed in seeds]
    found: dict[str, Any] = {}

    def keep(name: str, real: Any, *arguments: Any) -> Any:
        found[name] = real(*arguments)
        return found[name]

    torch.manual_seed(shared)
    with pytest.MonkeyPatch.context() as patch, EventStorage(0), torch.no_grad():
        for part, name in (
            (model.proposal_generator, "label_and_sample_anchors"),
            (model.roi_heads, "label_and_sample_proposals"),
        ):
            patch.setattr(part, name, functools.partial(keep, name, getattr(part, name)))
        model.train()(batch)
    anchors = [labels.tolist() for labels in found["label_and_sample_anchors"][0]]
    proposals = found["label_and_sample_proposals"]
    return anchors, [p.proposal_boxes.tensor.tolist() for p in proposals]


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ("PanopticCascadeRCNN", "CascadeROIHeads"),
        ("PanopticCascadeRCNN", "PseudoCascadeROIHeads"),
        ("InstanceCascadeRCNN", "CascadeROIHeads"),
    ],
)
def test_samples_depend_on_the_images_seed_alone(architecture: str, heads: str) -> None:
    cfg = tiny_cfg(architecture)
    cfg.MODEL.ROI_HEADS.NAME = heads
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = ""
    torch.manual_seed(0)
    model = build_model(cfg)
    anchors, proposals = training_samples(model, [5, 6, 5], shared=1)
    assert anchors[0] == anchors[2] != anchors[1]
    assert proposals[0] == proposals[2] != proposals[1]
    swapped_anchors, swapped_proposals = training_samples(model, [6, 5], shared=2)
    assert swapped_anchors == [anchors[1], anchors[0]]
    assert swapped_proposals == [proposals[1], proposals[0]]


def test_proposals_and_masks_are_counted(model: Any) -> None:
    """Two images, boxes of the truth added: 2 things each, at most 16 proposals of 4 positive."""
    learner = copy.deepcopy(model).train()
    with EventStorage(0), torch.no_grad():
        learner([sample(1), sample(2)])
    counts = learner.roi_heads.loss_counts
    assert counts["loss_cls_stage0"] == counts["loss_box_reg_stage0"] == 32
    assert counts.keys() == {
        "loss_mask",
        *(f"loss_{kind}_stage{i}" for kind in ("cls", "box_reg") for i in range(3)),
    }
    assert 4 <= int(counts["loss_mask"]) <= 8
    assert counts["loss_cls_stage1"] <= 32  # boxes without area are left out


def test_counts_by_hand() -> None:
    """One image: three proposals of which one matches; the truth's box is added: 4, 2 positive."""
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0
    heads = build_model(cfg).roi_heads
    proposals, target = Instances((64, 64)), Instances((64, 64))
    boxes = [[0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0], [20.0, 0.0, 30.0, 10.0]]
    proposals.proposal_boxes = Boxes(torch.tensor(boxes))
    proposals.objectness_logits = torch.zeros(3)
    target.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, 9.0]]))
    target.gt_classes = torch.tensor([2])
    heads.image_seeds = [1]
    with EventStorage(0):
        sampled = heads.label_and_sample_proposals([proposals], [target])
    assert sorted(sampled[0].gt_classes.tolist()) == [2, 2, 5, 5]
    assert int(heads.loss_counts["loss_mask"]) == 2
    assert heads.loss_counts["loss_cls_stage0"] == 4
