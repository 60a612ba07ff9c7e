"""Executors by name."""

from __future__ import annotations

from u2seg.errors import UserError
from u2seg.pipeline.executors.base import Crew, Executor
from u2seg.pipeline.executors.local import LocalExecutor

EXECUTORS = ("local",)


def build_crew(executor: str, workers: int) -> Crew | None:
    """Return the crew a user asks for; None means that the driver works itself.

    Args:
        executor: One of ``EXECUTORS``.
        workers: How many processes, >= 1; one on this machine is the driver itself.

    Raises:
        UserError: for an unknown executor or a number below 1.
    """
    if executor not in EXECUTORS:
        raise UserError(f"unknown executor {executor!r}: known are {', '.join(EXECUTORS)}")
    if workers < 1:
        raise UserError(f"--workers is {workers}, expected a number >= 1")
    if executor == "local" and workers == 1:
        return None
    chosen: Executor = LocalExecutor()
    return Crew(chosen, workers)
