"""Which predictions of a cascade stage are left out of its losses.

Source: U2Seg (arXiv 2312.17243, section 3.4) and CutLER (arXiv 2301.11320, section 3.3): a
prediction that overlaps no pseudo-mask may well be an object that the labels miss, so it is not
taught to be background.
Deviations from CutLER's code (commit cca0a27): the IoU is taken with the image's whole list of
pseudo-boxes, not with the first few matched ones; and, as both papers say, every ROI loss of such
a prediction is left out, not the class loss alone. The box loss differs in one case only: a
proposal that matches a pseudo-box and is moved away from all of them.

Shapes: N images, R_n predictions and G_n pseudo-boxes of image n, R = sum of R_n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou


def kept_rows(
    predicted: Sequence[torch.Tensor], targets: Sequence[Boxes], threshold: float
) -> torch.Tensor:
    """Return the rows of the predictions that keep their losses.

    Args:
        predicted: (R_n, 4) boxes (x0, y0, x1, y1) in pixels, one tensor per image.
        targets: The G_n pseudo-boxes of each image; in an image with none, nothing overlaps, so
            every prediction is dropped.
        threshold: A prediction is dropped if its largest IoU is at most this, 0..1.

    Returns:
        (<= R,) int64 indices into all predictions, ascending. A box that is not finite is kept,
        so that its loss still stops the training.

    Examples:
        Of two predictions one covers a quarter of the pseudo-box, the other lies elsewhere.

        >>> boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0], [20.0, 20.0, 30.0, 30.0]])
        >>> truth = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
        >>> kept_rows([boxes], [truth], 0.01).tolist(), kept_rows([boxes], [truth], 0.25).tolist()
        ([0], [])
    """
    overlaps = [_largest_iou(boxes, truth) for boxes, truth in zip(predicted, targets, strict=True)]
    finite = torch.isfinite(torch.cat(list(predicted))).all(dim=1)
    return torch.nonzero((torch.cat(overlaps) > threshold) | ~finite)[:, 0]


def stage_losses(
    predictor: Any, predictions: Any, proposals: Sequence[Instances], kept: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the losses of one stage as if those of the rows not in ``kept`` were 0.

    The host's losses are means over all proposals; here the sum over the kept ones is divided by
    the number of all R, as CutLER does.

    Args:
        predictor: The host's ``FastRCNNOutputLayers``.
        predictions: (R, K + 1) class logits and (R, 4) box deltas.
        proposals: With ``proposal_boxes``, ``gt_classes`` and, in an image with truth,
            ``gt_boxes``; one per image.
        kept: From ``kept_rows``.

    Returns:
        ``loss_cls`` and ``loss_box_reg``; with no row kept they are 0, with gradients of 0.
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


def _largest_iou(boxes: torch.Tensor, truth: Boxes) -> torch.Tensor:
    if len(truth) == 0:
        return boxes.new_zeros(len(boxes))
    overlaps: torch.Tensor = pairwise_iou(Boxes(boxes), truth)
    return overlaps.amax(dim=1)
