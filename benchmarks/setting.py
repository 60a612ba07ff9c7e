"""What every row needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.inputs import Sizes
from benchmarks.machine import Rates


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
