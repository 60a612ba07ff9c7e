"""The host's RPN and cascade heads, with a generator per image; see ``modeling.sampling``.

Parameters and their names are those of the host.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.roi_heads import CascadeROIHeads

from u2seg.modeling.roi_align import RowPooling
from u2seg.modeling.sampling import ANCHORS, SeededSampling, SharedCascade, sample_labels


@PROPOSAL_GENERATOR_REGISTRY.register()
class SeededRPN(SeededSampling, RPN):  # type: ignore[misc]
    """Region proposals whose training anchors depend on the image's seed alone."""

    def label_and_sample_anchors(self, anchors: Any, gt_instances: Any) -> Any:
        """Return labels (1 object, 0 none, -1 not sampled) and boxes, as the host does."""
        self.begin_batch()
        return super().label_and_sample_anchors(anchors, gt_instances)

    def _subsample_labels(self, label: torch.Tensor) -> torch.Tensor:
        generator = self.next_generator(ANCHORS, label.device)
        if generator is None:
            return super()._subsample_labels(label)  # type: ignore[no-any-return]
        chosen = sample_labels(
            label, self.batch_size_per_image, self.positive_fraction, 0, generator
        )
        label.fill_(-1)
        label[chosen[0]] = 1
        label[chosen[1]] = 0
        return label


@ROI_HEADS_REGISTRY.register()
class SeededCascadeROIHeads(RowPooling, SharedCascade, CascadeROIHeads):  # type: ignore[misc]
    """Cascade heads whose training proposals depend on the image's seed alone."""
