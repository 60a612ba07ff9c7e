"""What marks a training sample: its place in the run and a seed that belongs to it."""

from __future__ import annotations

import numpy as np

DRAW = "draw"
"""Key of a sample: its place in the run, iteration x batch + place in the batch."""
DRAW_SEED = "draw_seed"
"""Key of a sample: seed of whatever is sampled from it later, 0..2^63 - 1."""


def derived_seed(*words: int) -> int:
    """Return a seed of 63 bits from numbers below 2^64; other numbers give another one.

    (Two sequences of numbers have the same seed by chance alone, with probability 2^-63.)

    Examples:
        >>> derived_seed(1, 2) == derived_seed(1, 2), derived_seed(1, 2) == derived_seed(2, 1)
        (True, False)
        >>> derived_seed(1, 2) == derived_seed(1, 2, 0)
        False
    """
    # NumPy joins the 32-bit words of all numbers and ignores zeros at the end: without their
    # count, and a fixed length of each, different numbers could become the same words.
    entropy = np.array([len(words), *words], dtype=np.uint64).view(np.uint32)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
