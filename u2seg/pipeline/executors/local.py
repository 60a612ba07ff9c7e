"""Worker processes on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process

from u2seg.config.env import inherited_threads
from u2seg.errors import UserError
from u2seg.pipeline.executors.base import Ended, Job, outcome
from u2seg.pipeline.executors.threads import share

GOODBYE_S = 5.0
"""How long workers may take to end by themselves."""


class LocalExecutor:
    """Starts processes with ``spawn``: nothing of the driver's threads or GPU is inherited.

    Args:
        options: There are none.

    Raises:
        UserError: if there are any.
    """

    deal_gpus = True

    def __init__(self, options: dict[str, str]) -> None:
        if options:
            raise UserError(f"--executor-options {', '.join(options)}: local has none")
        self._mp = multiprocessing.get_context("spawn")
        self._workers: dict[str, tuple[BaseProcess, Connection]] = {}

    def threads(self, workers: int) -> int:
        """Return a worker's share of the cores."""
        return share(workers)

    def start(self, job: Job, workers: dict[str, int]) -> None:
        """Start processes."""
        for name, number in workers.items():
            mine, theirs = self._mp.Pipe(duplex=False)
            process = self._mp.Process(
                target=_main, args=(job, name, number, theirs), name=name, daemon=True
            )
            with inherited_threads(job.threads):
                process.start()
            theirs.close()
            self._workers[name] = (process, mine)

    def ended(self) -> list[Ended]:
        """Return the processes that ended."""
        found = []
        for name, (process, pipe) in list(self._workers.items()):
            if process.is_alive():
                continue
            told = _told(pipe)
            reason = _reason(process.exitcode)
            found.append(Ended.told(name, *told) if told else Ended(name, reason))
            self._forget(name)
        return found

    def stop(self, name: str) -> None:
        """Kill a process at once: one that hangs answers nothing else."""
        if name in self._workers:
            self._workers[name][0].kill()
            self._forget(name)

    def close(self) -> None:
        """Wait a moment for the processes to end, then kill them."""
        end = time.monotonic() + GOODBYE_S
        for process, _ in self._workers.values():
            process.join(max(end - time.monotonic(), 0))
        for name in list(self._workers):
            self.stop(name)

    def _forget(self, name: str) -> None:
        process, pipe = self._workers.pop(name)
        process.join()
        process.close()
        pipe.close()


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            told = signal.Signals(-code).name
        except ValueError:
            told = str(-code)
        hint = " (out of memory?)" if told == "SIGKILL" else ""
        return f"killed by {told}{hint}"
    return f"ended with exit code {code}"


def _told(pipe: Connection) -> tuple[str, str] | None:
    """Return kind and text of a worker's error, None if it could not tell."""
    try:
        return pipe.recv() if pipe.poll() else None
    except (EOFError, OSError):
        return None


def _main(job: Job, name: str, number: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    _end_with_driver()
    logging.basicConfig(format=f"%(levelname)s {name}: %(message)s", level=logging.WARNING)
    told = outcome(job, name, number)
    if told:
        pipe.send(told)


def _end_with_driver() -> None:
    """End this process as soon as the driver is gone, however it went."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
