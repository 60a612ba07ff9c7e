"""Executors by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from u2seg.errors import UserError
from u2seg.pipeline.executors.base import Crew, Executor
from u2seg.pipeline.executors.local import LocalExecutor
from u2seg.pipeline.executors.rays import RayExecutor
from u2seg.pipeline.executors.slurm import SlurmExecutor

EXECUTORS: dict[str, Callable[[dict[str, str]], Executor]] = {
    "local": LocalExecutor,
    "ray": RayExecutor,
    "slurm": SlurmExecutor,
}


def build_crew(executor: str, workers: int, options: Sequence[str] = ()) -> Crew | None:
    """Return the crew a user asks for; None means that the driver works itself.

    Args:
        executor: One of ``EXECUTORS``.
        workers: How many processes, >= 1; one on this machine is the driver itself.
        options: ``KEY=VALUE`` each; see the executors.

    Raises:
        UserError: for an unknown executor or option, a number below 1, or what the executor
            needs and has not.

    Examples:
        >>> build_crew("local", 1) is None, build_crew("local", 4).size
        (True, 4)
    """
    if executor not in EXECUTORS:
        raise UserError(f"unknown executor {executor!r}: known are {', '.join(EXECUTORS)}")
    if workers < 1:
        raise UserError(f"--workers is {workers}, expected a number >= 1")
    pairs = dict(_pair(option) for option in options)
    if executor == "local" and workers == 1 and not pairs:
        return None
    return Crew(EXECUTORS[executor](pairs), workers)


def _pair(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not key or not equals:
        raise UserError(f"--executor-options {option}: expected KEY=VALUE")
    return key, value
