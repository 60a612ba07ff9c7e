"""Detectron2's proposal generator and cascade heads, for pseudo-labels and several processes.

Parameters and their names are the host's. What differs, each by a setting:

- **drop-loss** (``U2SEG.TRAIN.DROPLOSS``): predictions that overlap no pseudo-mask have no losses.
- ``sampling`` (of ``U2SEG.TRAIN.PARTS``): each image has random numbers of its own for its anchors
  and proposals, so they do not depend on how many processes share a batch.
- ``masks``: sampled proposals refer to the masks of their image, which the host copies (1.8 GB for
  two images of 800 x 1333 pixels), and the mask head computes the one mask of each object's own
  class (2.5 MB of logits in float32 for an object at 800 classes, of which 3 kB are used).
- ``pooling``: ROIAlign on a CPU, see ``roi_align``.

Shapes: N anchors or proposals, K thing classes, G pseudo-masks of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor

from u2seg.modeling.roi_align import channels_last, sum_rows
from u2seg.modeling.shared_masks import with_shared_masks
from u2seg.structures.draws import DRAW_SEED

Counts = Mapping[str, Tensor | int]
"""Name of a loss -> how many things this process took its mean over."""
ANCHORS, PROPOSALS = 0, 1
"""Streams of random numbers of one image."""


def with_own_parts(cfg: Any) -> Any:
    """Return a copy of a config with the parts of ``U2SEG.TRAIN.PARTS`` in place of the host's.

    Parts of other names stay; parameters and their names are the same.
    """
    cfg, parts = cfg.clone(), cfg.U2SEG.TRAIN.PARTS
    cfg.defrost()
    if "sampling" in parts and cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN":
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "SeededRPN"
    if parts and cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads":
        cfg.MODEL.ROI_HEADS.NAME = "PseudoCascadeROIHeads"
        cfg.U2SEG.TRAIN.DROPLOSS = False  # the host's heads have none
    if "masks" in parts and cfg.MODEL.ROI_MASK_HEAD.NAME == "MaskRCNNConvUpsampleHead":
        cfg.MODEL.ROI_MASK_HEAD.NAME = "OwnClassMaskHead"
    return cfg


def give_seeds(model: Any, samples: Sequence[Mapping[str, Any]]) -> None:
    """Give the sampling parts of a model the seeds of a batch, or none if a sample lacks one."""
    complete = all(DRAW_SEED in sample for sample in samples)
    seeds = [int(sample[DRAW_SEED]) for sample in samples] if complete else None
    for part in (model.proposal_generator, model.roi_heads):
        if isinstance(part, SeededSampling):
            part.image_seeds = seeds


class SeededSampling:
    """Mixin of parts that sample: one generator per image, from ``image_seeds``.

    With ``image_seeds`` None they sample as the host does, from the shared generator.
    """

    image_seeds: list[int] | None = None
    _image = 0

    def next_generator(self, stream: int, device: torch.device) -> torch.Generator | None:
        """Return the generator of the next image for ``ANCHORS`` or ``PROPOSALS``, if any."""
        if self.image_seeds is None:
            return None
        seed = self.image_seeds[self._image]
        self._image += 1
        # a change of the low bits: torch's generator on the CPU ignores all but 32
        return torch.Generator(device).manual_seed(seed ^ (stream * 0x9E3779B9))


def sample_labels(
    labels: Tensor,
    count: int,
    positive_fraction: float,
    background: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return random positives and negatives, by the rule of the host's ``subsample_labels``.

    Args:
        labels: (N,) integers: -1 is never sampled, ``background`` is negative, others positive.
        count: Wanted in all; fewer where there are not enough.
        positive_fraction: Positives are at most this share of ``count``, rounded down; negatives
            fill the rest.
        background: The negative label.
        generator: On the device of ``labels``.

    Examples:
        Three positives, of which half of four may be taken, and one negative.

        >>> labels = torch.tensor([5, -1, 9, 5, 5])
        >>> positives, negatives = sample_labels(labels, 4, 0.5, 9, torch.Generator())
        >>> len(positives), set(positives.tolist()) <= {0, 3, 4}, negatives.tolist()
        (2, True, [2])
    """

    def some(indices: Tensor, most: int) -> Tensor:
        drawn = torch.randperm(len(indices), generator=generator, device=indices.device)
        return indices[drawn[:most]]

    positive = some(
        torch.nonzero((labels != -1) & (labels != background))[:, 0],
        int(count * positive_fraction),
    )
    return positive, some(torch.nonzero(labels == background)[:, 0], count - len(positive))


@PROPOSAL_GENERATOR_REGISTRY.register()
class SeededRPN(SeededSampling, RPN):  # type: ignore[misc]
    """Region proposals whose training anchors depend on the image's seed alone."""

    def label_and_sample_anchors(self, anchors: Any, gt_instances: Any) -> Any:
        """Return labels (1 object, 0 none, -1 not sampled) and boxes, as the host does."""
        self._image = 0
        return super().label_and_sample_anchors(anchors, gt_instances)

    def _subsample_labels(self, label: Tensor) -> Tensor:
        generator = self.next_generator(ANCHORS, label.device)
        if generator is None:
            return super()._subsample_labels(label)  # type: ignore[no-any-return]
        positive, negative = sample_labels(
            label, self.batch_size_per_image, self.positive_fraction, 0, generator
        )
        label.fill_(-1)
        label[positive] = 1
        label[negative] = 0
        return label


@ROI_HEADS_REGISTRY.register()
class PseudoCascadeROIHeads(SeededSampling, CascadeROIHeads):  # type: ignore[misc]
    """Cascade heads that do not punish predictions the pseudo-labels know nothing of."""

    loss_counts: Counts = MappingProxyType({})
    """Of the last batch, for ``cascade.weigh_losses``."""

    @configurable  # type: ignore[untyped-decorator]
    def __init__(
        self, *, droploss_iou: float | None = None, parts: Sequence[str] = (), **host: Any
    ) -> None:
        super().__init__(**host)
        self.droploss_iou = droploss_iou
        self.parts = frozenset(parts)
        if "pooling" in parts:
            sum_rows(self)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        train = cfg.U2SEG.TRAIN
        arguments["droploss_iou"] = float(train.DROPLOSS_IOU) if train.DROPLOSS else None
        arguments["parts"] = tuple(train.PARTS)
        return arguments

    def forward(self, images: Any, features: Any, proposals: Any, targets: Any = None) -> Any:
        """Return what the host's heads do."""
        if "pooling" in self.parts:
            features = {name: channels_last(value) for name, value in features.items()}
        return super().forward(images, features, proposals, targets)

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Return the sampled proposals with their targets, as the host does; count them."""
        self._image = 0
        if "masks" in self.parts:
            targets = with_shared_masks(targets)
        sampled: list[Instances] = super().label_and_sample_proposals(proposals, targets)
        classes = torch.cat([p.gt_classes for p in sampled])
        foreground = ((classes >= 0) & (classes < self.num_classes)).sum()
        self.loss_counts = {"loss_mask": foreground, **_stage_counts(0, sampled)}
        return sampled

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> Any:
        generator = self.next_generator(PROPOSALS, matched_idxs.device)
        if generator is None:
            return super()._sample_proposals(matched_idxs, matched_labels, gt_classes)
        labels = torch.full_like(matched_idxs, self.num_classes)
        if len(gt_classes):
            labels = gt_classes[matched_idxs]
            labels[matched_labels == 0] = self.num_classes
            labels[matched_labels == -1] = -1
        size, share = self.batch_size_per_image, self.positive_fraction
        chosen = torch.cat(sample_labels(labels, size, share, self.num_classes, generator))
        return chosen, labels[chosen]

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: Sequence[Instances]
    ) -> list[Instances]:
        labelled: list[Instances] = super()._match_and_label_boxes(proposals, stage, targets)
        self.loss_counts = {**self.loss_counts, **_stage_counts(stage, labelled)}
        return labelled

    def _forward_box(
        self, features: Any, proposals: list[Instances], targets: Sequence[Instances] | None = None
    ) -> Any:
        """Return the losses of all stages in training, the detections else.

        Only the losses differ from the host's: those of predictions whose box, after the stage's
        regression, overlaps no pseudo-box of its image. Mask losses are of proposals that match a
        pseudo-mask, so there is nothing to leave out.
        """
        if not self.training or self.droploss_iou is None or targets is None:
            return super()._forward_box(features, proposals, targets)
        levels = [features[name] for name in self.box_in_features]
        sizes = [p.image_size for p in proposals]
        truth = [t.gt_boxes for t in targets]
        storage = get_event_storage()
        losses = {}
        boxes: Any = None
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
                proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(levels, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            kept = kept_rows([b.detach() for b in boxes], truth, self.droploss_iou)
            with storage.name_scope(f"stage{stage}"):
                of_stage = stage_losses(predictor, predictions, proposals, kept)
            dropped = sum(len(b) for b in boxes) - len(kept)
            storage.put_scalar(f"stage{stage}/roi_head/num_dropped", dropped / len(sizes))
            losses.update({f"{name}_stage{stage}": value for name, value in of_stage.items()})
        return losses


def _stage_counts(stage: int, proposals: Sequence[Instances]) -> dict[str, int]:
    count = sum(len(p) for p in proposals)
    return {f"loss_cls_stage{stage}": count, f"loss_box_reg_stage{stage}": count}


def kept_rows(predicted: Sequence[Tensor], targets: Sequence[Boxes], threshold: float) -> Tensor:
    """Return the rows of the predictions that keep their losses: drop-loss.

    Source: U2Seg (arXiv 2312.17243, section 3.4) and CutLER (arXiv 2301.11320, section 3.3): a
    prediction that overlaps no pseudo-mask may well be an object that the labels miss.
    Deviations from CutLER's code (commit cca0a27): the IoU is taken with the image's whole list of
    pseudo-boxes, not with the first few matched ones; and, as both papers say, every ROI loss of
    such a prediction is left out, not the class loss alone.

    Args:
        predicted: (R_n, 4) boxes (x0, y0, x1, y1) in pixels, one tensor per image.
        targets: The G_n pseudo-boxes of each image; in an image with none, nothing overlaps, so
            every prediction is dropped.
        threshold: A prediction is dropped if its largest IoU is at most this, 0..1.

    Examples:
        Of two predictions one covers a quarter of the pseudo-box, the other lies elsewhere.

        >>> boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0], [20.0, 20.0, 30.0, 30.0]])
        >>> truth = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
        >>> kept_rows([boxes], [truth], 0.01).tolist(), kept_rows([boxes], [truth], 0.25).tolist()
        ([0], [])
    """
    overlaps = [
        pairwise_iou(Boxes(boxes), truth).amax(dim=1) if len(truth) else boxes.new_zeros(len(boxes))
        for boxes, truth in zip(predicted, targets, strict=True)
    ]
    finite = torch.isfinite(torch.cat(list(predicted))).all(dim=1)
    return torch.nonzero((torch.cat(overlaps) > threshold) | ~finite)[:, 0]


def stage_losses(
    predictor: Any, predictions: Any, proposals: Sequence[Instances], kept: Tensor
) -> dict[str, Tensor]:
    """Return the losses of one stage as if those of the rows not in ``kept`` were 0.

    The host's losses are means over all proposals; here the sum over the kept ones is divided by
    the number of all R, as CutLER does.

    Args:
        predictor: The host's ``FastRCNNOutputLayers``.
        predictions: (R, K + 1) class logits and (R, 4) box deltas.
        proposals: With ``proposal_boxes``, ``gt_classes`` and, in an image with truth,
            ``gt_boxes``; one per image.
        kept: From ``kept_rows``.
    """
    together = Instances(proposals[0].image_size)
    together.proposal_boxes = Boxes.cat([p.proposal_boxes for p in proposals])[kept]
    # Newer hosts give the proposals of an image without truth no boxes; those are never used.
    truth = [p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes for p in proposals]
    together.gt_boxes = Boxes.cat(truth)[kept]
    together.gt_classes = torch.cat([p.gt_classes for p in proposals])[kept]
    total = sum(len(p) for p in proposals)
    losses = predictor.losses(tuple(part[kept] for part in predictions), [together])
    share = len(kept) / max(total, 1)
    return {name: loss * share for name, loss in losses.items()}


@ROI_MASK_HEAD_REGISTRY.register()
class OwnClassMaskHead(MaskRCNNConvUpsampleHead):  # type: ignore[misc]
    """The host's mask head, computing the mask of each object's own class alone.

    Losses and masks differ from the host's by rounding alone.
    """

    def forward(self, x: Tensor, instances: Sequence[Instances]) -> Any:
        """Return the loss in training; else the instances with ``pred_masks`` set.

        Args:
            x: (N, C, M / 2, M / 2) features of the boxes.
            instances: Of each image, in the order of ``x``; with ``gt_classes`` in training,
                ``pred_classes`` else.
        """
        if self.predictor.out_channels == 1:  # one mask for all classes
            return super().forward(x, instances)
        for layer in list(self)[:-1]:
            x = layer(x)
        field = "gt_classes" if self.training else "pred_classes"
        classes = torch.cat([i.get(field) for i in instances])
        logits = own_class_logits(x, self.predictor.weight, self.predictor.bias, classes)
        if self.training:
            loss = mask_rcnn_loss(logits, instances, self.vis_period)
            return {"loss_mask": loss * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances


def own_class_logits(x: Tensor, weight: Tensor, bias: Tensor, classes: Tensor) -> Tensor:
    """Return of a 1 x 1 convolution the channel of each object's class.

    Args:
        x: (N, C, M, M) features.
        weight: (K, C, 1, 1).
        bias: (K,).
        classes: (N,) int64, 0..K-1.

    Returns:
        (N, 1, M, M) logits.

    Examples:
        Two objects with one pixel of two channels; classes weigh them 1 : 0 and 1 : 10.

        >>> x = torch.tensor([[3.0, 4.0], [3.0, 4.0]])[:, :, None, None]
        >>> weight = torch.tensor([[1.0, 0.0], [1.0, 10.0]])[:, :, None, None]
        >>> bias = torch.tensor([0.5, 0.25])
        >>> own_class_logits(x, weight, bias, torch.tensor([1, 0])).flatten().tolist()
        [43.25, 3.5]
    """
    count, _, height, width = x.shape
    logits = torch.bmm(weight[classes].flatten(1)[:, None], x.flatten(2))
    return (logits + bias[classes][:, None, None]).reshape(count, 1, height, width)
