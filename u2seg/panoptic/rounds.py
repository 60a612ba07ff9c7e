"""What a trained model makes of the labels it was trained on: one round of self-training.

Shapes: H x W pixels, K thing clusters, S stuff clusters.
Source: CutLER (Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance
Segmentation", CVPR 2023, section 3.4; commit cca0a27): confident predictions become labels, and
labels that no prediction overlaps stay. Agreement with the previous labels, and stuff, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.config.schema import PanopticSettings, RoundSettings
from u2seg.errors import UserError
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.guess import Guess
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel

StuffMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Previous:
    """The label that an image has so far.

    Args:
        masks: Its things, as they are seen: they do not overlap.
        clusters: Their cluster ids, 0..K-1.
        stuff: (H, W) uint8, 0..S-1; 255 = void or under a thing.
    """

    masks: Sequence[InstanceMask]
    clusters: Sequence[int]
    stuff: StuffMap


class Teacher(Protocol):
    """A trained model. Label generation knows none: whoever starts a round hands one over."""

    def __call__(self, image: npt.NDArray[np.uint8]) -> Guess:
        """Return what the model says of an (H, W, 3) uint8 RGB photograph."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Return digests of everything that decides a guess, for the run's plan."""
        ...


def relabel(
    guess: Guess,
    previous: Previous,
    space: LabelSpace,
    settings: tuple[RoundSettings, PanopticSettings],
    number: int,
) -> tuple[PanopticLabel, dict[str, int]]:
    """Return the new label of an image.

    1. A predicted thing is taken if its score reaches ``settings.threshold(number)``, or reaches
       ``agreed_score`` while a previous thing of its cluster overlaps it with ``agree_iou``.
    2. A previous thing stays if its IoU with every taken one is below ``keep_iou``; its score
       becomes at most ``agreed_score``, so that what was predicted lies on top.
    3. A pixel gets the model's stuff class (or none, where a thing is likelier) if the model is
       as sure as ``stuff_score``, else keeps its stuff label.
    4. The three are merged by the rule of ``PANOPTIC``.

    Args:
        guess: Of the model.
        previous: The label so far.
        space: The numbering.
        settings: Of self-training and of the merge.
        number: The round, 1, 2, ...

    Returns:
        The label, and counts: ``predicted`` (things taken by score), ``agreed`` (by agreement),
        ``kept`` (previous things that stay), ``replaced`` (previous things that do not),
        ``stuff_changed`` (pixels whose stuff label is another than before).

    Raises:
        UserError: if the sizes differ: the label is of another photograph.

    Examples:
        The prediction (0.9) covers one of two old things; of the stuff, one pixel is sure.

        >>> rows = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
        >>> new, old, far = (InstanceMask.from_array(r[None], 0.9) for r in rows)
        >>> stuff = np.array([[255, 255, 0, 255]], dtype=np.uint8)
        >>> guess = Guess([new], [1], np.array([[255, 255, 1, 1]], dtype=np.uint8),
        ...               np.array([[0.5, 0.5, 1.0, 0.5]], dtype=np.float32))
        >>> label, counts = relabel(guess, Previous([old, far], [0, 0], stuff), LabelSpace(2, 2),
        ...                         (RoundSettings(), PanopticSettings()), 1)
        >>> [(s.category_id, s.area, s.score) for s in label.segments]
        [(1, 1, 0.5), (2, 2, 0.9), (4, 1, 1.0)]
        >>> counts
        {'predicted': 1, 'agreed': 0, 'kept': 1, 'replaced': 1, 'stuff_changed': 1}
    """
    rounds, merge = settings
    _check_sizes(guess, previous)
    overlap = _overlap(guess.masks, previous.masks)
    sure, agreed = _taken(guess, previous, overlap, rounds, number)
    taken = sure | agreed
    stays: npt.NDArray[np.bool_] = ~np.any(overlap[taken] >= rounds.keep_iou, axis=0)
    masks = [m for m, use in zip(guess.masks, taken, strict=True) if use]
    clusters = [int(c) for c, use in zip(guess.clusters, taken, strict=True) if use]
    for mask, cluster, stay in zip(previous.masks, previous.clusters, stays, strict=True):
        if stay:
            score = min(mask.score, rounds.agreed_score)
            masks.append(InstanceMask(mask.rle, score, mask.bbox, mask.area))
            clusters.append(int(cluster))
    stuff = np.where(guess.sure >= rounds.stuff_score, guess.stuff, previous.stuff)
    if rounds.stuff_score >= 1:
        stuff = previous.stuff
    counts = {
        "predicted": int(sure.sum()),
        "agreed": int(agreed.sum()),
        "kept": int(stays.sum()),
        "replaced": int((~stays).sum()),
        "stuff_changed": int(np.count_nonzero(stuff != previous.stuff)),
    }
    return merge_panoptic(masks, clusters, stuff.astype(np.uint8), space, merge), counts


def _check_sizes(guess: Guess, previous: Previous) -> None:
    sizes = {guess.stuff.shape, previous.stuff.shape, guess.sure.shape}
    sizes |= {tuple(mask.rle["size"]) for mask in (*guess.masks, *previous.masks)}
    if len(sizes) > 1:
        raise UserError(
            f"maps and masks of one image have the sizes {sorted(sizes)}: the previous labels are "
            "of other photographs"
        )


def _overlap(new: Sequence[InstanceMask], old: Sequence[InstanceMask]) -> npt.NDArray[np.float64]:
    """Return the (n, m) IoU of new and old masks."""
    if not new or not old:
        return np.zeros((len(new), len(old)))
    found = coco_mask.iou([m.rle for m in new], [m.rle for m in old], [0] * len(old))
    return np.asarray(found, dtype=np.float64)


def _taken(
    guess: Guess,
    previous: Previous,
    overlap: npt.NDArray[np.float64],
    settings: RoundSettings,
    number: int,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which predictions are taken by their score, and which others by agreement."""
    scores = np.array([mask.score for mask in guess.masks], dtype=np.float64)
    same = np.equal.outer(
        np.asarray(guess.clusters, dtype=np.int64), np.asarray(previous.clusters, dtype=np.int64)
    )
    sure = scores >= settings.threshold(number)
    confirmed = (same & (overlap >= settings.agree_iou)).any(axis=1)
    return sure, ~sure & confirmed & (scores >= settings.agreed_score)


def previous_stuff(target: StuffMap) -> StuffMap:
    """Return the stuff clusters of a stuff target.

    Args:
        target: (H, W) uint8: 0 any thing, 1..S stuff, 255 void.

    Returns:
        (H, W) uint8: 0..S-1, 255 = void or thing.

    Examples:
        >>> previous_stuff(np.array([[0, 1, 3, 255]], dtype=np.uint8)).tolist()
        [[255, 0, 2, 255]]
    """
    table = np.arange(-1, 255, dtype=np.int64)
    table[0] = table[255] = VOID_STUFF
    return table.astype(np.uint8)[target]
