"""Merge thing masks and a stuff map into one panoptic label.

Shapes: H x W pixels, n masks, K thing clusters, S stuff clusters. What both rules share stands
here; which masks lie on top, what is too small and what is filled is decided in ``rules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import PanopticSettings
from u2seg.panoptic.rules import MERGE_RULES, Claims
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.structures.segmentation import panoptic_label


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
        settings: ``rule`` (see ``rules.released`` and ``rules.scored``) and its thresholds.

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
