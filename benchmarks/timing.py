"""Time two ways of doing the same, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from u2seg.errors import UserError

A = TypeVar("A")
B = TypeVar("B")


SETTLE_S = 0.3
"""Pause before a timed call, seconds."""


@dataclass(frozen=True)
class Pair(Generic[A, B]):
    """Median seconds of both sides and what they returned last."""

    ours: float
    peer: float
    our_result: A
    peer_result: B


def alternate(
    name: str,
    ours: Callable[[], A],
    peer: Callable[[], B],
    repeats: int,
    *,
    warm_peer: bool = True,
) -> Pair[A, B]:
    """Return the medians of ``ours`` and ``peer``, called in turns.

    Each side is called once before without being timed: compiled code is compiled, caches fill.
    A pause comes before every timed call: thread pools (OpenBLAS, OpenMP) keep spinning for
    tens of milliseconds after their last job, on the cores that the other side needs.

    Args:
        name: Of the row, for the progress bar.
        ours: This project's way.
        peer: The other.
        repeats: Timed calls of each, >= 1.
        warm_peer: False leaves the untimed call of the peer out, for one that takes many
            seconds and compiles nothing.

    Examples:
        >>> pair = alternate("sum", lambda: 1 + 1, lambda: sum((1, 1)), 3)
        >>> pair.our_result, pair.peer_result, pair.ours > 0
        (2, 2, True)
    """
    check_repeats(repeats)
    ours()
    if warm_peer:
        peer()
    mine: list[tuple[float, A]] = []
    theirs: list[tuple[float, B]] = []
    with tqdm(total=2 * repeats, desc=name, leave=False) as bar:
        for _ in range(repeats):
            mine.append(_timed(ours))
            bar.update()
            theirs.append(_timed(peer))
            bar.update()
    return Pair(
        statistics.median(seconds for seconds, _ in mine),
        statistics.median(seconds for seconds, _ in theirs),
        mine[-1][1],
        theirs[-1][1],
    )


def _timed(call: Callable[[], A]) -> tuple[float, A]:
    time.sleep(SETTLE_S)
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def check_repeats(repeats: int) -> None:
    """Raise UserError unless ``repeats`` is at least 1."""
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {repeats}; the protocol asks for 5")
