"""Relabel rules: what a trained model makes of the labels it was trained on.

Shapes: H x W pixels, K thing clusters, S stuff clusters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.config.rounds import AgreeSettings
from u2seg.config.schema import PanopticSettings, RoundSettings
from u2seg.errors import UserError
from u2seg.panoptic.merger import merge_panoptic
from u2seg.registry import Registry
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.structures.segmentation import Segmentation

RelabelRule = Callable[
    [Segmentation | None, Segmentation, Any, int, np.random.Generator], Segmentation
]
"""``rule(previous, prediction, settings, number, rng)``: the new label of an image.

``previous`` is the label so far (things as they are seen, not overlapping), None where there is
none; ``settings`` are the rule's own, None if it has none; ``number`` is the round, 1, 2, ...;
``rng`` is seeded by the image. The result has instances with clusters, stuff, or both; without a
``panoptic`` they are merged by ``PANOPTIC``. Each ``source`` among its instances is counted in
the manifest.
"""
RELABEL_RULES = Registry("relabel rule", section="ROUNDS")


COUNTS = ("predicted", "agreed", "kept", "replaced", "stuff_changed")


def relabel(
    previous: Segmentation | None,
    prediction: Segmentation,
    space: LabelSpace,
    settings: tuple[RoundSettings, PanopticSettings],
    number: int,
    seed: int = 0,
) -> tuple[PanopticLabel, dict[str, int]]:
    """Return the new label of an image by the rule of the settings.

    Args:
        previous: The label so far.
        prediction: What the model says.
        space: The numbering.
        settings: Of the rounds, and of the merge.
        number: The round, 1, 2, ...
        seed: Of the rule's random numbers.

    Returns:
        The label, and counts: things of every ``source`` (of ``agree``: ``predicted``, taken by
        score; ``agreed``, by agreement; ``kept``, previous ones), ``replaced`` (previous things
        that are not kept), ``stuff_changed`` (pixels whose stuff label is another than before).

    Raises:
        UserError: if the sizes differ: the label is of another photograph.
    """
    if previous is not None and previous.size != prediction.size:
        raise UserError(
            f"the label of an image of {previous.size} pixels and a prediction of "
            f"{prediction.size}: the previous labels are of other photographs"
        )
    rounds, merge = settings
    rule: RelabelRule = RELABEL_RULES.get(rounds.rule)
    own = RELABEL_RULES.own(rounds.rule, rounds)
    new = rule(previous, prediction, own, number, np.random.default_rng(seed))
    sources = Counter(mask.source or rounds.rule for mask in new.instances or ())
    old = len(previous.instances or ()) if previous else 0
    counts = {**dict.fromkeys(COUNTS, 0), **sources}
    counts["replaced"] = max(old - counts["kept"], 0)
    changed = stuff_clusters(new) != stuff_clusters(previous)
    counts["stuff_changed"] = int(np.count_nonzero(changed))
    return merged(new, space, merge), counts


def merged(
    segmentation: Segmentation, space: LabelSpace, settings: PanopticSettings
) -> PanopticLabel:
    """Return the panoptic label of a segmentation, made by the merge rule if it has none."""
    if segmentation.panoptic is not None:
        return segmentation.panoptic
    masks = segmentation.instances or ()
    clusters = [mask.cluster or 0 for mask in masks]
    stuff = stuff_clusters(segmentation)
    return merge_panoptic(masks, clusters, stuff, space, settings)


def stuff_clusters(segmentation: Segmentation | None) -> npt.NDArray[np.uint8]:
    """Return the stuff of a segmentation as clusters.

    Returns:
        (H, W) uint8: 0..S-1, 255 = void or thing.

    Examples:
        >>> target = np.array([[0, 1, 3, 255]], dtype=np.uint8)
        >>> stuff_clusters(Segmentation((1, 4), stuff=target)).tolist()
        [[255, 0, 2, 255]]
    """
    if segmentation is None:
        return np.array(VOID_STUFF, dtype=np.uint8)
    if segmentation.stuff is None:
        return np.full(segmentation.size, VOID_STUFF, dtype=np.uint8)
    table = np.arange(-1, 255, dtype=np.int64)
    table[0] = table[255] = VOID_STUFF
    return table.astype(np.uint8)[segmentation.stuff]


@RELABEL_RULES.register("agree", settings=AgreeSettings)
def agree(
    previous: Segmentation | None,
    prediction: Segmentation,
    settings: AgreeSettings,
    number: int,
    rng: np.random.Generator,
) -> Segmentation:
    """Return confident predictions, those that agree with the label, and what they leave of it.

    1. A predicted thing is taken if its score reaches ``settings.threshold(number)``, or reaches
       ``agreed_score`` while a previous thing of its cluster overlaps it with ``agree_iou``.
    2. A previous thing stays if its IoU with every taken one is below ``keep_iou``; its score
       becomes at most ``agreed_score``, so that what was predicted lies on top.
    3. A pixel gets the model's stuff class (or none, where a thing is likelier) if the model is
       as sure as ``stuff_score``, else keeps its stuff label.

    Source: CutLER (Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance
    Segmentation", CVPR 2023, section 3.4; commit cca0a27): confident predictions become labels,
    and labels that no prediction overlaps stay. Agreement with the previous labels, and stuff, are
    ours.

    Examples:
        The prediction (0.9) covers one of two old things; of the stuff, one pixel is sure.

        >>> rows = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
        >>> new, old, far = (InstanceMask.from_array(r[None], 0.9, cluster=0) for r in rows)
        >>> before = Segmentation((1, 4), (old, far), np.array([[0, 0, 1, 0]], np.uint8))
        >>> says = Segmentation((1, 4), (new,), np.array([[0, 0, 2, 2]], np.uint8),
        ...                     np.array([[0.5, 0.5, 1.0, 0.5]], np.float32))
        >>> label = agree(before, says, AgreeSettings(), 1, np.random.default_rng(0))
        >>> [(m.source, m.area, m.score) for m in label.instances], label.stuff.tolist()
        ([('predicted', 2, 0.9), ('kept', 1, 0.5)], [[0, 0, 2, 0]])
    """
    new = [mask for mask in prediction.instances or () if mask.area]
    old = list(previous.instances or ()) if previous else []
    overlap = _overlap(new, old)
    sure = np.array([mask.score >= settings.threshold(number) for mask in new], dtype=bool)
    agreed = ~sure & _confirmed(new, old, overlap, settings)
    taken = sure | agreed
    stays = ~np.any(overlap[taken] >= settings.keep_iou, axis=0)
    names = ("agreed", "predicted")
    label = [replace(new[i], source=names[int(sure[i])]) for i in np.flatnonzero(taken)]
    for mask, stay in zip(old, stays, strict=True):
        if stay:
            label.append(replace(mask, score=min(mask.score, settings.agreed_score), source="kept"))
    return Segmentation(prediction.size, tuple(label), _stuff(previous, prediction, settings))


def _stuff(
    previous: Segmentation | None, prediction: Segmentation, settings: AgreeSettings
) -> npt.NDArray[np.uint8] | None:
    before = previous.stuff if previous else None
    now, sure = prediction.stuff, prediction.confidence
    if now is None or settings.stuff_score >= 1:
        return before
    if before is None:
        before = np.full(prediction.size, VOID_STUFF, dtype=np.uint8)
    if sure is None:
        return now
    return np.where(sure >= settings.stuff_score, now, before).astype(np.uint8)


def _overlap(new: Sequence[InstanceMask], old: Sequence[InstanceMask]) -> npt.NDArray[np.float64]:
    """Return the (n, m) IoU of new and old masks."""
    if not new or not old:
        return np.zeros((len(new), len(old)))
    found = coco_mask.iou([m.rle for m in new], [m.rle for m in old], [0] * len(old))
    return np.asarray(found, dtype=np.float64)


def _confirmed(
    new: Sequence[InstanceMask],
    old: Sequence[InstanceMask],
    overlap: npt.NDArray[np.float64],
    settings: AgreeSettings,
) -> npt.NDArray[np.bool_]:
    """Return which predictions have the score and the previous thing for an agreement."""
    same = np.array([[n.cluster == o.cluster for o in old] for n in new], dtype=bool)
    scores = np.array([mask.score for mask in new], dtype=np.float64)
    agrees = (same.reshape(overlap.shape) & (overlap >= settings.agree_iou)).any(axis=1)
    found: npt.NDArray[np.bool_] = agrees & (scores >= settings.agreed_score)
    return found
