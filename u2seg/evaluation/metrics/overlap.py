"""How many pixels every pair of (true segment, predicted segment) shares: all the counts need.

Votes, panoptic quality and the confusion matrix of an image follow from this small table, so
every PNG is read once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from u2seg.structures.labels import VOID_ID

_SHIFT = 24  # panoptic ids have 24 bits
_WIDE = 32


@dataclass(frozen=True)
class Overlap:
    """Pairs that share at least one pixel.

    Args:
        truth: (N,) int64 ids of true segments, 0 = void.
        predicted: (N,) int64 ids of predicted segments, 0 = none.
        pixels: (N,) int64, > 0.
    """

    truth: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]


def count_overlaps(truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]) -> Overlap:
    """Return the pixels shared by each pair of ids, sorted by (true id, predicted id).

    Args:
        truth: (H, W) integer map of ids 0..2^24-1.
        predicted: The same, of the same shape.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        >>> table = count_overlaps(np.array([[1, 1, 0]]), np.array([[7, 0, 7]]))
        >>> list(zip(table.truth.tolist(), table.predicted.tolist(), table.pixels.tolist()))
        [(0, 7, 1), (1, 0, 1), (1, 7, 1)]
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"maps of different shapes: {truth.shape} and {predicted.shape}")
    if truth.size == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return Overlap(nothing, nothing, nothing)
    # Maps are made of runs of equal pixels: only the first pixel of each is looked at.
    t, p = truth.reshape(-1), predicted.reshape(-1)
    starts = np.flatnonzero((t[1:] != t[:-1]) | (p[1:] != p[:-1])) + 1
    starts = np.concatenate([[0], starts])
    lengths = np.diff(starts, append=t.size)
    pairs = (t[starts].astype(np.int64) << _SHIFT) | p[starts].astype(np.int64)
    keys, place = np.unique(pairs, return_inverse=True)
    # Sums of pixels stay far below 2^53, up to which float64 counts exactly.
    pixels = np.bincount(place, lengths, len(keys)).astype(np.int64)
    return Overlap(keys >> _SHIFT, keys & (2**_SHIFT - 1), pixels)


def sum_pairs(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the pairs that occur, sorted, and the sum of the pixels of each: (3, M).

    Examples:
        >>> sum_pairs(np.array([5, 5, 4]), np.array([3, 3, 3]), np.array([1, 2, 4])).tolist()
        [[4, 5], [3, 3], [4, 3]]
    """
    # Ids have 24 bits and may be negative by a few: one key for both sorts far faster than rows.
    keys = (first << _WIDE) + second
    found, place = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(found), dtype=np.int64)
    np.add.at(sums, place, pixels)
    left = (found + (1 << (_WIDE - 1))) >> _WIDE
    return np.stack([left, found - (left << _WIDE), sums])


def relabel(
    overlap: Overlap, categories: Mapping[int, int], merge: Collection[int]
) -> tuple[Overlap, dict[int, int]]:
    """Return the table after clusters became classes.

    Args:
        overlap: Of one image.
        categories: Predicted segment id -> class; a predicted id that is missing here becomes
            0 (none): an unmatched cluster claims no pixel.
        merge: Classes of which an image has one segment: their segments become one.

    Returns:
        The new table, and segment id -> class of what is left. A merged segment has the
        smallest id of its parts.
    """
    keep: dict[int, int] = {}
    representative: dict[int, int] = {}
    for segment, category in sorted(categories.items()):
        first = representative.setdefault(category, segment) if category in merge else segment
        keep[segment] = first
    renamed = np.array([keep.get(int(p), VOID_ID) for p in overlap.predicted], dtype=np.int64)
    table = Overlap(*sum_pairs(overlap.truth, renamed, overlap.pixels))
    return table, {first: categories[first] for first in dict.fromkeys(keep.values())}
