"""Slurm job arrays through submitit: each task of an array makes its share of the shards.

A task that is preempted or runs out of time is put into the queue again and goes on with what is
left of its share.
"""

from __future__ import annotations

import time
from typing import Any

from u2seg.errors import UserError
from u2seg.io.packaged import install_command
from u2seg.shards.pool import Job, Result, Task, Worker, whole_number

FOLDER = ".slurm"
"""Below the output folder: scripts and logs of the jobs."""
A_DAY = 1440
GOODBYE_S = 5.0


class ArrayTask:
    """What a task of an array runs."""

    def __call__(self, job: Job, number: int, task: Task) -> tuple[str, str] | None:
        """Make shards; see ``Worker.work``."""
        return Worker(job, number).work(task)

    def checkpoint(self, job: Job, number: int, task: Task) -> Any:
        """Return what is put into the queue again: the same task."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job, number, task)


class SlurmExecutor:
    """Submits arrays of tasks.

    All nodes must see the photographs and the output folder under the same paths.

    Args:
        options: submitit's parameters: ``slurm_partition``, ``timeout_min`` (1440), ``mem_gb``,
            ``cpus_per_task`` (1), ``gpus_per_node`` ...; ``cluster=local`` runs the same on this
            machine without Slurm.

    Raises:
        UserError: if submitit is not installed.
    """

    deal_gpus = False  # Slurm shows each task its own
    whole = True

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
        self._cpus = max(whole_number(options, "cpus_per_task", 1), 1)
        self._parameters: dict[str, Any] = {
            "name": "u2seg",
            "timeout_min": whole_number(options, "timeout_min", A_DAY),
            "cpus_per_task": self._cpus,
            "slurm_additional_parameters": {"requeue": True},
            **{key: int(text) if text.isdigit() else text for key, text in options.items()},
        }
        self._jobs: dict[int, Any] = {}

    def threads(self, workers: int) -> int:
        """Return the CPUs of a task."""
        return self._cpus

    def give(self, job: Job, tasks: dict[int, Task]) -> None:
        """Submit one array; UserError if Slurm or submitit refuses it."""
        try:
            executor = self._submitit.AutoExecutor(
                job.output / FOLDER / "%j", cluster=self._cluster
            )
            executor.update_parameters(**self._parameters)
            numbers = list(tasks)
            jobs = executor.map_array(
                ArrayTask(), [job] * len(numbers), numbers, [tasks[n] for n in numbers]
            )
        except (RuntimeError, ValueError, NameError, TypeError, OSError) as error:
            raise UserError(f"Slurm takes no jobs: {error} (--executor-options)") from error
        self._jobs.update(zip(numbers, jobs, strict=True))

    def results(self, timeout: float) -> list[Result]:
        """Return the tasks that ended for good."""
        if not any(job.done() for job in self._jobs.values()):
            time.sleep(timeout)
        results = []
        for number, job in list(self._jobs.items()):
            if not job.done():
                continue
            del self._jobs[number]
            try:
                results.append(Result.of(number, job.result()))
            except Exception as error:  # noqa: BLE001 - whatever the task raised
                lines = str(error).strip().splitlines() or [""]
                results.append(Result(number, lost=f"job {job.job_id}: {lines[-1]}"))
        return results

    def stop(self, number: int) -> None:
        """Cancel a task."""
        if number in self._jobs:
            self._jobs.pop(number).cancel(check=False)

    def close(self) -> None:
        """Cancel the tasks and wait a moment for their end: there is no more work."""
        jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            if not job.done():
                job.cancel(check=False)
        end = time.monotonic() + GOODBYE_S
        while time.monotonic() < end and not all(job.done() for job in jobs):
            time.sleep(0.1)
