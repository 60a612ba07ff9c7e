"""A pool of worker processes: hands shards to them and replaces those that end.

An executor starts processes with a ``Worker`` each, gives them tasks and tells what came of them.
What became of the shards themselves is in the ledger.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from u2seg.errors import StageError, UserError
from u2seg.shards.attempts import Phase, attempt
from u2seg.shards.ledger import Ledger, ShardLostError
from u2seg.shards.threads import limit_threads, steady_blas

logger = logging.getLogger(__name__)
BARREN = 20
"""So many workers in a row that end before they begin a shard: workers cannot live here."""
ERRORS = {"UserError": UserError, "StageError": StageError}


class PhaseSource(Protocol):
    """Builds a phase in a worker process, to which it is pickled."""

    def open(self, stage: str, phase: str, gpu: int | None) -> Phase:
        """Return the phase; ``gpu`` is the number of the worker where all see all GPUs."""


@dataclass(frozen=True)
class Job:
    """What every worker of a run needs to know; it is pickled."""

    source: PhaseSource
    run: str  # of the driver, unique
    threads: int  # of each worker
    deal_gpus: bool  # whether the workers share a machine and deal its GPUs out among them
    folder: str  # the driver's working directory, where relative paths begin
    output: Path  # of the run, for logs of an executor


@dataclass(frozen=True)
class Task:
    """Shards of a phase to make, one after the other."""

    stage: str
    phase: str
    shards: tuple[int, ...]


class Worker:
    """Makes shards in a process that is not the driver's; keeps a phase's models between tasks."""

    def __init__(self, job: Job, number: int) -> None:
        self.job = job
        self.number = number
        self.name = f"worker-{number}-{job.run}-{uuid.uuid4().hex[:8]}"
        self._phase: Phase | None = None
        self._opened = ("", "")
        logging.basicConfig(
            format=f"%(levelname)s worker {number}: %(message)s", level=logging.WARNING
        )

    def work(self, task: Task) -> tuple[str, str] | None:
        """Make shards; return kind and text of the error that ends the run, None if there is none.

        Errors cross process borders as text: nothing depends on how an executor pickles them.
        """
        try:
            phase = self._open(task)
            with steady_blas():
                for shard in task.shards:
                    while not phase.ledger.is_settled(shard):
                        attempt(phase, shard, self.name)
        except (UserError, StageError) as error:
            return type(error).__name__, str(error)
        except ShardLostError as error:
            logger.warning("%s; leaving it", error)
        return None

    def _open(self, task: Task) -> Phase:
        key = (task.stage, task.phase)
        if self._phase is None or self._opened != key:
            limit_threads(self.job.threads)
            try:
                os.chdir(self.job.folder)
            except OSError as error:
                raise UserError(
                    f"worker on {socket.gethostname()} cannot enter {self.job.folder}: "
                    f"{error.strerror}. All machines must see the same folders"
                ) from error
            gpu = self.number if self.job.deal_gpus else None
            self._phase, self._opened = self.job.source.open(*key, gpu), key
            self._phase.ledger.run = self.job.run
        return self._phase


@dataclass(frozen=True)
class Result:
    """What came of a task."""

    number: int  # of the worker
    lost: str = ""  # why it ended before the task did; empty = the task ended
    error: Exception | None = None  # what ends the run

    @classmethod
    def of(cls, number: int, outcome: tuple[str, str] | None) -> Result:
        """Return the result of a task that ended with what ``Worker.work`` returns."""
        return cls(number, error=ERRORS[outcome[0]](outcome[1]) if outcome else None)


class Executor(Protocol):
    """Starts processes with a ``Worker`` each and has them work."""

    deal_gpus: bool
    """Whether all workers see all GPUs of one machine."""
    whole: bool
    """Whether a worker gets all its shards at once, as a job that waits in a queue does."""

    def threads(self, workers: int) -> int:
        """Return how many threads each of so many workers should use."""

    def give(self, job: Job, tasks: dict[int, Task]) -> None:
        """Give tasks to workers by their numbers; those that are not there are started."""

    def results(self, timeout: float) -> list[Result]:
        """Return what came of tasks, and wait for so many seconds if there is nothing."""

    def stop(self, number: int) -> None:
        """Kill a worker; nothing if there is none of that number."""

    def close(self) -> None:
        """End all workers."""


@dataclass
class WorkerPool:
    """The workers of a run: started when shards wait, replaced when they end.

    Args:
        executor: Starts them.
        size: How many there are at most.
    """

    executor: Executor
    size: int
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _job: Job | None = None
    _given: dict[int, tuple[Ledger, tuple[int, ...]]] = field(default_factory=dict)
    _barren: int = 0

    def open(self, source: PhaseSource, output: Path, threads: int = 0) -> None:
        """Tell what the work is about; no worker starts yet. 0 threads = the executor's share."""
        threads = threads or self.executor.threads(self.size)
        deal = self.executor.deal_gpus
        self._job = Job(source, self.run, threads, deal, os.getcwd(), output)

    def work(
        self, phase: Phase, key: tuple[str, str], waiting: Sequence[int], pause: float
    ) -> None:
        """Give shards to workers that are free, then look what came of those given before.

        Raises:
            UserError: if that ended a task.
            StageError: the same, or if workers end again and again before they begin a shard.
        """
        if self._job is None:
            raise ValueError("a pool must be opened before it works")
        given = {shard for _, shards in self._given.values() for shard in shards}
        rest = [shard for shard in waiting if shard not in given]
        free = [number for number in range(self.size) if number not in self._given]
        each = -(-len(rest) // max(len(free), 1)) if self.executor.whole else 1
        shares = {n: tuple(rest[i :: len(free)][:each]) for i, n in enumerate(free)}
        tasks = {n: Task(*key, share) for n, share in shares.items() if share}
        if tasks:
            self.executor.give(self._job, tasks)
            self._given.update({n: (phase.ledger, task.shards) for n, task in tasks.items()})
        for result in self.executor.results(pause):
            self._take_back(result, phase.name)

    def _take_back(self, result: Result, stage: str) -> None:
        ledger, shards = self._given.pop(result.number, (None, ()))
        if result.error:
            raise result.error
        if not result.lost:
            self._barren = 0
            return
        logger.warning("%s: worker %d ended: %s", stage, result.number, result.lost)
        begun = [ledger.lose(shard, result.lost) for shard in shards] if ledger else []
        self._barren = 0 if any(begun) else self._barren + 1
        if self._barren > BARREN:
            raise StageError(
                f"{BARREN} workers in a row ended before they began to work; the last: "
                f"{result.lost}"
            )

    def stop(self, shard: int) -> None:
        """Kill the worker that has a shard; its place is filled again."""
        for number, (_, shards) in list(self._given.items()):
            if shard in shards:
                del self._given[number]
                self.executor.stop(number)

    def close(self) -> None:
        """End the workers."""
        self._given.clear()
        self.executor.close()
