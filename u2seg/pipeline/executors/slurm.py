"""Slurm job arrays through submitit: each task is a worker that leases shards.

A task that is preempted or runs out of time is put into the queue again and goes on with the
shards that are left then.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from u2seg.errors import UserError
from u2seg.io.packaged import install_command
from u2seg.pipeline.executors.base import Ended, Job, outcome, take

FOLDER = ".slurm"
"""Below the output folder: scripts and logs of the jobs."""
A_DAY = 1440
GOODBYE_S = 5.0


class Task:
    """What a job runs."""

    def __call__(self, job: Job, name: str, number: int) -> tuple[str, str] | None:
        """Work until there is no more; see ``outcome``."""
        logging.basicConfig(format=f"%(levelname)s {name}: %(message)s", level=logging.WARNING)
        return outcome(job, name, number)

    def checkpoint(self, job: Job, name: str, number: int) -> Any:
        """Return what is put into the queue again: the same task."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job, name, number)


class SlurmExecutor:
    """Submits arrays of workers.

    All nodes must see the photographs and the output folder under the same paths.

    Args:
        options: submitit's parameters: ``slurm_partition``, ``timeout_min`` (1440), ``mem_gb``,
            ``cpus_per_task`` (1), ``gpus_per_node`` ...; ``cluster=local`` runs the same on this
            machine without Slurm.

    Raises:
        UserError: if submitit is not installed.
    """

    deal_gpus = False  # Slurm shows each task its own

    def __init__(self, options: dict[str, str]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                f"--executor slurm needs submitit: {install_command('slurm')}"
            ) from error
        self._submitit: Any = submitit
        options = dict(options)
        self._cluster = options.pop("cluster", "slurm")
        self._cpus = max(take(options, "cpus_per_task", 1), 1)
        self._parameters: dict[str, Any] = {
            "name": "u2seg",
            "timeout_min": take(options, "timeout_min", A_DAY),
            "cpus_per_task": self._cpus,
            "slurm_additional_parameters": {"requeue": True},
            **{key: int(text) if text.isdigit() else text for key, text in options.items()},
        }
        self._jobs: dict[str, Any] = {}

    def threads(self, workers: int) -> int:
        """Return the CPUs of a task."""
        return self._cpus

    def start(self, job: Job, workers: dict[str, int]) -> None:
        """Submit one array; UserError if Slurm or submitit refuses it."""
        try:
            executor = self._submitit.AutoExecutor(
                job.context.space.root / FOLDER / "%j", cluster=self._cluster
            )
            executor.update_parameters(**self._parameters)
            names = list(workers)
            jobs = executor.map_array(Task(), [job] * len(names), names, workers.values())
        except (RuntimeError, ValueError, NameError, TypeError, OSError) as error:
            raise UserError(f"Slurm takes no jobs: {error} (--executor-options)") from error
        self._jobs.update(zip(names, jobs, strict=True))

    def ended(self) -> list[Ended]:
        """Return the tasks that ended for good."""
        found = []
        for name, job in list(self._jobs.items()):
            if not job.done():
                continue
            del self._jobs[name]
            try:
                told = job.result()
            except Exception as error:  # noqa: BLE001 - whatever the task raised
                lines = str(error).strip().splitlines() or [""]
                found.append(Ended(name, f"job {job.job_id}: {lines[-1]}"))
            else:
                found.append(Ended.told(name, *told) if told else Ended(name, "ended"))
        return found

    def stop(self, name: str) -> None:
        """Cancel a task."""
        if name in self._jobs:
            self._jobs.pop(name).cancel(check=False)

    def close(self) -> None:
        """Wait a moment for the tasks to end, then cancel them: there is no more work."""
        self._wait()
        for job in self._jobs.values():
            if not job.done():
                job.cancel(check=False)
        self._wait()
        self._jobs.clear()

    def _wait(self) -> None:
        end = time.monotonic() + GOODBYE_S
        while time.monotonic() < end and not all(job.done() for job in self._jobs.values()):
            time.sleep(0.1)
