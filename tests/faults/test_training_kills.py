"""SIGKILL of a training while it writes checkpoints: it goes on and ends with the same weights."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.host.arguments import train_parser
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.checksums import LAST

pytestmark = [pytest.mark.d2, pytest.mark.faults]
PRELOAD = ["u2seg.modeling.cascade", "u2seg.modeling.checkpoint", "u2seg.engine.loop"]


def train(words: list[str]) -> None:
    from u2seg.engine.run import train as train_and_evaluate
    from u2seg.host.start import setup_cfg

    prepare_host()
    flags = ["--config-file", str(BASE_CONFIG), "--resume", *words]
    args = train_parser().parse_intermixed_args(flags)
    with setup_cfg(args) as cfg:
        train_and_evaluate(cfg, resume=True)


def start(words: list[str]) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=train, args=(words,))
    process.start()
    return process


def writes(folder: Path) -> bool:
    return any(folder.glob(".model_*.tmp"))


@pytest.mark.parametrize(
    ("length", "kills"),
    [
        pytest.param(6, 3, marks=pytest.mark.long),
        pytest.param(40, 30, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_a_training_killed_again_and_again_ends_as_if_it_were_not(
    tmp_path: Path, length: int, kills: int, record_property: Callable[[str, object], None]
) -> None:
    words = [*data_words(make_labels(tmp_path), tmp_path / "calm"), "SOLVER.MAX_ITER", str(length)]
    words += ["U2SEG.TRAIN.KEEP_CHECKPOINTS", "2", "U2SEG.TRAIN.PICTURES", "0"]
    calm = start(words)
    calm.join()
    assert calm.exitcode == 0
    folder = tmp_path / "killed"
    words += ["OUTPUT_DIR", str(folder)]
    rng = np.random.default_rng(kills)
    killed = 0
    process = start(words)
    while process.exitcode is None:
        process.join(0.001)
        if killed < kills and writes(folder):
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break  # it was done before the signal came
            killed += 1
            if (folder / LAST).is_file():
                assert load_checkpoint(folder / (folder / LAST).read_text())["trainer"]
            process = start(words)
    assert process.exitcode == 0
    record_property("iterations", length)
    record_property("kills", killed)
    assert killed >= kills * 0.8
    assert not writes(folder)
    one, two = (load_checkpoint(tmp_path / n / "model_final.pth") for n in ("calm", "killed"))
    apart = max(float((one["model"][k] - two["model"][k]).abs().max()) for k in one["model"])
    record_property("largest difference of a weight", apart)
    assert apart < 1e-6
