"""Instances + semantic map -> one panoptic segmentation.

Shapes: N instances, S stuff classes, H x W pixels of the output.
Source: Kirillov et al., "Panoptic Segmentation", 2019, section 7, and "Panoptic Feature Pyramid
Networks", 2019, section 3; the rules and their defaults are those of Detectron2's
``MODEL.PANOPTIC_FPN.COMBINE``.
Deviation: stuff segments carry a score, the mean probability of their class on their pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from u2seg.errors import UserError
from u2seg.structures.labels import ANY_THING


@dataclass(frozen=True)
class CombineRules:
    """Thresholds, from ``MODEL.PANOPTIC_FPN.COMBINE``.

    Args:
        overlap: ``OVERLAP_THRESH``, 0..1: an instance is dropped if more than this share of its
            mask is taken by instances with higher scores.
        stuff_area: ``STUFF_AREA_LIMIT``, pixels >= 0: a stuff class with fewer pixels left is
            dropped.
        instance_score: ``INSTANCES_CONFIDENCE_THRESH``, 0..1: instances below are dropped.

    Raises:
        UserError: if a value is out of range.
    """

    overlap: float = 0.5
    stuff_area: float = 4096
    instance_score: float = 0.5

    @classmethod
    def of(cls, cfg: Any) -> CombineRules:
        """Return the rules of a config."""
        node = cfg.MODEL.PANOPTIC_FPN.COMBINE
        names = "OVERLAP_THRESH", "STUFF_AREA_LIMIT", "INSTANCES_CONFIDENCE_THRESH"
        return cls(*(float(node[name]) for name in names))

    def __post_init__(self) -> None:
        shares = (
            ("OVERLAP_THRESH", self.overlap),
            ("INSTANCES_CONFIDENCE_THRESH", self.instance_score),
        )
        for key, value in shares:
            if not 0 <= value <= 1:
                raise UserError(f"MODEL.PANOPTIC_FPN.COMBINE.{key} is {value}, expected 0..1")
        if self.stuff_area < 0:
            raise UserError(
                f"MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT is {self.stuff_area}, expected a "
                "number of pixels >= 0"
            )


def combine_panoptic(
    masks: torch.Tensor,
    scores: torch.Tensor,
    classes: torch.Tensor,
    semantic: torch.Tensor,
    rules: CombineRules,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Return the panoptic segmentation of one image.

    Args:
        masks: (N, H, W) bool; N may be 0 and masks may be empty or overlap.
        scores: (N,) float in 0..1, any order; of equal scores the earlier row goes first.
        classes: (N,) int64, 0..K-1.
        semantic: (S + 1, H, W) float logits; row 0 is "any thing", which never becomes a
            segment.
        rules: Thresholds.

    Returns:
        The id map, (H, W) int32 on the device of ``semantic``: 0 = void, else the ``id`` of one
        segment; and the segments in the order of their ids 1, 2, ...: ``id``, ``isthing``,
        ``category_id`` (things: class 0..K-1; stuff: 1..S), ``score`` in 0..1, ``area`` in
        pixels; of things also ``instance_id``, their row.

    Examples:
        One row of three pixels: a thing on the first, stuff class 1 wins the other two.

        >>> logits = torch.tensor([[[4.0, 0.0, 0.0]], [[0.0, 0.0, 9.0]], [[0.0, -9.0, 0.0]]])
        >>> logits[1, 0, 1] = 2.0
        >>> thing = torch.tensor([[[True, False, False]]])
        >>> rules = CombineRules(stuff_area=1)
        >>> ids, found = combine_panoptic(thing, torch.ones(1), torch.tensor([7]), logits, rules)
        >>> ids.tolist(), [(s["category_id"], s["area"]) for s in found]
        ([[1, 2, 2]], [(7, 1), (1, 2)])
    """
    if masks.ndim != 3 or semantic.ndim != 3 or masks.shape[1:] != semantic.shape[1:]:
        raise ValueError(
            f"masks {tuple(masks.shape)} and semantic logits {tuple(semantic.shape)} must be "
            "(N, H, W) and (S + 1, H, W) of the same size"
        )
    if not len(masks) == len(scores) == len(classes):
        raise ValueError(f"{len(masks)} masks, {len(scores)} scores, {len(classes)} classes")
    ids = torch.zeros(semantic.shape[1:], dtype=torch.int32, device=semantic.device)
    things = _paint_things(ids, masks.to(ids.device), scores.cpu(), classes.cpu(), rules)
    return ids, things + _paint_stuff(ids, semantic, len(things), rules)


def _paint_things(
    ids: torch.Tensor,
    masks: torch.Tensor,
    scores: torch.Tensor,
    classes: torch.Tensor,
    rules: CombineRules,
) -> list[dict[str, Any]]:
    segments: list[dict[str, Any]] = []
    for index in torch.argsort(scores, descending=True, stable=True).tolist():
        score = float(scores[index])
        if score < rules.instance_score:
            break
        mask = masks[index].bool()
        free = mask & (ids == 0)
        area, visible = int(mask.sum()), int(free.sum())
        # No pixel left is no segment, even where the threshold would allow full overlap.
        if visible == 0 or (area - visible) / area > rules.overlap:
            continue
        ids[free] = len(segments) + 1
        segments.append(
            {
                "id": len(segments) + 1,
                "isthing": True,
                "category_id": int(classes[index]),
                "score": score,
                "area": visible,
                "instance_id": index,
            }
        )
    return segments


def _paint_stuff(
    ids: torch.Tensor, semantic: torch.Tensor, used: int, rules: CombineRules
) -> list[dict[str, Any]]:
    top, labels = semantic.float().max(dim=0)
    # softmax of the winner alone: no second (S + 1, H, W) array
    confidence = torch.exp(top - torch.logsumexp(semantic.float(), dim=0))
    segments: list[dict[str, Any]] = []
    for label in torch.unique(labels).tolist():
        if label == ANY_THING:
            continue
        mask = (labels == label) & (ids == 0)
        area = int(mask.sum())
        if area == 0 or area < rules.stuff_area:
            continue
        number = used + len(segments) + 1
        ids[mask] = number
        segments.append(
            {
                "id": number,
                "isthing": False,
                "category_id": label,
                "score": float(confidence[mask].mean()),
                "area": area,
            }
        )
    return segments
