"""Merge thing masks and a stuff map into one panoptic label.

Shapes: H x W pixels, n masks, K thing clusters, S stuff clusters.
Source: U2Seg commit 8e9c709, ``datasets/prepare_ours/generate_pseudo_panoptic.py`` (the paper's
eq. 5 has neither the order nor the share). Deviations: areas and boxes are those of the visible
pixels (released: stale for things, empty for stuff), images without things keep their stuff
(released: dropped), ids start at 1 in every image (released: counted over the data set).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from u2seg.config.schema import PanopticSettings
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel, Segment

_UNCLAIMED = 0


def merge_panoptic(
    masks: Sequence[InstanceMask],
    clusters: Sequence[int],
    stuff: npt.NDArray[np.uint8],
    space: LabelSpace,
    settings: PanopticSettings,
) -> PanopticLabel:
    """Return the panoptic label of one image.

    Things are painted from the largest box to the smallest (width x height; equal ones in input
    order), later ones on top. A thing with fewer than ``min_thing_area`` visible pixels is
    dropped and hides nothing. A stuff cluster with a share of more than
    ``max_stuff_covered`` under things is dropped; else its visible pixels, if at least
    ``min_stuff_area``, are one segment.

    Args:
        masks: n masks of size (H, W); overlapping, empty and hidden ones are allowed.
        clusters: n cluster ids, 0..K-1.
        stuff: (H, W) uint8, 0..S-1 or 255 = void.
        space: The numbering.
        settings: Thresholds.

    Returns:
        Segments with ids 1.. : things in paint order, then stuff by cluster; areas and boxes of
        the visible pixels. The score of a thing is its mask's, of stuff 1.

    Raises:
        ValueError: if the numbers of masks and clusters differ, a mask has another size than
            ``stuff``, or ``stuff`` is not (H, W) uint8 with values 0..S-1 or 255.
        UserError: if a cluster id is outside 0..K-1.

    Examples:
        A 1 x 4 image: the small thing lies on the large one; the stuff left is one pixel.

        >>> large = InstanceMask.from_array(np.array([[1, 1, 1, 0]], dtype=bool))
        >>> small = InstanceMask.from_array(np.array([[0, 1, 0, 0]], dtype=bool))
        >>> label = merge_panoptic(
        ...     [small, large], [1, 0], np.array([[0, 1, 1, 0]], dtype=np.uint8),
        ...     LabelSpace(2, 2), PanopticSettings(),
        ... )
        >>> label.ids.tolist()
        [[1, 2, 1, 3]]
        >>> [(s.id, s.category_id, s.area) for s in label.segments]
        [(1, 1, 2), (2, 2, 1), (3, 3, 1)]
    """
    _check(masks, clusters, stuff, space)
    owner = np.full(stuff.shape, _UNCLAIMED, dtype=np.int32)
    order = sorted(range(len(masks)), key=lambda i: -masks[i].bbox[2] * masks[i].bbox[3])
    kept: list[tuple[int, float]] = []
    # Topmost first: a mask takes what nobody above it took. Same picture as painting bottom up,
    # and a thing that is dropped for its size gives its pixels to the one below.
    for index in reversed(order):
        visible = masks[index].to_array() & (owner == _UNCLAIMED)
        if np.count_nonzero(visible) >= settings.min_thing_area:
            kept.append((space.thing_category(clusters[index]), masks[index].score))
            owner[visible] = len(kept)
    ids = _reverse_ids(owner, len(kept))
    entries = kept[::-1]
    for cluster in _visible_stuff(stuff, ids > 0, settings):
        entries.append((space.stuff_category(cluster), 1.0))
        ids[(stuff == cluster) & (ids == 0)] = len(entries)
    return PanopticLabel(ids, _segments(ids, entries, space))


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


def _reverse_ids(owner: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """Return ids in paint order from claim order: count..1 becomes 1..count, 0 stays."""
    table = np.concatenate([[0], np.arange(count, 0, -1)]).astype(np.int32)
    return table[owner]


def _visible_stuff(
    stuff: npt.NDArray[np.uint8], things: npt.NDArray[np.bool_], settings: PanopticSettings
) -> list[int]:
    """Return the stuff clusters that get a segment, ascending."""
    total = np.bincount(stuff.ravel(), minlength=256)
    covered = np.bincount(stuff[things], minlength=256)
    return [
        int(cluster)
        for cluster in np.flatnonzero(total[:VOID_STUFF])
        if covered[cluster] / total[cluster] <= settings.max_stuff_covered
        and total[cluster] - covered[cluster] >= settings.min_stuff_area
    ]


def _segments(
    ids: npt.NDArray[np.int32], entries: list[tuple[int, float]], space: LabelSpace
) -> tuple[Segment, ...]:
    areas = np.bincount(ids.ravel(), minlength=len(entries) + 1)
    segments = []
    for index, place in enumerate(ndimage.find_objects(ids, max_label=len(entries))):
        category, score = entries[index]
        rows, cols = place
        box = (cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        segments.append(
            Segment(
                id=index + 1,
                category_id=category,
                isthing=space.is_thing(category),
                area=int(areas[index + 1]),
                bbox=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                score=score,
            )
        )
    return tuple(segments)
