"""What an executor is, and the crew of workers that a driver keeps with one."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from u2seg.config.load import settings_hash
from u2seg.errors import StageError, UserError
from u2seg.io.atomic import write_json
from u2seg.pipeline.ledger import Snapshot

if TYPE_CHECKING:
    from u2seg.pipeline.stage import RunContext

logger = logging.getLogger(__name__)
BARREN = 20
"""So many workers in a row that end before they take a shard: workers cannot live here."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; it is pickled.

    Args:
        context: Of the run, without what only the driver has.
        workers: How many work on it.
        threads: Threads of each.
        deal_gpus: Whether the workers share a machine and deal its GPUs out among them.
        folder: The driver's working directory, where relative paths of the settings begin.
    """

    context: RunContext
    workers: int
    threads: int
    deal_gpus: bool
    folder: str

    @property
    def token(self) -> str:
        """What a published phase must name to be this job's: settings and photographs."""
        return job_token(self.context)


def job_token(context: RunContext) -> str:
    """Return a digest of what decides a run's labels."""
    settings = settings_hash(context.settings)
    return f"{settings} {context.limit} {context.source.root}"


@dataclass(frozen=True)
class Ended:
    """A worker that ended: its name, why, and the error it raised, if it did."""

    worker: str
    reason: str
    error: BaseException | None = None

    @classmethod
    def told(cls, worker: str, kind: str, text: str) -> Ended:
        """Return the end of a worker that told of its error by kind and text."""
        error = {"UserError": UserError, "StageError": StageError}[kind](text)
        return cls(worker, text, error)


class Executor(Protocol):
    """Starts processes that call ``worker.serve(job, name, number)``."""

    deal_gpus: bool
    """Whether all workers see all GPUs of one machine."""

    def threads(self, workers: int) -> int:
        """Return how many threads each of so many workers should use."""

    def start(self, job: Job, workers: dict[str, int]) -> None:
        """Start workers: name -> number."""

    def ended(self) -> list[Ended]:
        """Return the workers that ended since the last call."""

    def stop(self, name: str) -> None:
        """Kill a worker; nothing if there is none of that name."""

    def close(self) -> None:
        """End all workers."""


@dataclass
class Crew:
    """The workers of a run: started when shards wait, replaced when they end.

    Args:
        executor: Starts them.
        size: How many there are at most.
    """

    executor: Executor
    size: int
    _numbers: dict[str, int] = field(default_factory=dict)
    _context: Any = None
    _barren: int = 0
    _done: int = -1
    _run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _serial: int = 0

    def open(self, context: RunContext) -> None:
        """Tell what the work is about; no worker starts yet."""
        self._context = dataclasses.replace(context, crew=None, progress=False)

    def publish(self, stage: str, method: str) -> None:
        """Write which phase is at work, for the workers to read."""
        self._serial += 1
        phase = {
            "serial": f"{self._run}-{self._serial}",
            "stage": stage,
            "method": method,
            "token": job_token(self._context),
        }
        write_json(self._context.space.phase, phase)

    def staff(self, waiting: int) -> None:
        """Have a worker for each waiting shard, up to ``size``."""
        wanted = min(waiting, self.size) - len(self._numbers)
        if wanted <= 0:
            return
        free = sorted(set(range(self.size)) - set(self._numbers.values()))[:wanted]
        workers = {}
        for number in free:
            self._serial += 1
            workers[f"worker-{number}-{self._run}-{self._serial}"] = number
        threads = self._context.settings.run.threads or self.executor.threads(self.size)
        job = Job(self._context, self.size, threads, self.executor.deal_gpus, os.getcwd())
        self.executor.start(job, workers)
        self._numbers.update(workers)

    def tend(self, look: Snapshot) -> dict[str, str]:
        """Forget workers that ended, so that ``staff`` replaces them; return them -> why.

        Raises:
            UserError: if that ended a worker.
            StageError: the same, or if workers end again and again before they take a shard.
        """
        holders = {mark.holder.name for mark in look.leases.values() if mark.holder}
        if holders or len(look.done) != self._done:
            self._barren, self._done = 0, len(look.done)
        reasons = {}
        for ended in self.executor.ended():
            if isinstance(ended.error, UserError | StageError):
                raise ended.error
            if self._numbers.pop(ended.worker, None) is None:
                continue
            logger.warning("%s ended: %s", ended.worker, ended.reason)
            reasons[ended.worker] = ended.reason
            self._barren += ended.worker not in holders
            if self._barren > BARREN:
                raise StageError(
                    f"{BARREN} workers in a row ended before they began to work; the last: "
                    f"{ended.reason}"
                )
        return reasons

    def owns(self, worker: str) -> bool:
        """Return whether it is one of this crew, not yet seen to have ended."""
        return worker in self._numbers

    def stop(self, worker: str) -> None:
        """Kill a worker that hangs; its place is filled again."""
        if self._numbers.pop(worker, None) is not None:
            self.executor.stop(worker)

    def close(self) -> None:
        """Tell the workers that there is no more work, and end them."""
        if self._context is not None:
            self._context.space.phase.unlink(missing_ok=True)
        self._numbers.clear()
        self.executor.close()


def outcome(job: Job, name: str, number: int) -> tuple[str, str] | None:
    """Serve; return kind and text of the error that ends the run, None if there is none.

    Errors cross process borders as text, so that nothing depends on how an executor pickles them.
    """
    from u2seg.pipeline.executors.worker import serve

    try:
        enter(job.folder)
        serve(job, name, number)
    except (UserError, StageError) as error:
        return type(error).__name__, str(error)
    return None


def enter(folder: str) -> None:
    """Work where the driver does; UserError if that folder is not there."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"worker on {socket.gethostname()} cannot enter {folder}: {error.strerror}. All "
            "machines must see the same folders under the same paths"
        ) from error


def take(options: dict[str, str], key: str, default: int) -> int:
    """Remove a whole number >= 0 from the options and return it; UserError if it is none."""
    text = options.pop(key, str(default))
    if not text.isdigit():
        raise UserError(f"--executor-options {key}={text}: expected a whole number")
    return int(text)
