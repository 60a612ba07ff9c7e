"""One attempt at a shard, by whoever holds its lease; after failures, image by image.

What may be at fault decides what happens. A ``UserError`` or ``StageError`` is the fault of the
settings or the disk: it ends the run. Anything else may be the fault of an image: the shard is
tried again, then taken apart, and the image at fault is set aside by name.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from u2seg.errors import StageError, UserError
from u2seg.io.atomic import heard
from u2seg.pipeline.executors.threads import steady_blas
from u2seg.pipeline.leases import Holder, Lease, LeaseLostError
from u2seg.pipeline.ledger import Ledger, Trouble
from u2seg.pipeline.records import Record

logger = logging.getLogger(__name__)
Work = Callable[[int, list[Record]], None]
NOT_THE_IMAGES = 3
"""So many images of the first shard that fail alone, and none that passes: it is not the images."""


@dataclass
class Turn:
    """The shard a stage is at work on.

    Args:
        lease: Touched with every image and file; None between shards.
        only: The only image that may be read; empty = all.
        asked: Whether the stage asked for images.
        met: Whether it met the only one.
    """

    lease: Lease | None = None
    only: str = ""
    asked: bool = False
    met: bool = False

    def admits(self, name: str) -> bool:
        """Return whether an image may be read; LeaseLostError if the shard was given away."""
        if self.lease:
            self.lease.beat()
        if self.lease and name == self.only:
            self.met = True
            self.lease.tell(name)  # if this process dies now, this image was at work
        return self.only in ("", name)


class Sharded(Protocol):
    """What this module needs of a stage."""

    name: str
    turn: Turn

    def set_aside(self, images: dict[str, str]) -> None:
        """Read these images no more; each is skipped for the reason given."""


def drain(
    stage: Sharded,
    work: Work,
    shards: Sequence[list[Record]],
    ledger: Ledger,
    holder: Holder,
    *,
    start: int = 0,
    told: Callable[[int], None] = lambda _: None,
) -> int:
    """Work on free shards until there is none; return how many were tried.

    Args:
        stage: Whose shards they are.
        work: Makes one shard.
        shards: Records of all shards.
        ledger: Says which are free.
        holder: Who works.
        start: The shard to begin with; the others follow in turn.
        told: Is called with the number of every shard that is done.

    Raises:
        UserError: for settings, files or a disk that cannot be used.
        StageError: if no image can be used.
    """
    busy = ledger.snapshot().busy
    order = [*range(start, len(shards)), *range(min(start, len(shards)))]
    tried = 0
    with contextlib.ExitStack() as stack:
        for shard in order:
            lease = None if shard in busy else ledger.take(shard, holder)
            if lease is None:
                continue
            try:
                if not tried:
                    stack.enter_context(steady_blas())
                tried += 1
                if attempt(stage, work, shard, shards[shard], ledger, lease):
                    told(shard)
            finally:
                lease.release()
    return tried


def attempt(
    stage: Sharded,
    work: Work,
    shard: int,
    records: list[Record],
    ledger: Ledger,
    lease: Lease,
) -> bool:
    """Try a shard once; return whether it is done. See ``drain`` for the errors."""
    try:
        trouble = ledger.trouble(shard)
        if trouble.isolate:
            _isolate(stage, work, shard, records, ledger, lease)
        stage.set_aside(ledger.trouble(shard).aside)
        with _turn(stage, Turn(lease)) as files:
            work(shard, records)
        ledger.settle(shard, lease, files)
    except (UserError, StageError):
        raise
    except LeaseLostError as error:
        logger.warning("%s: shard %d: %s; leaving it", stage.name, shard, error)
        return False
    except Exception as error:
        logger.warning("%s: shard %d failed", stage.name, shard, exc_info=True)
        ledger.fail(shard, _told(error), raised=True)
        return False
    return True


def _isolate(
    stage: Sharded,
    work: Work,
    shard: int,
    records: list[Record],
    ledger: Ledger,
    lease: Lease,
) -> None:
    """Try every image of a shard alone, and write down which pass and which fail.

    What ``work`` writes meanwhile is worth nothing; the whole shard is made after it. An error
    before the image was met says nothing about the image, and passes through.
    """
    logger.warning("%s: shard %d failed twice; trying its images alone", stage.name, shard)
    for record in records:
        name = record["file_name"]
        while not _settled(ledger.trouble(shard), name):
            turn = Turn(lease, name)
            try:
                with _turn(stage, turn):
                    work(shard, records)
            except (UserError, StageError, LeaseLostError):
                raise
            except Exception as error:
                if not turn.met:
                    raise
                ledger.fail(shard, _told(error), image=name, raised=True)
            else:
                if not turn.asked:  # a phase that reads no photographs
                    return
                trouble = ledger.trouble(shard)
                trouble.fine.append(name)
                ledger.write_trouble(shard, trouble)
            finally:
                lease.tell("")
        _check_some_pass(stage, shard, ledger)


def _settled(trouble: Trouble, name: str) -> bool:
    return name in trouble.fine or name in trouble.aside


def _check_some_pass(stage: Sharded, shard: int, ledger: Ledger) -> None:
    trouble = ledger.trouble(shard)
    if trouble.fine or len(trouble.aside) < NOT_THE_IMAGES or ledger.snapshot().done:
        return
    name, reason = next(iter(trouble.aside.items()))
    raise StageError(
        f"stage {stage.name} fails for every image it tries, so it is no image's fault; the "
        f"first, {name}: {reason}. When that is mended, run again with --retry-failed"
    )


@contextlib.contextmanager
def _turn(stage: Sharded, turn: Turn) -> Iterator[list[Path]]:
    """Let the stage work under a lease; yield the list that gets the files it writes."""
    files: list[Path] = []

    def note(path: Path) -> None:
        files.append(path)
        if turn.lease:
            turn.lease.beat()

    stage.turn = turn
    try:
        with heard(note):
            yield files
    finally:
        stage.turn = Turn()


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
