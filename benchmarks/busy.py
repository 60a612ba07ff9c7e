"""The benchmark of a busy machine: whole commands alone, beside other work, and on a quiet one.

``<job>_loop`` runs beside a process that keeps one core busy, ``<job>_torch`` beside one that
trains a convolution on all of them, with OpenMP's threads as torch has them by default. Both are
compared with the same command alone. ``<job>_quiet`` is the command alone, compared with itself
under the default of OpenMP, whose threads spin.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import trange

from benchmarks.ledger import write_scenes
from benchmarks.masks import RowSpec
from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from u2seg.config.env import inherited_spinning
from u2seg.errors import StageError

BESIDE = Target("<=", 2.0)
QUIET = Target("<=", 1.1)
CONFIG = "u2seg/scenes"
ANEW = "train"
"""Folder of what cannot be made twice; emptied before each call."""
LOOP = "while True: pass"
TORCH = """
import torch
layer, images = torch.nn.Conv2d(64, 64, 3, padding=1), torch.rand(4, 64, 64, 64)
while True:
    layer(images).sum().backward()
"""
OTHERS = {"loop": LOOP, "torch": TORCH}
WARM_S = 5.0
"""How long other work runs before the first command beside it: until torch is imported."""


@dataclass(frozen=True)
class BusySizes:
    """How much each command has to do.

    Args:
        scenes: Photographs.
        side: Of these, pixels.
        iterations: Of the training.
    """

    scenes: int = 16
    side: int = 128
    iterations: int = 20


def jobs(folder: Path, sizes: BusySizes) -> dict[str, list[str]]:
    """Write scenes as photographs; return the words of each command, in the order they need."""
    write_scenes(folder / "photos", sizes.scenes, sizes.side)
    photos, labels = str(folder / "photos"), str(folder / "labels")
    fast = ["U2SEG.SEMANTICS.STEGO.STEPS", "20", "U2SEG.EVAL.BOOTSTRAP", "0"]
    training = ["train", "--config-file", CONFIG, "U2SEG.DATA.LABELS", labels, *fast]
    training += ["SOLVER.MAX_ITER", str(sizes.iterations), "SOLVER.STEPS", "()", "OUTPUT_DIR"]
    model, weights = str(folder / "model"), str(folder / "model" / "model_final.pth")
    return {
        "label": [
            "label", "--config-file", CONFIG, "--overwrite", "--images", photos,
            "--output-dir", labels, *fast,
        ],
        "model": [*training, model],
        "train": [*training, str(folder / ANEW)],
        "evaluate": [*training, model, "--eval-only", "MODEL.WEIGHTS", weights],
        "predict": [
            "predict", "--config-file", CONFIG, "--weights", weights, "--input", photos,
            "--output", str(folder / "shown"),
        ],
    }  # fmt: skip


def seconds(words: Sequence[str]) -> float:
    """Run a command of this package in a process of its own; StageError if it fails."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "u2seg", *words]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - this package
    if done.returncode:
        told = f"u2seg {words[0]} ended with {done.returncode}"
        raise StageError(f"{told}: {done.stderr[-500:]}")
    return time.perf_counter() - start


@contextlib.contextmanager
def beside(code: str) -> Iterator[None]:
    """Run Python code in another process, which is killed at the end of the block.

    Its threads spin, as those of a torch that knows nothing of this package.
    """
    with inherited_spinning():
        other = subprocess.Popen([sys.executable, "-c", code])  # noqa: S603
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            other.wait(WARM_S)
        yield
        if other.poll() is not None:
            raise StageError(f"the other work ended by itself, with {other.returncode}")
    finally:
        other.kill()
        other.wait()


def measure(setting: Setting, job: str, kind: str, sizes: BusySizes | None = None) -> Row:
    """Return the row of a command beside other work, or of what sleeping threads cost it."""
    name, ours, peer = f"{job}_{kind}", list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        commands = jobs(Path(folder), sizes or BusySizes())

        def run(name: str) -> float:
            shutil.rmtree(Path(folder) / ANEW, ignore_errors=True)
            return seconds(commands[name])

        run("label")  # what the other commands need; and compiled code is cached
        run("model")
        for _ in trange(setting.repeats, desc=name, leave=False):
            if kind == "quiet":
                ours.append(run(job))
                with inherited_spinning():
                    peer.append(run(job))
            else:
                with beside(OTHERS[kind]):
                    ours.append(run(job))
                peer.append(run(job))
    mine, theirs = statistics.median(ours), statistics.median(peer)
    told = "with OpenMP's own settings" if kind == "quiet" else "alone"
    return judged(
        name,
        mine,
        theirs,
        ratio=mine / theirs,
        unit="s",
        target=QUIET if kind == "quiet" else BESIDE,
        floor=None,
        note=f"peer: the same command {told}; whole commands, imports included",
    )


ROWS: dict[str, RowSpec] = {
    f"{job}_{kind}": RowSpec(functools.partial(measure, job=job, kind=kind), ("torch",))
    for job in ("label", "train", "evaluate", "predict")
    for kind in ("loop", "torch", "quiet")
}
