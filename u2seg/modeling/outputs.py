"""Outputs of Detectron2's models as a ``Segmentation``: their only translator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask, encode_mask
from u2seg.structures.segmentation import Segmentation, panoptic_label


def segmentation_of_outputs(outputs: dict[str, Any], space: LabelSpace) -> Segmentation:
    """Return the plain values of one element of a model's output.

    Args:
        outputs: What the model knows: ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``
            0..K-1, ``pred_masks`` (N, H, W) bool), ``panoptic_seg`` (id map, segments with
            ``category_id`` 0..K-1 for things, 1..S for stuff), ``sem_seg`` (S + 1, H, W) logits.
        space: The model's label space.
    """
    instances = outputs.get("instances")
    size, masks, stuff, confidence, label = (0, 0), None, None, None, None
    if instances is not None and instances.has("pred_masks"):
        size, masks = instances.image_size, _instances(instances, space)
    if "sem_seg" in outputs:
        logits = outputs["sem_seg"].float()
        best, classes = logits.max(dim=0)
        confidence = torch.exp(best - torch.logsumexp(logits, dim=0)).cpu().numpy()
        stuff = classes.cpu().numpy().astype(np.uint8)
        size = stuff.shape
    if "panoptic_seg" in outputs:
        ids, infos = outputs["panoptic_seg"]
        label = panoptic_label(ids.cpu().numpy().astype(np.int32), infos, space)
        size = label.ids.shape
    height, width = size
    return Segmentation((height, width), masks, stuff, confidence, label, space)


def _instances(instances: Any, space: LabelSpace) -> tuple[InstanceMask, ...]:
    scores = instances.scores.cpu().numpy()
    boxes = instances.pred_boxes.tensor.cpu().numpy()
    classes = instances.pred_classes.cpu().numpy()
    masks = instances.pred_masks.cpu().numpy().astype(bool)
    found = []
    for index in np.argsort(-scores, kind="stable"):
        left, top, right, bottom = (float(v) for v in boxes[index])
        found.append(
            InstanceMask(
                rle=encode_mask(masks[index]),
                score=float(scores[index]),
                bbox=(left, top, right - left, bottom - top),
                area=int(np.count_nonzero(masks[index])),
                cluster=space.thing_category(int(classes[index])) - 1,
            )
        )
    return tuple(found)
