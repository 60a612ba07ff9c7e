"""Count pairs of ids in one compiled pass over two maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.io.jit import compiled

_BITS = 12
_PLACES = 1 << _BITS
_MOST = 3 * _PLACES // 4
"""Different pairs up to which the table is quick; an image has some dozens."""

Ints = npt.NDArray[np.int64]


def pair_pixels(
    truth: npt.NDArray[np.int32], predicted: npt.NDArray[np.int32], shift: int
) -> tuple[Ints, Ints] | None:
    """Return the different pairs of ids, ascending, and the pixels of each.

    Args:
        truth: (N,) int32 ids of one map, >= 0; N >= 1.
        predicted: (N,) of the other, 0..2^shift - 1.
        shift: A pair is written as (true id << shift) + predicted id.

    Returns:
        Two (M,) int64; None if there are more pairs than the table is made for.
    """
    keys, pixels = _table()
    return _sorted(keys, pixels) if _count(truth, predicted, shift, keys, pixels) else None


def row_pixels(
    truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], shift: int
) -> tuple[Ints, Ints] | None:
    """Return what ``pair_pixels`` returns, from the bytes of two panoptic PNGs.

    Args:
        truth: (H, 1 + 3 W) rows as ``fastpng.decode_rows`` gives them.
        predicted: The same, of the same shape.
        shift: As there.
    """
    keys, pixels = _table()
    length = truth.shape[1]
    words = np.zeros(length // 8 + 1, dtype=np.uint64)
    sides = (truth.reshape(-1), predicted.reshape(-1))
    return (
        _sorted(keys, pixels) if _count_rows(*sides, words, length, shift, keys, pixels) else None
    )


def _table() -> tuple[Ints, Ints]:
    return np.full(_PLACES, -1, dtype=np.int64), np.zeros(_PLACES, dtype=np.int64)


def _sorted(keys: Ints, pixels: Ints) -> tuple[Ints, Ints]:
    used = np.flatnonzero(keys >= 0)
    used = used[np.argsort(keys[used])]
    return keys[used], pixels[used]


@compiled
def _add(key: Any, count: Any, keys: Ints, pixels: Ints) -> Any:
    """Add to a pair's pixels in an open-addressed table; return whether the pair is new."""
    # Fibonacci hashing: the high bits of the product depend on all bits of the key.
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64(mixed >> np.uint64(64 - _BITS))
    while keys[place] != key and keys[place] >= 0:
        place = (place + 1) & (len(keys) - 1)
    new = keys[place] < 0
    keys[place] = key
    pixels[place] += count
    return new


@compiled
def _count(
    truth: npt.NDArray[np.int32],
    predicted: npt.NDArray[np.int32],
    shift: int,
    keys: Ints,
    pixels: Ints,
) -> Any:
    """Fill the table run by run; return whether it was large enough."""
    t, p, start, used = truth[0], predicted[0], 0, 0
    for i in range(1, len(truth)):
        if (truth[i] ^ t) | (predicted[i] ^ p):
            used += _add((np.int64(t) << shift) | np.int64(p), i - start, keys, pixels)
            if used > _MOST:
                return False
            t, p, start = truth[i], predicted[i], i
    _add((np.int64(t) << shift) | np.int64(p), len(truth) - start, keys, pixels)
    return True


@compiled
def _identity(row: npt.NDArray[np.uint8], place: Any) -> Any:
    return np.int64(row[place]) | (np.int64(row[place + 1]) << 8) | (np.int64(row[place + 2]) << 16)


@compiled
def _count_rows(
    truth: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint64],
    length: int,
    shift: int,
    keys: Ints,
    pixels: Ints,
) -> Any:
    """Fill the table row by row; return whether it was large enough.

    ``words`` becomes the bytes in which a pixel differs from that before it, eight at a time.
    """
    marks, used, end = words.view(np.uint8), 0, length - 1
    for start in range(1, len(truth), length):
        t, p = truth[start : start + end], predicted[start : start + end]
        a, b, c, d, mark = t[3:], t[:-3], p[3:], p[:-3], marks[3:end]
        for i in range(len(mark)):
            mark[i] = (a[i] ^ b[i]) | (c[i] ^ d[i])
        first = 0
        while first < end:
            stop = first + 3
            while stop < end and not marks[stop]:
                stop += 1 if stop & 7 or words[stop >> 3] else 8
            stop = min(stop, end)
            stop -= stop % 3
            key = (_identity(t, first) << shift) | _identity(p, first)
            used += _add(key, (stop - first) // 3, keys, pixels)
            first = stop
        if used > _MOST:
            return False
    return True
