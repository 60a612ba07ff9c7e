"""Ctrl-C and SIGTERM during training: a checkpoint, and going on from it to the same end."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from tests.engine.test_resume import assert_same
from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.engine import interrupt
from u2seg.engine.interrupt import Interrupted, Stop
from u2seg.host.arguments import train_parser
from u2seg.io.checkpoints import load_checkpoint

pytestmark = pytest.mark.d2
WORDS = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", "100"]


def make_trainer(words: list[str], evaluate: Any = lambda _: None, resume: bool = False) -> Any:
    from u2seg.engine.trainer import Trainer
    from u2seg.host.start import setup_cfg

    flags = ["--resume"] if resume else []
    args = train_parser().parse_intermixed_args([*flags, "--config-file", str(BASE_CONFIG), *words])
    with setup_cfg(args) as cfg:
        return Trainer(cfg, evaluate)


def test_the_iteration_in_hand_is_finished_saved_and_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from u2seg.engine.trainer import run_training

    labels = make_labels(tmp_path)
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    run_training(make_trainer([*data_words(labels, calm), *WORDS]), resume=False)
    words = [*data_words(labels, stopped), *WORDS]
    trainer = make_trainer(words)

    def send(iteration: int, _batch: Any) -> None:
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.loop.watchers.append(send)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"SIGTERM: model_0000001.pth .* at iteration 2$"):
        run_training(trainer, resume=False)
    assert signal.getsignal(signal.SIGTERM) == before
    assert load_checkpoint(stopped / "model_0000001.pth")["iteration"] == 1
    caplog.set_level(logging.INFO, "u2seg")
    run_training(make_trainer(words, resume=True), resume=True)
    assert "going on at iteration 2 of 4, from" in caplog.text
    assert_same(calm, stopped)


def test_what_takes_long_is_left_and_the_iteration_before_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation after iteration 1 that never ends."""
    from u2seg.engine.trainer import run_training

    monkeypatch.setattr(interrupt, "PATIENCE", 0.05)

    def endless(_trainer: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(60)

    words = [*data_words(make_labels(tmp_path), tmp_path), *WORDS, "TEST.EVAL_PERIOD", "2"]
    with pytest.raises(Interrupted, match=r"SIGINT: model_0000001.pth .* at iteration 2$"):
        run_training(make_trainer(words, endless), resume=False)
    found = load_checkpoint(tmp_path / "model_0000001.pth")
    assert found["trainer"]["iteration"] == found["iteration"] == 1


def test_nothing_is_left_while_the_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "PATIENCE", 0.01)
    stop = Stop()

    def change() -> None:
        with stop:
            stop.hold()
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL  # torch's would raise here
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(0.1)
            stop.held = False
            threading.Event().wait(30)  # asked again half a second later

    with pytest.raises(Interrupted):
        change()
    assert stop.asked()
    assert not stop.held
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
