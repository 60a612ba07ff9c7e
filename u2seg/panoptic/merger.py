"""Merge thing masks and a stuff map into one panoptic label.

Shapes: H x W pixels, n masks, K thing clusters, S stuff clusters. Which masks lie on top, what is
too small and what is filled is decided by a rule. Maps are (W, H) inside the rules: COCO's run-
length codes go down the columns, so a decoded mask is C-ordered only when it is turned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from u2seg.config.schema import PanopticSettings
from u2seg.errors import UserError
from u2seg.registry import Registry
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.structures.segmentation import panoptic_label

Owner = npt.NDArray[np.int32]
UNCLAIMED = 0
MERGE_RULES = Registry("merge rule")
"""``rule(masks, stuff, number of stuff clusters, settings) -> Claims``, see ``scored``."""


@dataclass(frozen=True)
class Claims:
    """Who owns which pixel.

    Args:
        ids: (H, W) int32; 0 = nobody.
        things: Id -> index of the mask.
        stuff: Id -> stuff cluster. Every id of both has at least one pixel.
    """

    ids: npt.NDArray[np.int32]
    things: dict[int, int]
    stuff: dict[int, int]


@MERGE_RULES.register("released")
def released(
    masks: Sequence[InstanceMask],
    stuff: npt.NDArray[np.uint8],
    num_stuff: int,
    settings: PanopticSettings,
) -> Claims:
    """Paint things from the largest box to the smallest; stuff fills what is left.

    Boxes are ordered by width x height, equal ones in input order, later ones on top. The n
    masks have the ids 1..n in that order, also those that nothing is seen of, which are left
    out. A stuff cluster of which things cover more than its share is left out; what is seen of
    the others is one segment each, numbered on from n + 1.

    Source: U2Seg commit 8e9c709, ``datasets/prepare_ours/generate_pseudo_panoptic.py``; the
    paper's eq. 5 has neither the order nor the share. Deviations: areas and boxes are those of
    the visible pixels (there stale for things, empty for stuff), images without things keep
    their stuff (there dropped), and ids start at 1 in every image (there they count on over the
    data set, which ends it at 2^24).

    Args:
        masks: n masks of size (H, W).
        stuff: (H, W) uint8, 0..S-1 or 255.
        num_stuff: S.
        settings: ``max_stuff_covered`` and ``stuff_covered`` are read.

    Raises:
        UserError: if ``stuff_covered`` has neither 0 nor S values.
    """
    limits = _stuff_limits(num_stuff, settings)
    order = sorted(range(len(masks)), key=lambda i: -masks[i].bbox[2] * masks[i].bbox[3])
    owner = np.zeros(stuff.shape[::-1], dtype=np.int32)
    seen: list[int] = []
    # Topmost first: a mask takes what nobody above it took. Same picture as painting bottom up.
    for identity in range(len(masks), 0, -1):
        visible = _turned(masks[order[identity - 1]]) & (owner == UNCLAIMED)
        if visible.any():
            seen.append(identity)
            owner[visible] = identity
    turned = np.ascontiguousarray(stuff.T)
    clusters = _visible_stuff(turned, owner, limits, least_area=1)
    stuff_ids = {len(masks) + 1 + i: cluster for i, cluster in enumerate(clusters)}
    _fill_stuff(owner, turned, stuff_ids)
    things = {identity: order[identity - 1] for identity in reversed(seen)}
    return Claims(np.ascontiguousarray(owner.T), things, stuff_ids)


@MERGE_RULES.register("scored")
def scored(
    masks: Sequence[InstanceMask],
    stuff: npt.NDArray[np.uint8],
    num_stuff: int,
    settings: PanopticSettings,
) -> Claims:
    """Let the better score win a pixel, drop what is small.

    1. Things take their pixels by falling score; of equal scores the smaller box first, then
       input order. Holes of a mask up to ``max_hole`` belong to it.
    2. A thing that is left with fewer pixels than ``min_thing_area``, or with less than
       ``min_visible`` of its own, is dropped and hides nothing.
    3. A stuff cluster is dropped if things cover more of it than its share, or if fewer of its
       pixels are seen than ``min_stuff_area``; its pixels are void then.

    Ids are 1.. without gaps: things from the lowest to the topmost, then stuff by cluster.

    Args:
        masks: n masks of size (H, W).
        stuff: (H, W) uint8, 0..S-1 or 255.
        num_stuff: S.
        settings: Thresholds; areas as shares of H W.

    Raises:
        UserError: if ``stuff_covered`` has neither 0 nor S values.
    """
    limits = _stuff_limits(num_stuff, settings)
    order = sorted(
        range(len(masks)),
        key=lambda i: (-masks[i].score, masks[i].bbox[2] * masks[i].bbox[3]),
    )
    owner = np.zeros(stuff.shape[::-1], dtype=np.int32)
    kept: list[int] = []
    for index in order:
        mask = fill_holes(_turned(masks[index]), int(settings.max_hole * stuff.size))
        visible = mask & (owner == UNCLAIMED)
        area = np.count_nonzero(visible)
        enough = area >= settings.min_visible * np.count_nonzero(mask)
        if enough and area >= least_pixels(settings.min_thing_area, stuff.size):
            kept.append(index)
            owner[visible] = len(kept)
    owner = np.concatenate([[0], np.arange(len(kept), 0, -1)]).astype(np.int32)[owner]
    turned = np.ascontiguousarray(stuff.T)
    least = least_pixels(settings.min_stuff_area, stuff.size)
    clusters = _visible_stuff(turned, owner, limits, least)
    stuff_ids = {len(kept) + 1 + i: cluster for i, cluster in enumerate(clusters)}
    _fill_stuff(owner, turned, stuff_ids)
    things = {i + 1: index for i, index in enumerate(reversed(kept))}
    return Claims(np.ascontiguousarray(owner.T), things, stuff_ids)


def least_pixels(share: float, pixels: int) -> int:
    """Return how many pixels a segment needs: its share of the image, and one at least.

    Examples:
        >>> least_pixels(0.01, 1000), least_pixels(0.01, 1001), least_pixels(0.0, 1000)
        (10, 11, 1)
    """
    # A whole number of pixels must not become one more by rounding: 0.07 * 100 > 7.
    return max(1, math.ceil(share * pixels - 1e-9))


def fill_holes(mask: npt.NDArray[np.bool_], largest: int) -> npt.NDArray[np.bool_]:
    """Return a mask with its holes of at most ``largest`` pixels filled.

    A hole is a 4-connected region of background that does not touch the image's border.

    Examples:
        >>> ring = np.ones((3, 4), dtype=bool)
        >>> ring[1, 1:3] = False
        >>> int(fill_holes(ring, 1).sum()), int(fill_holes(ring, 2).sum())
        (10, 12)
    """
    if largest < 1 or not mask.any():
        return mask
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    # A hole lies within the box of its mask: only that is looked at.
    box = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    regions, count = ndimage.label(~mask[box])
    inner = np.ones(count + 1, dtype=bool)
    inner[0] = False
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        inner[edge] = False
    if not inner.any():  # as nearly always
        return mask
    small = inner & (np.bincount(regions.ravel(), minlength=count + 1) <= largest)
    if not small.any():
        return mask
    filled = mask.copy()
    filled[box] |= small[regions]
    return filled


def _turned(mask: InstanceMask) -> npt.NDArray[np.bool_]:
    """Return the (W, H) bool mask."""
    return np.ascontiguousarray(mask.to_array().T)


def _stuff_limits(num_stuff: int, settings: PanopticSettings) -> npt.NDArray[np.float64]:
    """Return 256 shares: by stuff cluster, how much of it things may cover."""
    own = settings.stuff_covered
    if own and len(own) != num_stuff:
        raise UserError(
            f"U2SEG.PANOPTIC.STUFF_COVERED has {len(own)} shares, expected one for each of the "
            f"{num_stuff} stuff clusters (U2SEG.SEMANTICS.NUM_CLASSES), or none"
        )
    limits = np.full(256, settings.max_stuff_covered)
    limits[: len(own)] = own
    return limits


def _visible_stuff(
    stuff: npt.NDArray[np.uint8],
    owner: Owner,
    limits: npt.NDArray[np.float64],
    least_area: int,
) -> list[int]:
    """Return the stuff clusters that get a segment, ascending."""
    total = np.bincount(stuff.ravel(), minlength=256)
    covered = np.bincount(stuff[owner != UNCLAIMED], minlength=256)
    return [
        int(cluster)
        for cluster in np.flatnonzero(total[:VOID_STUFF])
        if covered[cluster] / total[cluster] <= limits[cluster]
        and total[cluster] - covered[cluster] >= least_area
    ]


def _fill_stuff(owner: Owner, stuff: npt.NDArray[np.uint8], ids: dict[int, int]) -> None:
    """Give the unclaimed pixels of the clusters in ``ids`` (id -> cluster) their ids, in place."""
    table = np.zeros(256, dtype=np.int32)
    for identity, cluster in ids.items():
        table[cluster] = identity
    np.copyto(owner, table[stuff], where=owner == UNCLAIMED)


def merge_panoptic(
    masks: Sequence[InstanceMask],
    clusters: Sequence[int],
    stuff: npt.NDArray[np.uint8],
    space: LabelSpace,
    settings: PanopticSettings,
) -> PanopticLabel:
    """Return the panoptic label of one image by the rule of the settings.

    Args:
        masks: n masks of size (H, W); overlapping, empty and hidden ones are allowed.
        clusters: n cluster ids, 0..K-1.
        stuff: (H, W) uint8, 0..S-1 or 255 = void.
        space: The numbering.
        settings: ``rule`` (see ``released`` and ``scored``) and its thresholds.

    Returns:
        Segments by rising id: things from the bottom up, then stuff by cluster; areas and boxes
        are those of the visible pixels. The score of a thing is its mask's, of stuff 1.

    Raises:
        ValueError: if the numbers of masks and clusters differ, a mask has another size than
            ``stuff``, or ``stuff`` is not (H, W) uint8 with values 0..S-1 or 255.
        UserError: if a cluster id is outside 0..K-1, or the settings name shares for another
            number of stuff clusters than S.

    Examples:
        A 1 x 4 image: the small thing lies on the large one; the stuff left is one pixel.

        >>> large = InstanceMask.from_array(np.array([[1, 1, 1, 0]], dtype=bool))
        >>> small = InstanceMask.from_array(np.array([[0, 1, 0, 0]], dtype=bool))
        >>> label = merge_panoptic(
        ...     [small, large], [1, 0], np.array([[0, 1, 1, 0]], dtype=np.uint8),
        ...     LabelSpace(2, 2), PanopticSettings(rule="released"),
        ... )
        >>> label.ids.tolist()
        [[1, 2, 1, 3]]
        >>> [(s.id, s.category_id, s.area) for s in label.segments]
        [(1, 1, 2), (2, 2, 1), (3, 3, 1)]
    """
    _check(masks, clusters, stuff, space)
    claims: Claims = MERGE_RULES.get(settings.rule)(masks, stuff, space.num_stuff, settings)
    infos: list[dict[str, Any]] = [
        {"id": i, "isthing": True, "category_id": clusters[place], "score": masks[place].score}
        for i, place in claims.things.items()
    ]
    infos += [
        {"id": i, "isthing": False, "category_id": cluster + 1}
        for i, cluster in claims.stuff.items()
    ]
    return panoptic_label(claims.ids, sorted(infos, key=lambda info: info["id"]), space)


def _check(
    masks: Sequence[InstanceMask],
    clusters: Sequence[int],
    stuff: npt.NDArray[np.uint8],
    space: LabelSpace,
) -> None:
    if len(masks) != len(clusters):
        raise ValueError(f"{len(masks)} masks but {len(clusters)} cluster ids")
    if stuff.ndim != 2 or stuff.dtype != np.uint8:
        raise ValueError(f"stuff must be (H, W) uint8, got {stuff.dtype} {stuff.shape}")
    wrong = np.flatnonzero(np.bincount(stuff.ravel(), minlength=256)[space.num_stuff : VOID_STUFF])
    if wrong.size:
        raise ValueError(
            f"the stuff map holds {wrong[0] + space.num_stuff}, expected "
            f"0..{space.num_stuff - 1} or {VOID_STUFF}"
        )
    for index, (mask, cluster) in enumerate(zip(masks, clusters, strict=True)):
        space.thing_category(cluster)
        if tuple(mask.rle["size"]) != stuff.shape:
            raise ValueError(
                f"mask {index} has size {tuple(mask.rle['size'])}, the stuff map {stuff.shape}"
            )
