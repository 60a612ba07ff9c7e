"""A second pass for small objects: tiles of the photograph at higher resolution.

A tile goes through the same proposer as the photograph, so an object covers T^2 times as many
patches. What comes back is added only where the first pass found nothing.

Shapes: H x W pixels of the photograph, T x T tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import MaskSettings
from u2seg.structures.masks import InstanceMask

Image = npt.NDArray[np.uint8]
Proposals = Sequence[Sequence[InstanceMask] | None]

OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next."""
MIN_SIDE = 32
"""Photographs whose tiles would be shorter have no second pass; pixels."""
MAX_COVERED = 0.5
"""A mask of which more than this share is under other masks is no new object."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of a photograph, pixels; ``bottom`` and ``right`` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


def tile_boxes(height: int, width: int, tiles: int) -> list[Tile]:
    """Return ``tiles`` x ``tiles`` overlapping tiles that cover the photograph, row by row.

    None if they would be shorter than ``MIN_SIDE``.

    Examples:
        A side of 70 is two tiles of 40 that share 10:

        >>> [(t.left, t.right) for t in tile_boxes(70, 70, 2)[:2]], len(tile_boxes(70, 70, 2))
        ([(0, 40), (30, 70)], 4)
        >>> tile_boxes(70, 20, 2)
        []
    """
    rows, columns = _spans(height, tiles), _spans(width, tiles)
    if min(rows[0][1], columns[0][1]) < MIN_SIDE:
        return []
    return [Tile(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    span = min(length, math.ceil(length / (count - (count - 1) * OVERLAP)))
    starts = [round(i * (length - span) / (count - 1)) for i in range(count)]
    return [(start, start + span) for start in starts]


def second_pass(
    image: Image,
    masks: Sequence[InstanceMask],
    settings: MaskSettings,
    propose: Callable[[Sequence[Image]], Proposals],
) -> list[InstanceMask]:
    """Return the masks of a photograph and, after them, new ones of its tiles.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: Of the first pass, at H x W.
        settings: ``tiles`` (not 0) and ``tile_max_area`` are used.
        propose: Returns masks of every tile at its size, None where it cannot.
    """
    boxes = tile_boxes(image.shape[0], image.shape[1], settings.tiles)
    if not boxes:
        return list(masks)
    crops = [np.ascontiguousarray(image[t.top : t.bottom, t.left : t.right]) for t in boxes]
    found = list(zip(boxes, propose(crops), strict=True))
    return merge_tiles(masks, found, image.shape[:2], settings.tile_max_area)


def merge_tiles(
    masks: Sequence[InstanceMask],
    found: Sequence[tuple[Tile, Sequence[InstanceMask] | None]],
    size: tuple[int, int],
    max_area: float,
) -> list[InstanceMask]:
    """Return the first masks and those of the tiles that are small, whole and new.

    Args:
        masks: Of the first pass; all are kept.
        found: Masks of every tile, at the tile's size.
        size: (H, W) of the photograph.
        max_area: See ``is_small``.

    Returns:
        The tiles' masks follow by falling score, each scaled by its tile's share of the
        photograph: of a view so much smaller, a good cut says so much less.
    """
    covered = np.zeros(size, dtype=bool)
    for mask in masks:
        covered |= mask.to_array()
    decoded = [(tile, m.to_array(), m.score) for tile, some in found for m in some or ()]
    fit = [d for d in decoded if is_small(d[1], max_area) and is_whole(d[1], d[0], size)]
    added = []
    for tile, part, score in sorted(fit, key=lambda candidate: -candidate[2]):
        under = covered[tile.top : tile.bottom, tile.left : tile.right]
        if np.count_nonzero(under & part) > MAX_COVERED * np.count_nonzero(part):
            continue
        full = np.zeros(size, dtype=bool)
        full[tile.top : tile.bottom, tile.left : tile.right] = part
        covered |= full
        added.append(InstanceMask.from_array(full, score * part.size / covered.size))
    return [*masks, *added]


def is_small(mask: npt.NDArray[np.bool_], max_area: float) -> bool:
    """Return whether a mask covers at most ``max_area`` of its tile, but not nothing.

    Examples:
        >>> corner = np.eye(2, dtype=bool) & [True, False]
        >>> is_small(corner, 0.25), is_small(corner, 0.2), is_small(corner & False, 1.0)
        (True, False, False)
    """
    return bool(0 < np.count_nonzero(mask) <= max_area * mask.size)


def is_whole(mask: npt.NDArray[np.bool_], tile: Tile, size: tuple[int, int]) -> bool:
    """Return whether no edge of the tile inside the photograph cuts the mask off.

    Args:
        mask: (h, w) bool, of the tile.
        tile: Where it lies.
        size: (H, W) of the photograph.

    Examples:
        >>> left = np.array([[True, False]])
        >>> is_whole(left, Tile(0, 0, 1, 2), (1, 4)), is_whole(left, Tile(0, 2, 1, 4), (1, 4))
        (True, False)
    """
    inner = (
        tile.top > 0 and mask[0].any(),
        tile.bottom < size[0] and mask[-1].any(),
        tile.left > 0 and mask[:, 0].any(),
        tile.right < size[1] and mask[:, -1].any(),
    )
    return not any(inner)
