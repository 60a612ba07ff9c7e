"""How many pixels every pair of (true segment, predicted segment) shares: all the counts need.

Votes, panoptic quality and the confusion matrix of an image follow from this small table, so
every PNG is read once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from u2seg.io.images import DEFAULT_MAX_PIXELS
from u2seg.structures.labels import VOID_ID

_SHIFT = 24  # panoptic ids have 24 bits


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


def count_overlaps(
    truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], *, fast: bool = False
) -> Overlap:
    """Return the pixels shared by each pair of ids, sorted by (true id, predicted id).

    Args:
        truth: (H, W) integer map of ids 0..2^24-1.
        predicted: The same, of the same shape.
        fast: Count with numba where it is installed; worth its start for many images.

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
    found = _fast_pairs(truth, predicted) if fast else None
    if found is not None:
        return Overlap(found[0] >> _SHIFT, found[0] & (2**_SHIFT - 1), found[1])
    # Maps are made of runs of equal pixels: only the first pixel of each is looked at.
    t, p = truth.reshape(-1), predicted.reshape(-1)
    starts = np.flatnonzero((t[1:] != t[:-1]) | (p[1:] != p[:-1])) + 1
    starts = np.concatenate([[0], starts])
    lengths = np.diff(starts, append=t.size)
    pairs = (t[starts].astype(np.int64) << _SHIFT) | p[starts].astype(np.int64)
    keys, pixels = _sums(pairs, lengths)
    return Overlap(keys >> _SHIFT, keys & (2**_SHIFT - 1), pixels)


def _fast_pairs(
    truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Return pairs and pixels; None without numba, or for maps of very many ids."""
    try:
        from u2seg.evaluation.fastcount import pair_pixels
    except ImportError:  # no numba
        return None
    t, p = (np.ascontiguousarray(side, dtype=np.int32).reshape(-1) for side in (truth, predicted))
    return pair_pixels(t, p, _SHIFT)


def overlaps_of_files(truth: Path, predicted: Path) -> tuple[Overlap, tuple[int, int]] | None:
    """Return the overlaps of two panoptic PNGs without making their maps, and their (H, W).

    Args:
        truth: A PNG.
        predicted: The other.

    Returns:
        None without numba, or if the files are unusual, damaged, of two sizes or of very many
        ids: then read the maps, and ``count_overlaps``.
    """
    try:
        from u2seg.evaluation.fastcount import row_pixels
        from u2seg.io.fastpng import decode_rows

        contents = truth.read_bytes(), predicted.read_bytes()
    except (ImportError, OSError):
        return None
    found = [decode_rows(data, DEFAULT_MAX_PIXELS, slot) for slot, data in enumerate(contents, 1)]
    right, guess = found
    if right is None or guess is None or right[0].shape != guess[0].shape:
        return None
    pairs = row_pixels(right[0], guess[0], _SHIFT)
    if pairs is None:
        return None
    overlap = Overlap(pairs[0] >> _SHIFT, pairs[0] & (2**_SHIFT - 1), pairs[1])
    return overlap, (len(right[0]), right[1])


def _sums(
    keys: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the different keys, ascending, and the sum of the weights of each."""
    found, inverse = np.unique(keys, return_inverse=True)
    # Sums of pixels stay far below 2^53, up to which float64 counts exactly.
    return found, np.bincount(inverse, weights, len(found)).astype(np.int64)


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
    pairs = (overlap.truth << _SHIFT) | renamed
    found, pixels = _sums(pairs, overlap.pixels)
    table = Overlap(found >> _SHIFT, found & (2**_SHIFT - 1), pixels)
    return table, {first: categories[first] for first in dict.fromkeys(keep.values())}
