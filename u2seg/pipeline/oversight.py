"""The driver's side of a sharded phase: look at the ledger until every shard is settled."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from u2seg.errors import StageError, UserError
from u2seg.io.atomic import write_json
from u2seg.pipeline.attempts import Sharded, Work, drain
from u2seg.pipeline.leases import Holder, Mark, Watch
from u2seg.pipeline.ledger import Ledger, Snapshot
from u2seg.pipeline.records import Record
from u2seg.pipeline.workspace import Workspace

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""Shortest pause between two looks at the ledger."""
POLL_SHARE = 20.0
"""A pause is so many times as long as a look: the driver leaves the machine to the workers."""
NAMELESS_S = 10.0
"""A lease without a holder's name is one being written; after so long its writer is dead."""
NOTE_S = 2.0
"""Pause between two notes for ``--status``."""


class Workers(Protocol):
    """The worker processes of a run, as the driver sees them."""

    def publish(self, stage: str, method: str) -> None:
        """Say which phase is at work."""

    def staff(self, waiting: int) -> None:
        """Have a worker for each waiting shard, up to the number the user wants."""

    def tend(self, look: Snapshot) -> dict[str, str]:
        """Replace workers that ended; return them -> why. Raises what ends the run."""

    def owns(self, worker: str) -> bool:
        """Return whether it is one of this run, not yet seen to have ended."""

    def stop(self, worker: str) -> None:
        """End a worker that hangs; nothing if it is none of this run."""


def oversee(
    stage: Sharded,
    work: Work,
    shards: Sequence[list[Record]],
    ledger: Ledger,
    *,
    workers: Workers | None,
    patience: float,
    progress: Progress,
) -> None:
    """Have every shard of a phase done, in this process or by ``workers``.

    Args:
        stage: Whose phase it is.
        work: A method of it, which makes one shard.
        shards: Records of all shards.
        ledger: Of the phase.
        workers: Who works; None = this process.
        patience: Seconds after which a worker that does not get on counts as dead.
        progress: Is told of every look.

    Raises:
        UserError: for settings, files or a disk that cannot be used.
        StageError: if a shard was given up, or no worker can be kept alive.
    """
    distrust(ledger, ledger.snapshot().done, stage.name)
    watch, nameless = Watch(patience), Watch(NAMELESS_S)
    driver = Holder.here("driver", driver=True)
    total = range(len(shards))
    troubled: set[int] = set()
    while True:
        start = time.perf_counter()
        look = ledger.snapshot()
        pause = max(POLL_S, POLL_SHARE * (time.perf_counter() - start))
        troubled |= look.troubled
        progress.look(look)
        if look.settled.issuperset(total):
            # Who came back from the dead may have written over a shard made by another.
            if distrust(ledger, troubled & look.done, stage.name):
                continue
            break
        if workers:
            if not progress.published:
                workers.publish(stage.name, work.__name__)
                progress.published = True
            workers.staff(len(shards) - len(look.settled))
            _bury(ledger, look, workers.tend(look))
        elif drain(stage, work, shards, ledger, driver, told=progress.done):
            continue
        for shard, holder in _gone(look.leases, workers):
            logger.info("%s: shard %d is free again: its process is gone", stage.name, shard)
            # The workers of a killed driver end with it; that is no fault of their shards.
            ledger.free(shard, "killed" if holder.driver else "")
        unnamed = {shard: m for shard, m in look.leases.items() if m.holder is None}
        for shard in nameless.silent(unnamed):
            ledger.free(shard)
        for shard in watch.silent(look.leases):
            _expire(stage, ledger, shard, look.leases[shard], workers, patience)
        time.sleep(pause)
    _check_failed(stage, ledger, look)


def distrust(ledger: Ledger, shards: Iterable[int], stage: str) -> bool:
    """Have shards made again whose files are not what their receipts say; return if any."""
    damaged = ledger.damaged(sorted(shards))
    for shard, reason in damaged.items():
        logger.warning("%s: shard %d is made again: %s", stage, shard, reason)
        ledger.undo(shard)
    return bool(damaged)


def _gone(leases: dict[int, Mark], workers: Workers | None) -> list[tuple[int, Holder]]:
    """Return leases that earlier runs left on this machine, and their holders."""
    holders = [(shard, mark.holder) for shard, mark in leases.items() if mark.holder]
    return [(s, h) for s, h in holders if h.dead and not (workers and workers.owns(h.name))]


def _bury(ledger: Ledger, look: Snapshot, ended: dict[str, str]) -> None:
    """Free the shards of workers that ended; look again, they may have got on meanwhile."""
    if not ended:
        return
    for shard, mark in ledger.snapshot().leases.items():
        if mark.holder and mark.holder.name in ended:
            ledger.free(shard, ended[mark.holder.name])
            look.leases.pop(shard, None)


def _expire(
    stage: Sharded,
    ledger: Ledger,
    shard: int,
    mark: Mark,
    workers: Workers | None,
    patience: float,
) -> None:
    name = mark.holder.name if mark.holder else "somebody"
    host = mark.holder.host if mark.holder else "?"
    logger.warning(
        "%s: %s on %s holds shard %d and did nothing for %g s; it goes to another",
        stage.name, name, host, shard, patience,
    )  # fmt: skip
    ledger.free(shard, f"no progress for {patience:g} s")
    if workers:
        workers.stop(name)


def _check_failed(stage: Sharded, ledger: Ledger, look: Snapshot) -> None:
    if not look.failed:
        return
    first = min(look.failed)
    trouble = ledger.trouble(first)
    reason = [*trouble.raised, *trouble.lost][-1]
    raise StageError(
        f"stage {stage.name}: {len(look.failed)} of {len(look.failed | look.done)} shards failed "
        f"again and again, the first is {first}: {reason}. The others are done; when that is "
        "mended, run again with --retry-failed"
    )


class Progress:
    """A progress bar, and a note on disk for ``--status``.

    Args:
        space: Where the note goes.
        stage: Name of the stage.
        sizes: Images of each shard.
        bar: Is updated by images.

    Attributes:
        published: Whether the workers know of the phase.
        waited: Seconds until the first worker took a shard; they are not the stage's.
    """

    def __init__(self, space: Workspace, stage: str, sizes: Sequence[int], bar: Any) -> None:
        self.published = False
        self.waited = 0.0
        self._space = space
        self._stage = stage
        self._sizes = sizes
        self._bar = bar
        self._known: set[int] = set()
        self._start = self._noted = time.monotonic()
        self._before: int | None = None
        self._images = 0

    def done(self, shard: int) -> None:
        """Count a shard."""
        if shard not in self._known:
            self._known.add(shard)
            self._images += self._sizes[shard]
            self._bar.update(self._sizes[shard])
        self._note()

    def look(self, look: Snapshot) -> None:
        """Count all shards that are settled."""
        for shard in sorted(look.settled - self._known):
            if shard < len(self._sizes):
                self.done(shard)
        if self._before is None:
            self._before = self._images  # made by earlier runs
        if self.published and not look.leases and self._images == self._before:
            self.waited = time.monotonic() - self._start
        self._note()

    def _note(self) -> None:
        now = time.monotonic()
        if self._before is None or now - self._noted < NOTE_S:
            return
        self._noted = now
        rate = (self._images - self._before) / (now - self._start)
        note = {"stage": self._stage, "images_per_s": round(rate, 3)}
        with contextlib.suppress(UserError):  # a note is not worth a run
            write_json(self._space.progress, note)
