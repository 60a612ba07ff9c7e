"""The search for the batch size: its logic by hand, and real training steps."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.engine import batch_search, run
from u2seg.engine.batch_search import (
    Trial,
    advice,
    find_batch_size,
    run_trial,
    search,
    worst_case,
    worst_samples,
)
from u2seg.errors import StageError, UserError
from u2seg.host.arguments import train_parser
from u2seg.host.setup import build_cfg

pytestmark = pytest.mark.d2


def tried(rates: dict[int, float], most: int = 256) -> list[int]:
    """Search where ``rates`` are images per second; what is not in it does not fit."""
    trials = search(
        lambda n: Trial(n, n / rates[n], 1.0) if n in rates else Trial(n, 0.0, 9.0, "full"), most
    )
    return [trial.images for trial in trials]


def test_doubling_then_bisecting() -> None:
    room = {count: dict.fromkeys(range(1, count + 1), 1.0) for count in (1, 2, 3, 6)}
    rising = {count: {n: float(n) for n in range(1, count + 1)} for count in (1, 2, 3, 6, 50)}
    assert tried({}) == [1]
    assert tried(room[1]) == [1, 2]
    assert tried(rising[3]) == [1, 2, 4, 3]
    assert tried(rising[6]) == [1, 2, 4, 8, 6, 7]
    assert tried(rising[6], most=3) == [1, 2, 3]
    assert tried(rising[50]) == [1, 2, 4, 8, 16, 32, 64, 48, 56, 52]  # ends at an eighth


def test_doubling_ends_when_two_in_a_row_gain_nothing() -> None:
    # 16 and 32 are slower than 8; that 64 were faster is never seen.
    rates = {1: 3.0, 2: 5.0, 4: 6.0, 8: 7.5, 16: 6.5, 32: 3.5, 64: 9.0}
    assert tried(rates) == [1, 2, 4, 8, 16, 32]
    # One slower doubling is passed over, and a faster one begins the count anew.
    assert tried({1: 4.0, 2: 3.0, 4: 5.0, 8: 4.5, 16: 5.0, 32: 9.0}) == [1, 2, 4, 8, 16]
    assert tried({1: 2.0, 2: 3.0, 4: 2.5, 6: 2.0}) == [1, 2, 4, 8, 6, 7]


def test_advice_takes_the_fewest_images_at_nearly_the_best_rate() -> None:
    # Rates: 2.0, 2.857, 2.963 and none; 2.857 is 96.4 % of the best, too little.
    trials = [Trial(1, 0.5, 1), Trial(2, 0.7, 2), Trial(4, 1.35, 3), Trial(8, 0, 9, "full")]
    lines = advice(trials, 1, batch=16, rate=0.01, iterations=90000).splitlines()
    assert lines[4] == "     8  does not fit: full"
    assert "(4 per process): SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.0025 " in lines[5]
    assert "SOLVER.MAX_ITER 360000 " in lines[5]
    assert lines[6].endswith("SOLVER.IMS_PER_BATCH 16 U2SEG.TRAIN.ACCUMULATE 4")
    trials[1] = Trial(2, 0.69, 2)  # 2.899: 97.8 %
    assert "(2 per process)" in advice(trials, 8, batch=16, rate=0.01, iterations=90000)
    with pytest.raises(StageError, match=r"not even one image fits: full. Lower INPUT"):
        advice([Trial(1, 0, 9, "full")], 1, batch=16, rate=0.01, iterations=1)


def arguments(words: list[str], limit: float = 0.0, gpus: int = 1) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=str(BASE_CONFIG), opts=words, num_gpus=gpus, num_machines=1, memory_limit=limit
    )


@pytest.mark.parametrize(("gpus", "images"), [(1, [1, 2, 4]), (8, [1])])
def test_the_images_of_the_training_bound_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, images: list[int]
) -> None:
    words = data_words(make_labels(tmp_path), tmp_path / "out")
    monkeypatch.setattr(batch_search, "run_trial", lambda *given: Trial(given[-1], 1.0, 1.0))
    told = find_batch_size(arguments(words, gpus=gpus)).splitlines()
    assert [int(line.split()[0]) for line in told[1:-2]] == images


def test_the_worst_case_of_a_config(tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog

    words = data_words(make_labels(tmp_path), tmp_path / "out")

    def worst(*more: str) -> tuple[int, int, int]:
        cfg = build_cfg(BASE_CONFIG, [*words, *more], register=True)
        return worst_case(cfg, DatasetCatalog.get("u2seg_pseudo"))

    assert worst() == (64, 64, 1)
    assert worst("INPUT.MIN_SIZE_TRAIN", "(32, 96)") == (96, 96, 1)
    assert worst("U2SEG.COPY_PASTE.ENABLED", "true") == (64, 64, 9)
    crop = ("INPUT.CROP.ENABLED", "true", "INPUT.MAX_SIZE_TRAIN", "80")
    assert worst(*crop) == (64, 80, 1)


def test_samples_of_the_worst_case() -> None:
    one, two = worst_samples((10, 13, 4), 2, (3, 2))
    assert tuple(one["image"].shape) == (3, 10, 13)
    assert set(two["sem_seg"].unique().tolist()) == {0, 1, 2}
    assert len(one["instances"]) == 4
    assert int(one["instances"].gt_classes.max()) < 3
    assert all(mask.any() for mask in one["instances"].gt_masks.tensor)
    assert len(worst_samples((10, 13, 0), 1, (3, 2))[0]["instances"].gt_boxes) == 0


class Pipe(list[Any]):
    """What a trial sends."""

    send = list.append


def test_full_memory_is_an_obstacle_and_other_errors_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    words = (str(BASE_CONFIG), tuple(data_words(make_labels(tmp_path), tmp_path / "out")))
    errors = [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB"),
        RuntimeError("shapes cannot be multiplied"),
    ]
    sent = Pipe()
    for error in errors:

        def steps(*_: object, error: Exception = error) -> float:
            raise error

        monkeypatch.setattr(batch_search, "_seconds", steps)
        batch_search._trial_process(words, (64, 64, 2), 0.0, 2, sent)
    assert (sent[0][0], sent[0][2:]) == (0.0, ("the memory is full", ""))
    assert sent[1][3] == "RuntimeError: shapes cannot be multiplied"


def test_bad_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = data_words(make_labels(tmp_path), tmp_path / "out")
    with pytest.raises(UserError, match=r"--memory-limit is -1.0, expected GB >= 0"):
        find_batch_size(arguments(words, -1.0))
    with pytest.raises(UserError, match=r"U2SEG.DATA.LABELS is empty"):
        find_batch_size(arguments([*words, "U2SEG.DATA.LABELS", ""]))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2" if "WORLD" in name else "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UserError, match="start it without torchrun"):
        find_batch_size(arguments(words))


@pytest.mark.slow
def test_processes_of_their_own_are_measured_limited_and_their_errors_told(tmp_path: Path) -> None:
    average = ["U2SEG.TRAIN.EMA_DECAY", "0.9", "U2SEG.TRAIN.ACCUMULATE", "2"]
    words = (*data_words(make_labels(tmp_path), tmp_path / "out"), *average)
    worst = (64, 64, 2)
    trial = run_trial((str(BASE_CONFIG), words), worst, 0.0, 2)
    assert trial.rate > 0
    assert trial.peak_gb > 0.1
    full = run_trial((str(BASE_CONFIG), words), worst, 0.05, 1)
    assert full.obstacle == "needs more than 0.1 GB"
    with pytest.raises(StageError, match=r"1 image\(s\) failed: UserError: .*none\.yaml"):
        run_trial(("none.yaml", ()), worst, 0.0, 1)
    assert not (tmp_path / "out").exists()


def test_the_flag_searches_and_does_not_train(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "find_batch_size", lambda args: f"{args.memory_limit:g} GB")
    monkeypatch.setattr(run, "train_or_evaluate", lambda args: pytest.fail("it trains"))
    words = ["--config-file", str(BASE_CONFIG), "--find-batch-size", "--memory-limit", "1.5"]
    with caplog.at_level(logging.INFO, logger="u2seg"):
        assert run.launch_run(train_parser().parse_intermixed_args(words)) == 0
    assert any("1.5 GB" in record.getMessage() for record in caplog.records)
    del words[2]
    with pytest.raises(UserError, match=r"--memory-limit 1.5 belongs to --find-batch-size"):
        run.launch_run(train_parser().parse_intermixed_args(words))


@pytest.mark.parametrize("flags", [["--dry-run", "--eval-only"], ["--replay", "x", "--dry-run"]])
def test_two_things_at_once_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_parser().parse_intermixed_args(["--config-file", "a.yaml", *flags, "SEED", "1"])
    assert f"argument {flags[-1]}: not allowed with" in capsys.readouterr().err
