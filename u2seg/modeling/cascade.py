"""Cascade Mask R-CNN with a semantic head (Panoptic FPN) and alone, as U2Seg trains them.

The modules and parameter names are those of the host's ``PanopticFPN`` and ``GeneralizedRCNN`` with
``CascadeROIHeads``, so its checkpoints, and those of CutLER and U2Seg, load as they are. The
panoptic forward passes are written out here, on calls that Detectron2 0.5, 0.6 and main share.

Source: U2Seg (arXiv 2312.17243, section 3.4); Kirillov et al., "Panoptic Feature Pyramid
Networks", 2019; Cai and Vasconcelos, "Cascade R-CNN", 2018.
Deviations: a batch whose stuff targets are void everywhere has semantic loss 0, not NaN;
``MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT`` works with cascade heads, where the host's fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import Tensor

from u2seg.errors import UserError
from u2seg.modeling.combine import CombineRules, combine_panoptic
from u2seg.modeling.heads import Counts, give_seeds, with_own_parts
from u2seg.modeling.host_student import HostStudent, box_stages
from u2seg.modeling.student import STUDENTS, Sample

SEMANTIC_LOSS = "loss_sem_seg"
GROUPS = 32
"""Groups of the host's group normalization."""


class CommonPadding:
    """Mixin of models: with ``common_padding`` all processes pad to the largest image of any."""

    training: bool
    common_padding = False

    def preprocess_image(self, batched_inputs: Any) -> ImageList:
        """Return the normalized images of a batch, padded at the right and bottom."""
        images: ImageList = super().preprocess_image(batched_inputs)  # type: ignore[misc]
        if not (self.training and self.common_padding) or comm.get_world_size() == 1:
            return images
        height, width = images.tensor.shape[-2:]
        largest = torch.tensor([height, width], device=images.tensor.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        missing = [side - own for side, own in zip(largest.tolist(), (height, width), strict=True)]
        padded = F.pad(images.tensor, (0, missing[1], 0, missing[0]))
        return ImageList(padded, images.image_sizes)


@STUDENTS.register("PanopticCascadeRCNN")
@META_ARCH_REGISTRY.register()
class PanopticCascadeRCNN(HostStudent, CommonPadding, PanopticFPN):  # type: ignore[misc]
    """Panoptic segmentation of K thing clusters and S stuff clusters.

    Built from a config: ``MODEL.ROI_HEADS.NUM_CLASSES`` = K,
    ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` = S + 1 (0 = any thing).
    """

    tasks = frozenset({"things", "stuff"})

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        _check_config(cfg)
        weight = float(cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT)
        plain = with_own_parts(cfg)
        plain.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 1.0
        arguments: dict[str, Any] = super().from_config(plain)
        scale_instance_losses(arguments["roi_heads"], weight)
        return arguments

    @property
    def combine_rules(self) -> CombineRules:
        """Thresholds of the panoptic combination, from ``MODEL.PANOPTIC_FPN.COMBINE``."""
        return CombineRules(
            overlap=float(self.combine_overlap_thresh),
            stuff_area=float(self.combine_stuff_area_thresh),
            instance_score=float(self.combine_instances_score_thresh),
        )

    def forward(self, batched_inputs: Sequence[Sample]) -> Any:
        """Return the losses in training mode, the predictions else."""
        if not self.training:
            return self.inference(batched_inputs)
        give_seeds(self, batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        losses, counts = self._semantic_loss(features, images.tensor.shape[-2:], batched_inputs)
        instances = [sample["instances"].to(self.device) for sample in batched_inputs]
        proposals, proposal_losses = self.proposal_generator(images, features, instances)
        _, detector_losses = self.roi_heads(images, features, proposals, instances)
        counts = {**counts, **getattr(self.roi_heads, "loss_counts", {})}
        return weigh_losses({**losses, **proposal_losses, **detector_losses}, counts)

    def _semantic_loss(
        self, features: Any, size: torch.Size, samples: Sequence[Sample]
    ) -> tuple[dict[str, Tensor], Counts]:
        """Return the loss and over how many pixels it is the mean."""
        ignore = self.sem_seg_head.ignore_value
        maps = [sample["sem_seg"].to(self.device) for sample in samples]
        targets = pad_targets(maps, size, ignore)
        pixels = (targets != ignore).sum()
        if not bool(pixels):
            # The mean over no pixel is NaN; touch every parameter, as DistributedDataParallel
            # waits for each one's gradient.
            zero = sum(p.sum() for p in self.sem_seg_head.parameters()) * 0.0
            return {SEMANTIC_LOSS: zero}, {SEMANTIC_LOSS: pixels}
        losses: dict[str, Tensor] = self.sem_seg_head(features, targets)[1]
        return losses, {SEMANTIC_LOSS: pixels}

    def inference(self, batched_inputs: Sequence[Sample], do_postprocess: bool = True) -> Any:
        """Return the predictions of a batch.

        Returns:
            One dictionary per image, at its output size H x W:

            - ``instances``: host's ``Instances`` with ``pred_boxes`` (x0, y0, x1, y1),
              ``scores``, ``pred_classes`` (0..K-1), ``pred_masks`` (N, H, W) bool.
            - ``sem_seg``: (S + 1, H, W) logits.
            - ``panoptic_seg``: see ``combine_panoptic``.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        semantic, _ = self.sem_seg_head(features, None)
        proposals, _ = self.proposal_generator(images, features, None)
        instances, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return instances, semantic
        return [
            self._finish(detected, logits, size, sample)
            for detected, logits, size, sample in zip(
                instances, semantic, images.image_sizes, batched_inputs, strict=True
            )
        ]

    def _finish(self, detected: Any, logits: Tensor, size: Any, sample: Sample) -> dict[str, Any]:
        height, width = (
            int(sample.get(key, side)) for key, side in zip(("height", "width"), size, strict=True)
        )
        semantic = sem_seg_postprocess(logits, size, height, width)
        instances = detector_postprocess(detected, height, width)
        panoptic = _panoptic(instances, semantic, self.combine_rules)
        return {"sem_seg": semantic, "instances": instances, "panoptic_seg": panoptic}


@STUDENTS.register("InstanceCascadeRCNN")
@META_ARCH_REGISTRY.register()
class InstanceCascadeRCNN(HostStudent, CommonPadding, GeneralizedRCNN):  # type: ignore[misc]
    """Instance segmentation of K thing clusters: the panoptic model without its semantic head.

    U2Seg trains instance segmentation with this model; its panoptic one is 2 AP50 worse at it
    (arXiv 2312.17243, Table A5).
    """

    tasks = frozenset({"things"})

    def __init__(self, cfg: Any) -> None:
        check_instance_heads(cfg)
        rules = CombineRules.of(cfg)
        super().__init__(with_own_parts(cfg))
        self.combine_rules = rules

    def forward(self, batched_inputs: Sequence[Sample]) -> Any:
        """Return the losses in training mode, the predictions else, as ``PanopticCascadeRCNN``."""
        if not self.training:
            return super().forward(batched_inputs)
        give_seeds(self, batched_inputs)
        losses = super().forward(batched_inputs)
        return weigh_losses(losses, getattr(self.roi_heads, "loss_counts", {}))

    def inference(
        self,
        batched_inputs: Sequence[Sample],
        detected_instances: Any = None,
        do_postprocess: bool = True,
    ) -> Any:
        """Return the predictions of a batch, as the host does, with ``panoptic_seg``.

        It is as that of ``PanopticCascadeRCNN``; pixels of no thing are void.
        """
        outputs = super().inference(batched_inputs, detected_instances, do_postprocess)
        if not do_postprocess:
            return outputs
        found = [output["instances"] for output in outputs]
        return [
            {"instances": i, "panoptic_seg": _panoptic(i, None, self.combine_rules)} for i in found
        ]


def _panoptic(instances: Any, semantic: Tensor | None, rules: CombineRules) -> Any:
    """Combine an image; without a semantic map "any thing" is everywhere."""
    masks = instances.pred_masks
    if semantic is None:
        semantic = masks.new_zeros((1, *instances.image_size)).float()
    return combine_panoptic(masks, instances.scores, instances.pred_classes, semantic, rules)


def pad_targets(maps: Sequence[Tensor], size: Sequence[int], ignore: int) -> Tensor:
    """Return stuff targets of one batch, padded at the right and bottom as its images are.

    Args:
        maps: (h, w) integer maps, each at most ``size``.
        size: (H, W) of the padded images.
        ignore: Value of the padding.

    Returns:
        (B, H, W) int64.

    Examples:
        >>> pad_targets([torch.tensor([[1]])], (2, 2), 255).tolist()
        [[[1, 255], [255, 255]]]
    """
    height, width = size
    return torch.stack(
        [
            F.pad(m.long(), (0, width - m.shape[1], 0, height - m.shape[0]), value=ignore)
            for m in maps
        ]
    )


def scale_instance_losses(roi_heads: Any, weight: float) -> None:
    """Multiply the class, box and mask losses of cascade ROI heads by ``weight``, in place."""
    both = {"loss_cls": 1.0, "loss_box_reg": 1.0}
    for stage in box_stages(roi_heads):
        given = stage.loss_weight
        weights = {**both, **given} if isinstance(given, dict) else dict.fromkeys(both, given)
        stage.loss_weight = {name: value * weight for name, value in weights.items()}
    roi_heads.mask_head.loss_weight = roi_heads.mask_head.loss_weight * weight


def check_instance_heads(cfg: Any) -> None:
    """Raise UserError for settings that the host's cascade heads stumble over."""
    model = cfg.MODEL
    if not model.MASK_ON:
        raise UserError(
            f"MODEL.MASK_ON is False, {model.META_ARCHITECTURE} needs the mask head: True"
        )
    if not model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise UserError(
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False, cascade heads need True: each "
            "stage refines the boxes of the one before"
        )
    first, matched = model.ROI_BOX_CASCADE_HEAD.IOUS[0], model.ROI_HEADS.IOU_THRESHOLDS[0]
    if first != matched:
        raise UserError(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS starts with {first}, but "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS is [{matched}]: they must be equal"
        )


def _check_config(cfg: Any) -> None:
    check_instance_heads(cfg)
    model = cfg.MODEL
    if model.SEM_SEG_HEAD.NUM_CLASSES < 1:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {model.SEM_SEG_HEAD.NUM_CLASSES}, expected the "
            "number of stuff clusters + 1 (0 = any thing)"
        )
    if model.SEM_SEG_HEAD.NORM == "GN" and model.SEM_SEG_HEAD.CONVS_DIM % GROUPS:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.CONVS_DIM is {model.SEM_SEG_HEAD.CONVS_DIM}, expected a multiple "
            f"of {GROUPS}, as its NORM is GN with {GROUPS} groups"
        )
    CombineRules.of(cfg)


def weigh_losses(losses: dict[str, Tensor], counts: Counts) -> dict[str, Tensor]:
    """Return losses whose mean over the processes is the mean over the whole batch.

    A mean over n_r of n things counts W x n_r / n, so that the averaged gradients are those of
    one process with the whole batch. All of the W processes must call this together; one alone
    changes nothing.
    """
    names = [name for name in sorted(counts) if name in losses]
    if comm.get_world_size() == 1 or not names:
        return losses
    device = losses[names[0]].device
    local = torch.stack([torch.as_tensor(counts[n], device=device).double() for n in names])
    total = local.clone()
    dist.all_reduce(total)
    factors = local * comm.get_world_size() / total.clamp(min=1)
    weighed = {n: losses[n] * f.to(losses[n].dtype) for n, f in zip(names, factors, strict=True)}
    return {**losses, **weighed}
