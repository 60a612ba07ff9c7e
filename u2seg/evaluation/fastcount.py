"""Count pairs of ids in one compiled pass over two maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.io.inflate import compiled

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
    keys = np.full(_PLACES, -1, dtype=np.int64)
    pixels = np.zeros(_PLACES, dtype=np.int64)
    if not _count(truth, predicted, shift, keys, pixels):
        return None
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
