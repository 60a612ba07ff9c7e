"""What an executor is, and the crew of workers that a driver keeps with one."""

from __future__ import annotations

import dataclasses
import logging
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
        threads: Threads of each; 0 = its share of the machine's cores.
        here: Whether all of them share this machine.
    """

    context: RunContext
    workers: int
    threads: int
    here: bool

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


class Executor(Protocol):
    """Starts processes that call ``worker.serve(job, name, number)``."""

    here: bool
    """Whether all workers share the driver's machine."""

    def start(self, job: Job, name: str, number: int) -> None:
        """Start a worker."""

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
        free = set(range(self.size)) - set(self._numbers.values())
        for number in sorted(free)[: max(min(waiting, self.size) - len(self._numbers), 0)]:
            self._serial += 1
            name = f"worker-{number}-{self._run}-{self._serial}"
            job = Job(
                self._context, self.size, self._context.settings.run.threads, self.executor.here
            )
            self.executor.start(job, name, number)
            self._numbers[name] = number

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
