"""A mask head that computes the one mask of each object that is asked for.

The host's last layer computes a mask for every class and then takes that of the object's own
class. With hundreds of clusters that is most of the work and of the memory: at 800 clusters 0.32
of 1.35 GFLOP for an object, and 2.5 MB of logits in float32 of which 3 kB are used.

Shapes: N objects of all images, C channels, K classes, M x M pixels of a mask (28 x 28).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances


@ROI_MASK_HEAD_REGISTRY.register()
class OwnClassMaskHead(MaskRCNNConvUpsampleHead):  # type: ignore[misc]
    """The host's ``MaskRCNNConvUpsampleHead``: the same parameters, losses and masks.

    Losses and masks differ from the host's by rounding alone.
    """

    def forward(self, x: torch.Tensor, instances: Sequence[Instances]) -> Any:
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


def own_class_logits(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
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
    logits = logits + bias[classes][:, None, None]
    return logits.reshape(count, 1, height, width)
