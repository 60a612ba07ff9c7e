"""What a training tells while it runs: a line in the log, ``losses.csv``, TensorBoard."""

from __future__ import annotations

import csv
import datetime
import importlib.util
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

from u2seg.engine.loop import Iteration
from u2seg.errors import UserError
from u2seg.io.atomic import append_text, write_text
from u2seg.io.memory import peak_gb

logger = logging.getLogger("detectron2.u2seg")
"""Below the host's logger: what is said here reaches its ``log.txt`` too."""
CSV_NAME = "losses.csv"
JSON_NAME = "metrics.json"
RATES = ("images_per_second", "data_share", "memory_gb", "eta_seconds")


@dataclass
class Meter:
    """Sums of the iterations since they were last taken, and how long one takes on average.

    Examples:
        >>> meter = Meter()
        >>> meter.add(Iteration({}, images=4, data_s=0.5, seconds=2.0))
        >>> meter.add(Iteration({}, images=4, data_s=0.5, seconds=2.0))
        >>> meter.take(remaining=10, memory_gb=1.5)
        {'images_per_second': 2.0, 'data_share': 0.25, 'memory_gb': 1.5, 'eta_seconds': 20.0}
        >>> meter.take(remaining=10, memory_gb=1.5)
        {}
    """

    iterations: int = 0
    images: int = 0
    data_s: float = 0.0
    seconds: float = 0.0

    def add(self, iteration: Iteration) -> None:
        """Count an iteration."""
        self.iterations += 1
        self.images += iteration.images
        self.data_s += iteration.data_s
        self.seconds += iteration.seconds

    def take(self, remaining: int, memory_gb: float) -> dict[str, float]:
        """Return the figures of ``RATES`` and begin anew; empty if nothing was counted."""
        if not self.iterations:
            return {}
        rates = (
            self.images / self.seconds,
            self.data_s / self.seconds,
            memory_gb,
            remaining * self.seconds / self.iterations,
        )
        self.iterations, self.images, self.data_s, self.seconds = 0, 0, 0.0, 0.0
        return dict(zip(RATES, rates, strict=True))


class LossTable:
    """``losses.csv``: one row per logged iteration, the values of that very iteration.

    A row that a killed process left half-written, and rows from ``start`` on, which a resumed
    training computes again, are removed first.
    """

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        text = path.read_text("utf-8", "replace") if path.is_file() else ""
        rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
        self.columns: list[str] = rows[0] if rows else []
        if rows and self.columns[:1] != ["iteration"]:
            raise UserError(f"{path} is no table of losses: choose another OUTPUT_DIR")
        kept = [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) < start]
        if text:
            write_text(path, _csv([self.columns, *kept]) if rows else "")

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append a row; new columns are added at the right of the whole table."""
        new = sorted(values.keys() - set(self.columns), key=lambda name: (name in RATES, name))
        if new:
            rows = (
                list(csv.reader(self.path.read_text("utf-8").splitlines()))[1:]
                if self.columns
                else []
            )
            self.columns += ["iteration"] * (not self.columns) + new
            write_text(self.path, _csv([self.columns, *([*r, *[""] * len(new)] for r in rows)]))
        row = {"iteration": iteration, **{key: f"{value:.9g}" for key, value in values.items()}}
        append_text(self.path, _csv([[str(row.get(name, "")) for name in self.columns]]))


def _csv(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def drop_lines(path: Path, start: int) -> None:
    """Remove the lines of ``metrics.json`` from iteration ``start`` on, and garbled ones."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text("utf-8", "replace").splitlines():
        try:
            if json.loads(line)["iteration"] < start:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the last line of an interrupted training
    write_text(path, "".join(kept))


def progress_line(iteration: int, total: int, values: Mapping[str, float]) -> str:
    """Return what the log says of an iteration.

    Examples:
        >>> rates = {"images_per_second": 7.5, "data_share": 0.031, "memory_gb": 1.25}
        >>> progress_line(19, 90, {"total_loss": 2.5, "lr": 0.01, "eta_seconds": 75, **rates})
        'iteration 20 of 90  eta 0:01:15  7.5 img/s  data 3%  1.2 GB  lr 0.01  total_loss 2.5'
    """
    parts = [f"iteration {iteration + 1} of {total}"]
    if "eta_seconds" in values:
        parts.append(f"eta {datetime.timedelta(seconds=int(values['eta_seconds']))}")
        parts.append(f"{values['images_per_second']:.3g} img/s")
        parts.append(f"data {values['data_share']:.0%}")
        parts.append(f"{values['memory_gb']:.1f} GB")
    if "lr" in values:
        parts.append(f"lr {values['lr']:.5g}")
    losses = sorted(
        (name for name in values if "loss" in name), key=lambda n: (n != "total_loss", n)
    )
    return "  ".join([*parts, *(f"{name} {values[name]:.4g}" for name in losses)])


def memory_gb(device: Any) -> float:
    """Return the peak memory in GB: allocated on a GPU, else resident in this process."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 1e9
    return peak_gb()


class LineWriter(EventWriter):  # type: ignore[misc]
    """Puts the rates into the host's storage, and writes the log's line and the table's row."""

    def __init__(self, folder: Path, trainer: Any, meter: Meter) -> None:
        self.folder, self.trainer, self.meter = folder, trainer, meter
        self.table: LossTable | None = None

    def write(self) -> None:
        """Write; nothing, if the host calls once more after the last iteration."""
        trainer, storage = self.trainer, self.trainer.storage
        remaining = trainer.max_iter - trainer.iter - 1
        rates = self.meter.take(remaining, memory_gb(trainer.loop.device))
        if rates:
            storage.put_scalars(smoothing_hint=False, **rates)
        number = storage.iter
        values = {key: value for key, (value, when) in storage.latest().items() if when == number}
        if "total_loss" not in values:
            return
        if self.table is None:
            self.table = LossTable(self.folder / CSV_NAME, trainer.start_iter)
        told = {k: v for k, v in values.items() if "loss" in k or k in ("lr", *RATES)}
        self.table.add(number, told)
        smooth = storage.latest_with_smoothing_hint(20)
        shown = {key: value for key, (value, _) in smooth.items() if key in values}
        logger.info(progress_line(number, trainer.max_iter, shown))


class JsonLines(EventWriter):  # type: ignore[misc]
    """Drops what a resumed training computes again, then does what the host's writer does."""

    def __init__(self, folder: Path, trainer: Any) -> None:
        self.path, self.trainer = folder / JSON_NAME, trainer
        self.writer: Any = None

    def write(self) -> None:
        """Append a line."""
        if self.writer is None:
            drop_lines(self.path, self.trainer.start_iter)
            self.writer = JSONWriter(str(self.path))
        self.writer.write()

    def close(self) -> None:
        """Close the file; may be called again."""
        if self.writer is not None:
            self.writer.close()


def build_writers(folder: Path, trainer: Any, meter: Meter) -> list[Any]:
    """Return the host's event writers of a training, in the order in which they must be called."""
    writers = [LineWriter(folder, trainer, meter), JsonLines(folder, trainer)]
    if importlib.util.find_spec("tensorboard"):
        writers.append(TensorboardXWriter(str(folder)))
    return writers
