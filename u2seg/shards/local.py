"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process

from u2seg.errors import UserError
from u2seg.shards.pool import Job, Result, Task, Worker
from u2seg.shards.threads import cores

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
