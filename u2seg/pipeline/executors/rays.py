"""Ray actors, on one machine or many: each is a worker that leases shards."""

from __future__ import annotations

import logging
import socket
from typing import Any

from u2seg.errors import UserError
from u2seg.io.packaged import install_command
from u2seg.pipeline.executors.base import Ended, Job, outcome, take

GOODBYE_S = 5.0


class Worker:
    """The actor."""

    def serve(self, job: Job, name: str, number: int) -> tuple[str, str] | None:
        """Work until there is no more; see ``outcome``."""
        logging.basicConfig(format=f"%(levelname)s {name}: %(message)s", level=logging.WARNING)
        return outcome(job, name, number)


def _knock(address: str | None) -> None:
    """Raise OSError if nobody listens at a ``host:port``; Ray would try for ten minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


class RayExecutor:
    """Starts actors on a Ray cluster.

    All nodes must see the photographs and the output folder under the same paths.

    Args:
        options: ``address`` of a cluster (default: one is started on this machine), ``cpus`` (1)
            and ``gpus`` (0) of each worker.

    Raises:
        UserError: if Ray is not installed, the cluster cannot be reached, or for other options.
    """

    deal_gpus = False  # Ray shows each actor its own

    def __init__(self, options: dict[str, str]) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(f"--executor ray needs Ray: {install_command('ray')}") from error
        options = dict(options)
        self._cpus, self._gpus = take(options, "cpus", 1), take(options, "gpus", 0)
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
        self._workers: dict[str, tuple[Any, Any]] = {}

    def threads(self, workers: int) -> int:
        """Return the CPUs that Ray keeps for a worker."""
        return max(self._cpus, 1)

    def start(self, job: Job, workers: dict[str, int]) -> None:
        """Start actors; those that find no room wait in Ray's queue."""
        actor = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(Worker)
        for name, number in workers.items():
            handle = actor.remote()
            self._workers[name] = (handle, handle.serve.remote(job, name, number))

    def ended(self) -> list[Ended]:
        """Return the actors whose loop ended."""
        found = []
        for name, (_, call) in list(self._workers.items()):
            if not self._ray.wait([call], timeout=0)[0]:
                continue
            del self._workers[name]
            try:
                told = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                found.append(Ended(name, f"{type(error).__name__}: {reason}"))
            else:
                found.append(Ended.told(name, *told) if told else Ended(name, "ended"))
        return found

    def stop(self, name: str) -> None:
        """Kill an actor."""
        if name in self._workers:
            self._ray.kill(self._workers.pop(name)[0])

    def close(self) -> None:
        """Wait a moment for the actors to end, then kill them; leave the cluster."""
        calls = [call for _, call in self._workers.values()]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=GOODBYE_S)
        for name in list(self._workers):
            self.stop(name)
        if self._ours:
            self._ray.shutdown()
