"""Cascade Mask R-CNN alone: the panoptic model without its semantic head.

U2Seg trains instance segmentation with this model; its panoptic one is 2 AP50 worse at it (arXiv
2312.17243, Table A5). Parameter names are those of the host's ``GeneralizedRCNN`` with
``CascadeROIHeads``, so CutLER's and U2Seg's checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN

from u2seg.modeling.combine import CombineRules, combine_panoptic
from u2seg.modeling.panoptic_cascade import Sample, check_instance_heads
from u2seg.modeling.sampling import CommonPadding, give_seeds, weigh_losses, with_own_parts


@META_ARCH_REGISTRY.register()
class InstanceCascadeRCNN(CommonPadding, GeneralizedRCNN):  # type: ignore[misc]
    """Instance segmentation of K thing clusters.

    In training it takes the samples of the panoptic model and leaves ``sem_seg`` alone.

    Args:
        cfg: Detectron2 config; ``MODEL.PANOPTIC_FPN.COMBINE`` says which instances become
            segments of the panoptic map.

    Raises:
        UserError: as ``check_instance_heads``, or if a threshold is out of range.
    """

    def __init__(self, cfg: Any) -> None:
        check_instance_heads(cfg)
        combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
        super().__init__(with_own_parts(cfg))
        self.combine_rules = CombineRules(
            overlap=float(combine.OVERLAP_THRESH),
            stuff_area=float(combine.STUFF_AREA_LIMIT),
            instance_score=float(combine.INSTANCES_CONFIDENCE_THRESH),
        )

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
        """Return the predictions of a batch.

        Args:
            batched_inputs: One dictionary per image, ``image`` (C, h, w) in the channel order of
                ``INPUT.FORMAT``, 0..255, and optionally ``height`` and ``width`` of the output.
            detected_instances: As in the host: boxes to predict masks for; None = detect them.
            do_postprocess: False returns the raw instances, as the host does.

        Returns:
            One dictionary per image, at its output size H x W: ``instances`` and
            ``panoptic_seg`` as of ``PanopticCascadeRCNN``, where pixels of no thing are void.
        """
        outputs = super().inference(batched_inputs, detected_instances, do_postprocess)
        if not do_postprocess:
            return outputs
        return [self._with_panoptic(output["instances"]) for output in outputs]

    def _with_panoptic(self, instances: Any) -> dict[str, Any]:
        masks = instances.pred_masks
        nowhere = masks.new_zeros((1, *instances.image_size)).float()  # "any thing" everywhere
        combined = combine_panoptic(
            masks, instances.scores, instances.pred_classes, nowhere, self.combine_rules
        )
        return {"instances": instances, "panoptic_seg": (combined.ids, combined.segments)}
