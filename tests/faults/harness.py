"""What the fault tests share: results without notes, and workers that can be made to fail."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from u2seg.config.schema import Settings
from u2seg.pipeline import generate_labels
from u2seg.pipeline.workspace import LEDGER
from u2seg.shards.executors import LocalExecutor
from u2seg.shards.pool import WorkerPool

Setup = Callable[[int], None]
"""Is called in a worker process, with its number, before it begins."""
PRELOAD = [
    "faiss",
    "timm",
    "u2seg.pipeline.runner",
    "u2seg.features.filter_bank",
    "u2seg.features.vit",
    "u2seg.masks.maskcut",
    "u2seg.semantics.stego",
    "tests.faults.warm",
]


def results(folder: Path) -> dict[str, bytes]:
    """Every file of a run but notes about the running: ledgers, hidden files, seconds."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        name.as_posix(): (folder / name).read_bytes()
        for name in names
        if name.name != "timings.json"
        and not any(part == LEDGER or part.startswith(".") for part in name.parts)
    }


def receipts(output: Path) -> int:
    """Return how many shards are done in all phases."""
    return sum(1 for _ in output.glob(f"*/{LEDGER}/*/*.done"))


def workers_at(output: Path) -> Iterator[int]:
    """Yield the process ids of the workers that are at a shard."""
    for path in output.glob(f"*/{LEDGER}/*/*.at"):
        with contextlib.suppress(OSError, ValueError):
            mark = json.loads(path.read_bytes())
            if mark["worker"] != "driver":
                yield int(mark["pid"])


def forkserver() -> Any:
    """Return a context whose processes have the libraries loaded when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@dataclass
class _Prepared:
    """A multiprocessing context whose processes call ``setup`` first."""

    context: Any
    setup: Setup | None

    def Pipe(self, duplex: bool) -> Any:
        return self.context.Pipe(duplex)

    def Process(
        self, target: Callable[..., None], args: tuple[Any, ...], **options: Any
    ) -> BaseProcess:
        process: BaseProcess = self.context.Process(
            target=_prepared, args=(self.setup, target, *args), **options
        )
        return process


def _prepared(setup: Setup | None, target: Callable[..., None], *arguments: Any) -> None:
    _, number, *_ = arguments
    if setup:
        setup(number)
    target(*arguments)


class QuickExecutor(LocalExecutor):
    """The local executor, with processes that start in a moment and may be made to fail."""

    def __init__(self, setup: Setup | None = None) -> None:
        super().__init__({})
        self._mp = _Prepared(forkserver(), setup)  # type: ignore[assignment]


def run_with(
    settings: Settings, photos: Path, output: Path, workers: int = 2, setup: Setup | None = None
) -> None:
    """Label with worker processes, this one being the driver; with 0 it works alone."""
    pool = WorkerPool(QuickExecutor(setup), workers) if workers else None
    generate_labels(settings, photos, output, progress=False, pool=pool)


def start_driver(
    settings: Settings, photos: Path, output: Path, workers: int, setup: Setup | None = None
) -> BaseProcess:
    """Start a driver as a process of its own."""
    process: BaseProcess = forkserver().Process(
        target=run_with, args=(settings, photos, output, workers, setup)
    )
    process.start()
    return process


def before_reading(act: Callable[[str], None]) -> None:
    """Have ``act(path)`` called in this process before a photograph is read."""
    from u2seg.pipeline import stage

    real = stage.read_content

    def read(place: Any, max_pixels: int) -> bytes:
        act(str(place))
        return real(place, max_pixels)

    stage.read_content = read


def die_at(name: str) -> Setup:
    """Have workers killed, as for want of memory, whenever they read this photograph."""
    return partial(_signal_at, name, signal.SIGKILL)


def _signal_at(name: str, number: signal.Signals, _: int) -> None:
    def act(path: str) -> None:
        if path.endswith(name):
            os.kill(os.getpid(), number)

    before_reading(act)


def dawdle(_: int) -> None:
    """Have a worker take its time with every image and file, so that kills find it at work."""
    from u2seg.shards.ledger import Mark

    real = Mark.beat

    def beat(mark: Mark) -> None:
        time.sleep(0.04)
        real(mark)

    Mark.beat = beat  # type: ignore[method-assign]


def hang_once(flag: Path) -> Setup:
    """Have the first worker that reads a photograph stop for good; ``flag`` says that it did."""
    return partial(_hang_once, flag)


def _hang_once(flag: Path, _: int) -> None:
    def act(_: str) -> None:
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            return
        flag.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)

    before_reading(act)


def skew_clock(flag: Path) -> Setup:
    """Set the clock of even workers an hour ahead, of odd ones an hour behind.

    ``flag`` says that a mark was touched with such a time.
    """
    return partial(_skew_clock, flag)


def _skew_clock(flag: Path, number: int) -> None:
    shift = 3600.0 if number % 2 == 0 else -3600.0
    now, utime = time.time, os.utime
    time.time = lambda: now() + shift

    def touch(path: Any, times: Any = None, **options: Any) -> None:
        if times is None and "ns" not in options:
            times = (time.time(), time.time())
            flag.write_bytes(b"")
        utime(path, times, **options)

    os.utime = touch  # type: ignore[assignment]
