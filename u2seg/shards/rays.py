"""Ray actors, on one machine or many. Ray schedules them, restarts them and calls them again."""

from __future__ import annotations

import socket
from typing import Any

from u2seg.errors import UserError
from u2seg.io.packaged import install_command
from u2seg.shards.pool import BARREN, Job, Result, Task, Worker, whole_number

GOODBYE_S = 5.0


class RayExecutor:
    """Keeps long-lived actors on a Ray cluster; a GPU of each holds its models between shards.

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
