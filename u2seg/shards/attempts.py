"""One attempt at a shard; after failures, image by image.

What may be at fault decides what happens. A ``UserError`` or ``StageError`` is the fault of the
settings or the disk: it ends the run. Anything else may be the fault of an image: the shard is
tried again, then taken apart, and the image at fault is set aside by name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from u2seg.errors import StageError, UserError
from u2seg.shards.ledger import Ledger, Mark, ShardLostError, Trouble
from u2seg.shards.records import Record

logger = logging.getLogger(__name__)
NOT_THE_IMAGES = 3
"""So many images of the first shard that fail alone, and none that passes: it is not the images."""


@dataclass
class Part:
    """What is to be made: a shard, or one image of it alone."""

    index: int
    records: list[Record]
    aside: Mapping[str, str] = field(default_factory=dict)  # images not to be read -> why
    mark: Mark | None = None  # touched with every image
    only: str = ""  # the one image to work on; empty = all
    asked: bool = False  # whether images were asked for
    met: bool = False  # whether the only one was met

    def each(self, records: Iterable[Record] | None = None) -> Iterator[Record]:
        """Yield the records to work on, of these or of all; ShardLostError if it was given away."""
        self.asked = True
        for record in self.records if records is None else records:
            if self.mark:
                self.mark.beat()
            if self.only and record["file_name"] != self.only:
                continue
            if self.only and self.mark:
                self.met = True
                self.mark.write(self.only)  # if this process dies now, this image was at work
            yield record


Work = Callable[[Part], list[Path]]
"""Makes a part and returns the files it wrote; called again it writes the same files."""


@dataclass
class Phase:
    """Work on all shards of something."""

    name: str  # for messages
    shards: Sequence[list[Record]]
    ledger: Ledger
    work: Work
    aside: Mapping[str, str] = field(default_factory=dict)  # by other phases -> why

    def part(self, shard: int, mark: Mark, only: str = "") -> Part:
        """Return what ``work`` is to make of a shard."""
        aside = {**self.aside, **self.ledger.trouble(shard).aside}
        return Part(shard, self.shards[shard], aside, mark, only)


def attempt(phase: Phase, shard: int, worker: str) -> None:
    """Try a shard once, unless it is settled; what came of it is in the ledger.

    Raises:
        UserError: for settings, files or a disk that cannot be used.
        StageError: if no image can be used.
        ShardLostError: if another driver has taken over.
    """
    ledger = phase.ledger
    mark = ledger.take(shard, worker)
    if mark is None:
        if not ledger.is_settled(shard):
            raise ShardLostError("another driver is at work")
        return
    try:
        if ledger.trouble(shard).isolate:
            _isolate(phase, shard, mark)
        ledger.settle(shard, mark, phase.work(phase.part(shard, mark)))
    except (UserError, StageError, ShardLostError):
        raise
    except Exception as error:
        logger.warning("%s: shard %d failed", phase.name, shard, exc_info=True)
        ledger.fail(shard, _in_words(error), raised=True)
    finally:
        mark.remove()


def _isolate(phase: Phase, shard: int, mark: Mark) -> None:
    """Try every image of a shard alone, and write down which pass and which fail.

    What ``work`` writes meanwhile is worth nothing; the whole shard is made after it. An error
    before the image was met says nothing about the image, and passes through.
    """
    ledger = phase.ledger
    logger.warning("%s: shard %d failed twice; trying its images alone", phase.name, shard)
    for record in phase.shards[shard]:
        name = record["file_name"]
        while not _judged(ledger.trouble(shard), name):
            part = phase.part(shard, mark, name)
            try:
                phase.work(part)
            except (UserError, StageError, ShardLostError):
                raise
            except Exception as error:
                if not part.met:
                    raise
                ledger.fail(shard, _in_words(error), image=name, raised=True)
            else:
                if not part.asked:  # a phase that reads no photographs
                    return
                ledger.passed(shard, name)
            finally:
                if mark.holds():
                    mark.write()
        _check_some_pass(phase, shard)


def _judged(trouble: Trouble, name: str) -> bool:
    return name in trouble.fine or name in trouble.aside


def _check_some_pass(phase: Phase, shard: int) -> None:
    trouble = phase.ledger.trouble(shard)
    if trouble.fine or len(trouble.aside) < NOT_THE_IMAGES or phase.ledger.snapshot().done:
        return
    name, reason = next(iter(trouble.aside.items()))
    raise StageError(
        f"stage {phase.name} fails for every image it tries, so it is no image's fault; the "
        f"first, {name}: {reason}. When that is mended, run again with --retry-failed"
    )


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
