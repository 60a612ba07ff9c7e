"""The driver's side of a sharded phase: look at the ledger until every shard is settled."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable

from u2seg.errors import StageError
from u2seg.shards.attempts import Phase, attempt
from u2seg.shards.ledger import DRIVER, Ledger
from u2seg.shards.pool import WorkerPool
from u2seg.shards.threads import steady_blas

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""Shortest pause between two looks at the ledger."""
POLL_SHARE = 20.0
"""A pause is so many times as long as a look: the driver leaves the machine to the workers."""


class Watch:
    """Tells which shards at work did not get on for too long, by the watcher's own stopwatch.

    Args:
        patience: Seconds without a change after which a worker counts as dead.
        clock: A stopwatch in seconds.

    Examples:
        >>> now = iter([0.0, 50.0, 101.0])
        >>> watch = Watch(100.0, lambda: next(now))
        >>> watch.silent({7: (1, 2)}), watch.silent({7: (1, 2)}), watch.silent({7: (1, 2)})
        ([], [], [7])
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self._clock = clock
        self._seen: dict[tuple[int, tuple[int, int]], float] = {}

    def silent(self, at: dict[int, tuple[int, int]]) -> list[int]:
        """Return the shards whose marks are the same as ``patience`` seconds ago."""
        now = self._clock()
        self._seen = {mark: self._seen.get(mark, now) for mark in at.items()}
        return [shard for (shard, _), since in self._seen.items() if now - since > self.patience]


def drive(
    phase: Phase,
    key: tuple[str, str],
    *,
    pool: WorkerPool | None,
    patience: float,
    settled: Callable[[int], object] = lambda _: None,
) -> None:
    """Have every shard of a phase done, in this process or by a pool.

    Args:
        phase: What is to be done.
        key: Stage and phase, as the pool's source knows them.
        pool: Who works; None = this process.
        patience: Seconds after which a worker that does not get on counts as dead.
        settled: Is called with every shard that is done or given up, once.

    Raises:
        UserError: for settings, files or a disk that cannot be used.
        StageError: if a shard was given up, or no worker can be kept alive.
    """
    ledger, watch = phase.ledger, Watch(patience)
    ledger.begin(pool.run if pool else uuid.uuid4().hex)
    distrust(ledger, ledger.snapshot().done, phase.name)
    told: set[int] = set()
    troubled: set[int] = set()
    while True:
        start = time.perf_counter()
        look = ledger.snapshot()
        pause = max(POLL_S, POLL_SHARE * (time.perf_counter() - start))
        troubled |= look.troubled
        for shard in look.settled - told:
            told.add(shard)
            settled(shard)
        waiting = [shard for shard in range(len(phase.shards)) if shard not in look.settled]
        # Who came back from the dead may have written over a shard made by another.
        if not waiting and not distrust(ledger, troubled & look.done, phase.name):
            break
        if pool is None:
            with steady_blas():
                for shard in waiting:
                    while not ledger.is_settled(shard):
                        attempt(phase, shard, DRIVER)
                    told.add(shard)
                    settled(shard)
            continue
        pool.work(phase, key, waiting, pause)
        for shard in watch.silent(look.at):
            logger.warning(
                "%s: nothing was done on shard %d for %g s; it goes to another worker",
                phase.name, shard, patience,
            )  # fmt: skip
            ledger.lose(shard, f"no progress for {patience:g} s")
            pool.stop(shard)
    ledger.end()
    _check_failed(phase)


def distrust(ledger: Ledger, shards: Iterable[int], name: str) -> bool:
    """Have shards made again whose files are not what their receipts say; return if any."""
    damaged = ledger.damaged(sorted(shards))
    for shard, reason in damaged.items():
        logger.warning("%s: shard %d is made again: %s", name, shard, reason)
        ledger.undo(shard)
    return bool(damaged)


def _check_failed(phase: Phase) -> None:
    look = phase.ledger.snapshot()
    if not look.failed:
        return
    first = min(look.failed)
    trouble = phase.ledger.trouble(first)
    raise StageError(
        f"stage {phase.name}: {len(look.failed)} of {len(look.settled)} shards failed again and "
        f"again, the first is {first}: {[*trouble.raised, *trouble.lost][-1]}. The others are "
        "done; when that is mended, run again with --retry-failed"
    )
