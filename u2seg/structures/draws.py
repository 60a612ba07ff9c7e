"""What marks a training sample: its place in the run and a seed that belongs to it."""

from __future__ import annotations

import numpy as np

DRAW = "draw"
"""Key of a sample: its place in the run, iteration x batch + place in the batch."""
DRAW_SEED = "draw_seed"
"""Key of a sample: seed of whatever is sampled from it later, 0..2^63 - 1."""


def derived_seed(*words: int) -> int:
    """Return a seed of 63 bits from non-negative numbers; other numbers give another one.

    Examples:
        >>> derived_seed(1, 2) == derived_seed(1, 2), derived_seed(1, 2) == derived_seed(2, 1)
        (True, False)
    """
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
