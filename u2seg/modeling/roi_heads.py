"""Cascade ROI heads for pseudo-labels: the host's, with drop-loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from u2seg.modeling.droploss import kept_rows, stage_losses
from u2seg.modeling.roi_align import RowPooling
from u2seg.modeling.sampling import SharedCascade


@ROI_HEADS_REGISTRY.register()
class PseudoCascadeROIHeads(RowPooling, SharedCascade, CascadeROIHeads):  # type: ignore[misc]
    """Cascade heads that do not punish predictions the pseudo-labels know nothing of.

    Parameters and their names are those of ``CascadeROIHeads``.

    Args:
        droploss_iou: ``U2SEG.TRAIN.DROPLOSS_IOU``; None = the host's losses, unchanged.
        host: Arguments of ``CascadeROIHeads``.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(self, *, droploss_iou: float | None = None, **host: Any) -> None:
        super().__init__(**host)
        self.droploss_iou = droploss_iou

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments; the drop-loss is from ``U2SEG.TRAIN``."""
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        train = cfg.U2SEG.TRAIN
        arguments["droploss_iou"] = float(train.DROPLOSS_IOU) if train.DROPLOSS else None
        return arguments

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
                found = stage_losses(predictor, predictions, proposals, kept)
            dropped = sum(len(b) for b in boxes) - len(kept)
            storage.put_scalar(f"stage{stage}/roi_head/num_dropped", dropped / len(sizes))
            losses.update({f"{name}_stage{stage}": value for name, value in found.items()})
        return losses
