"""What every row needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.benchmark.inputs import Sizes
from u2seg.benchmark.machine import Rates


@dataclass(frozen=True)
class Setting:
    """How to measure.

    Args:
        repeats: Timed calls of each side.
        threads: Pinned number of threads.
        rates: Of the machine, for floors.
        sizes: Of the problems.
    """

    repeats: int
    threads: int
    rates: Rates
    sizes: Sizes
