"""Where worker processes come from: this machine, Ray, Slurm."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from typing import Any

from u2seg.errors import UserError
from u2seg.io.packaged import install_command
from u2seg.shards.pool import BARREN, Executor, Job, Result, Task, Worker, WorkerPool
from u2seg.shards.threads import cores

GOODBYE_S = 5.0
"""How long workers may take to end by themselves."""
SLURM_FOLDER = ".slurm"
"""Below the output folder: scripts and logs of the jobs."""
A_DAY = 1440


def whole_number(options: dict[str, str], key: str, default: int) -> int:
    """Remove a whole number >= 0 from the options and return it; UserError if it is none."""
    text = options.pop(key, str(default))
    if not text.isdigit():
        raise UserError(f"--executor-options {key}={text}: expected a whole number")
    return int(text)


class LocalExecutor:
    """Starts processes with ``spawn``: nothing of the driver's threads or GPU is inherited.

    There are no options: UserError if there are any.
    """

    deal_gpus = True
    whole = False

    def __init__(self, options: dict[str, str]) -> None:
        if options:
            raise UserError(f"--executor-options {', '.join(options)}: local has none")
        self._mp = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def threads(self, workers: int) -> int:
        """Return a worker's share of the cores."""
        return max(cores() // workers, 1)

    def give(self, job: Job, tasks: dict[int, Task]) -> None:
        """Send tasks through pipes."""
        for number, task in tasks.items():
            if number not in self._workers:
                mine, theirs = self._mp.Pipe(duplex=True)
                process = self._mp.Process(target=_main, args=(job, number, theirs), daemon=True)
                process.start()
                theirs.close()
                self._workers[number] = (process, mine)
            try:
                self._workers[number][1].send(task)
            except OSError:  # it died meanwhile; ``results`` tells why
                continue

    def results(self, timeout: float) -> list[Result]:
        """Return what came through the pipes; a pipe that ended means a process that did."""
        ready = wait([pipe for _, pipe in self._workers.values()], timeout)
        results = []
        for number, (process, pipe) in list(self._workers.items()):
            if pipe not in ready:
                continue
            try:
                results.append(Result.of(number, pipe.recv()))
            except (EOFError, OSError):
                process.join()
                results.append(Result(number, lost=_reason(process.exitcode)))
                self._forget(number)
        return results

    def stop(self, number: int) -> None:
        """Kill a process at once: one that hangs answers nothing else."""
        if number in self._workers:
            self._workers[number][0].kill()
            self._forget(number)

    def close(self) -> None:
        """Wait a moment for the processes to end, then kill them."""
        for _, pipe in self._workers.values():
            pipe.close()
        end = time.monotonic() + GOODBYE_S
        for process, _ in self._workers.values():
            process.join(max(end - time.monotonic(), 0))
        for number in list(self._workers):
            self.stop(number)

    def _forget(self, number: int) -> None:
        process, pipe = self._workers.pop(number)
        process.join()
        process.close()
        pipe.close()


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"ended with exit code {code}"


def _main(job: Job, number: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    _end_with_driver()
    worker = Worker(job, number)
    while True:
        try:
            pipe.send(worker.work(pipe.recv()))
        except (EOFError, OSError):  # the driver closed the pipe
            return


def _end_with_driver() -> None:
    """End this process as soon as the driver is gone, however it went."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class RayExecutor:
    """Keeps long-lived actors, with their models, on a Ray cluster; Ray restarts and calls again.

    All nodes must see the photographs and the output folder under the same paths.

    Args:
        options: ``address`` of a cluster (default: one is started on this machine), ``cpus`` (1)
            and ``gpus`` (0) of each worker.

    Raises:
        UserError: if Ray is not installed, the cluster cannot be reached, or for other options.
    """

    deal_gpus = False  # Ray shows each actor its own
    whole = False

    def __init__(self, options: dict[str, str]) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(f"--executor ray needs Ray: {install_command('ray')}") from error
        options = dict(options)
        self._cpus, self._gpus = whole_number(options, "cpus", 1), whole_number(options, "gpus", 0)
        address = options.pop("address", None)
        if options:
            raise UserError(
                f"--executor-options {', '.join(options)}: Ray knows address, cpus, gpus"
            )
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                _knock(address)
                ray.init(address=address, include_dashboard=None if address else False)
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(f"no Ray cluster answers at {address}: {error}") from error
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}

    def threads(self, workers: int) -> int:
        """Return the CPUs that Ray keeps for a worker."""
        return max(self._cpus, 1)

    def give(self, job: Job, tasks: dict[int, Task]) -> None:
        """Call actors; those that find no room wait in Ray's queue."""
        for number, task in tasks.items():
            if number not in self._actors:
                actor = self._ray.remote(
                    num_cpus=self._cpus, num_gpus=self._gpus,
                    max_restarts=BARREN, max_task_retries=BARREN,
                )(Worker)  # fmt: skip
                self._actors[number] = actor.remote(job, number)
            self._calls[self._actors[number].work.remote(task)] = number

    def results(self, timeout: float) -> list[Result]:
        """Return the calls that ended."""
        if not self._calls:
            return []
        ready, _ = self._ray.wait(list(self._calls), timeout=timeout)
        results = []
        for call in ready:
            number = self._calls.pop(call)
            try:
                results.append(Result.of(number, self._ray.get(call)))
            except self._ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                results.append(Result(number, lost=f"{type(error).__name__}: {reason}"))
                self._actors.pop(number, None)
        return results

    def stop(self, number: int) -> None:
        """Kill an actor for good."""
        if number in self._actors:
            self._ray.kill(self._actors.pop(number))
            self._calls = {call: other for call, other in self._calls.items() if other != number}

    def close(self) -> None:
        """End the actors; leave the cluster."""
        for number in list(self._actors):
            self.stop(number)
        if self._ours:
            self._ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError if nobody listens at a ``host:port``; Ray would try for ten minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class ArrayTask:
    """What a task of an array runs.

    Preempted or out of time it is put into the queue again, and goes on with what is left then.
    """

    def __call__(self, job: Job, number: int, task: Task) -> tuple[str, str] | None:
        """Make shards; see ``Worker.work``."""
        return Worker(job, number).work(task)

    def checkpoint(self, job: Job, number: int, task: Task) -> Any:
        """Return what submitit puts into the queue again: the same task."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job, number, task)


class SlurmExecutor:
    """Submits job arrays through submitit; each task makes its share of the shards.

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
                job.output / SLURM_FOLDER / "%j", cluster=self._cluster
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


def build_pool(executor: str, workers: int, options: Sequence[str] = ()) -> WorkerPool | None:
    """Return the pool a user asks for; None means that the driver works itself.

    Args:
        executor: ``local``, ``ray`` or ``slurm``.
        workers: How many processes, >= 1; one on this machine is the driver itself.
        options: ``KEY=VALUE`` each; see the executors.

    Raises:
        UserError: for an unknown executor or option, or what the executor needs and has not.

    Examples:
        >>> build_pool("local", 1) is None, build_pool("local", 4).size
        (True, 4)
    """
    executors: dict[str, Callable[[dict[str, str]], Executor]] = {
        "local": LocalExecutor, "ray": RayExecutor, "slurm": SlurmExecutor,
    }  # fmt: skip
    if executor not in executors:
        raise UserError(f"unknown executor {executor!r}: known are {', '.join(executors)}")
    if workers < 1:
        raise UserError(f"--workers is {workers}, expected a number >= 1")
    pairs = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not key or not equals:
            raise UserError(f"--executor-options {option}: expected KEY=VALUE")
        pairs[key] = value
    if executor == "local" and workers == 1 and not pairs:
        return None
    return WorkerPool(executors[executor](pairs), workers)
