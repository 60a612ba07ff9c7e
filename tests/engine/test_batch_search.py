"""The search for the batch size: its logic by hand, and real training steps."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.label_folder import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.engine.batch_search import Trial, advise, ending, format_search, search
from u2seg.engine.batch_trial import (
    Work,
    WorstCase,
    find_batch_size,
    measured,
    run_trial,
    training_records,
    worst_case,
    worst_samples,
)
from u2seg.errors import StageError, UserError
from u2seg.host.setup import build_cfg
from u2seg.io.memory import available_gb, peak_gb, resident_gb


def tried(room: int, most: int = 256) -> list[tuple[int, bool]]:
    trials = search(lambda n: Trial(n, 1.0, float(n), "" if n <= room else "full"), most)
    return [(trial.images, trial.fits) for trial in trials]


def test_doubling_then_bisecting() -> None:
    yes, no = True, False
    assert tried(0) == [(1, no)]
    assert tried(1) == [(1, yes), (2, no)]
    assert tried(3) == [(1, yes), (2, yes), (4, no), (3, yes)]
    assert tried(6) == [(1, yes), (2, yes), (4, yes), (8, no), (6, yes), (7, no)]
    assert tried(99, most=3) == [(1, yes), (2, yes), (3, yes)]
    assert tried(2, most=3) == [(1, yes), (2, yes), (3, no)]


def test_the_bisection_ends_at_an_eighth() -> None:
    assert [n for n, _ in tried(50)] == [1, 2, 4, 8, 16, 32, 64, 48, 56, 52]
    for room in range(1, 200):
        largest = max(n for n, fits in tried(room) if fits)
        assert largest <= room <= largest + max(1, largest // 8)


def rated(rates: dict[int, float], most: int = 256) -> list[Trial]:
    """Search where ``rates`` are images per second; what is not in it does not fit."""
    return search(
        lambda n: Trial(n, n / rates[n], 1.0) if n in rates else Trial(n, 0.0, 9.0, "full"), most
    )


def test_doubling_ends_when_two_in_a_row_gain_nothing() -> None:
    # 16 and 32 are slower than 8; that 64 were faster is never seen.
    rates = {1: 3.0, 2: 5.0, 4: 6.0, 8: 7.5, 16: 6.5, 32: 3.5, 64: 9.0}
    trials = rated(rates)
    assert [trial.images for trial in trials] == [1, 2, 4, 8, 16, 32]
    assert ending(trials, 256) == (
        "ended at 32 image(s): the last 2 trials gave no more images/s than 8 image(s)"
    )
    advice = advise(trials, processes=1, batch=16, rate=0.01, iterations=100)
    assert (advice.images, advice.batch, advice.parts) == (8, 8, 1)
    # One slower doubling is passed over, and a faster one begins the count anew.
    trials = rated({1: 4.0, 2: 3.0, 4: 5.0, 8: 4.5, 16: 5.0, 32: 9.0})
    assert [trial.images for trial in trials] == [1, 2, 4, 8, 16]
    assert "than 4 image(s)" in ending(trials, 256), "as fast is not faster"


def test_one_doubling_without_gain_and_then_no_room_is_bisected() -> None:
    trials = rated({1: 2.0, 2: 3.0, 4: 2.5, 6: 2.0})
    assert [trial.images for trial in trials] == [1, 2, 4, 8, 6, 7]
    assert ending(trials, 256) == ""


def test_no_more_images_are_tried_than_the_training_has() -> None:
    trials = rated({1: 1.0, 2: 2.0, 4: 3.0, 6: 4.0, 8: 5.0}, most=6)
    assert [trial.images for trial in trials] == [1, 2, 4, 6]
    assert ending(trials, 6) == "ended at 6 image(s): the training set has no more for each process"
    assert ending(rated({1: 1.0}, most=1), 1).startswith("ended at 1 image(s): the training set")
    assert ending([Trial(256, 1.0, 1.0)], 256) == "ended at 256 image(s): more are not tried"


@pytest.mark.d2
@pytest.mark.parametrize(("gpus", "tried"), [(1, [1, 2, 4]), (2, [1, 2]), (8, [1])])
def test_the_images_of_the_training_bound_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, tried: list[int]
) -> None:
    prepare_host()
    from u2seg.engine import batch_trial

    words = data_words(make_labels(tmp_path), tmp_path / "out")
    images = []

    def trial(_: Work, number: int) -> Trial:
        images.append(number)
        return Trial(number, 1.0, 1.0)

    monkeypatch.setattr(batch_trial, "run_trial", trial)
    args = arguments(words)
    args.num_gpus = gpus
    assert f"({tried[-1]} in " in find_batch_size(args)
    assert images == tried


def test_advice_takes_the_fewest_images_at_nearly_the_best_rate() -> None:
    # Rates: 2.0, 2.857, 2.963 and none; 2.857 is 96.4 % of the best, too little.
    trials = [Trial(1, 0.5, 1), Trial(2, 0.7, 2), Trial(4, 1.35, 3), Trial(8, 0, 9, "full")]
    advice = advise(trials, processes=1, batch=16, rate=0.01, iterations=90000)
    assert (advice.images, advice.batch, advice.rate) == (4, 4, 0.0025)
    assert (advice.iterations, advice.parts) == (360000, 4)
    trials[1] = Trial(2, 0.69, 2)  # 2.899: 97.8 %
    advice = advise(trials, processes=8, batch=16, rate=0.01, iterations=90000)
    assert (advice.images, advice.batch, advice.rate, advice.iterations) == (2, 16, 0.01, 90000)
    assert advice.parts == 1


def test_parts_follow_from_the_largest_batch_that_fits() -> None:
    trials = [Trial(1, 1, 1), Trial(2, 4, 2), Trial(3, 9, 3)]
    advice = advise(trials, processes=2, batch=16, rate=0.01, iterations=10)
    assert (advice.images, advice.parts) == (1, 3), "8 images each, at most 3 at a time"


def test_when_nothing_fits() -> None:
    with pytest.raises(StageError, match=r"not even one image fits: full. Lower INPUT"):
        advise([Trial(1, 0, 9, "full")], processes=1, batch=16, rate=0.01, iterations=1)


def test_the_table_and_the_advice_as_text() -> None:
    trials = [Trial(1, 0.5, 1.25), Trial(2, 0.8, 2.5), Trial(4, 0, 9, "the GPU's memory is full")]
    advice = advise(trials, processes=2, batch=16, rate=0.01, iterations=1000)
    assert format_search(trials, advice, 2, 16).splitlines() == [
        "images  s/iteration  images/s  peak GB",
        "     1        0.500      2.00     1.25",
        "     2        0.800      2.50     2.50",
        "     4  does not fit: the GPU's memory is full",
        "recommended (2 in each of 2 processes): SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.0025 "
        "U2SEG.TRAIN.ACCUMULATE 1",
        "as many images as the config then means SOLVER.MAX_ITER 4000; scale SOLVER.STEPS alike",
        "the config's batch in 4 parts, nearly the same: SOLVER.IMS_PER_BATCH 16 "
        "U2SEG.TRAIN.ACCUMULATE 4",
    ]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (3, "the config's batch in 2 parts, nearly the same: SOLVER.IMS_PER_BATCH 3 "
         "U2SEG.TRAIN.ACCUMULATE 2"),
        (2, "that is the config's own batch: rate and MAX_ITER stay as they are"),
        (1, "the config's batch fits too, whole, with its own rate and MAX_ITER: "
         "SOLVER.IMS_PER_BATCH 1 U2SEG.TRAIN.ACCUMULATE 1"),
    ],
)  # fmt: skip
def test_parts_are_spoken_of_only_where_there_are_some(batch: int, told: str) -> None:
    trials = [Trial(1, 0.5, 1.25), Trial(2, 0.8, 2.5), Trial(4, 0, 9, "full")]
    advice = advise(trials, processes=1, batch=batch, rate=0.01, iterations=1000)
    assert format_search(trials, advice, 1, batch).splitlines()[-1] == told


def test_memory_is_told() -> None:
    import os

    assert 0 < resident_gb(os.getpid()) <= peak_gb() * 1.001
    assert available_gb() > 0
    assert resident_gb(2**30) == 0.0, "no such process"


def arguments(words: list[str], limit: float = 0.0) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=str(BASE_CONFIG), opts=words, num_gpus=1, num_machines=1, memory_limit=limit
    )


@pytest.mark.d2
def test_the_worst_case_of_a_config(tmp_path: Path) -> None:
    prepare_host()
    words = data_words(make_labels(tmp_path), tmp_path / "out")

    def worst(*more: str) -> WorstCase:
        cfg = build_cfg(BASE_CONFIG, [*words, *more], register=True)
        return worst_case(cfg, training_records(cfg))

    assert worst() == WorstCase(64, 64, 1)
    assert worst("INPUT.MIN_SIZE_TRAIN", "(32, 96)") == WorstCase(96, 96, 1)
    assert worst("U2SEG.COPY_PASTE.ENABLED", "true") == WorstCase(64, 64, 9)
    crop = ("INPUT.CROP.ENABLED", "true", "INPUT.MAX_SIZE_TRAIN", "80")
    assert worst(*crop) == WorstCase(64, 80, 1)


@pytest.mark.d2
def test_samples_of_the_worst_case() -> None:
    prepare_host()
    one, two = worst_samples(WorstCase(10, 13, 4), 2, (3, 2))
    assert tuple(one["image"].shape) == (3, 10, 13)
    assert tuple(two["sem_seg"].shape) == (10, 13)
    assert set(one["sem_seg"].unique().tolist()) == {0, 1, 2}
    assert len(one["instances"]) == 4
    assert int(one["instances"].gt_classes.max()) < 3
    assert all(mask.any() for mask in one["instances"].gt_masks.tensor)
    none = worst_samples(WorstCase(10, 13, 0), 1, (3, 2))[0]
    assert len(none["instances"].gt_boxes) == 0


@pytest.mark.d2
def test_real_steps_leave_no_file(tmp_path: Path) -> None:
    prepare_host()
    words = data_words(make_labels(tmp_path), tmp_path / "out")
    average = ["U2SEG.TRAIN.EMA_DECAY", "0.9", "U2SEG.TRAIN.ACCUMULATE", "2"]
    found = measured(Work(str(BASE_CONFIG), (*words, *average), WorstCase(64, 64, 2), 0.0), 2)
    assert found["seconds"] > 0
    assert found["peak_gb"] > 0
    assert found["obstacle"] == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.d2
def test_full_memory_is_an_obstacle_and_other_errors_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    prepare_host()
    from u2seg.engine import batch_trial

    words = data_words(make_labels(tmp_path), tmp_path / "out")
    work = Work(str(BASE_CONFIG), tuple(words), WorstCase(64, 64, 2), 0.0)

    def fail(error: Exception) -> None:
        def steps(*_: object) -> float:
            raise error

        monkeypatch.setattr(batch_trial, "_seconds", steps)

    fail(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB"))
    found = measured(work, 2)
    assert (found["seconds"], found["obstacle"]) == (0.0, "the memory is full")
    assert found["peak_gb"] > 0
    fail(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        measured(work, 2)


@pytest.mark.d2
def test_bad_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_host()
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


@pytest.mark.d2
@pytest.mark.slow
def test_processes_of_their_own_are_measured_limited_and_their_errors_told(tmp_path: Path) -> None:
    prepare_host()
    words = tuple(data_words(make_labels(tmp_path), tmp_path / "out"))
    worst = WorstCase(64, 64, 2)
    trial = run_trial(Work(str(BASE_CONFIG), words, worst, 0.0), 1)
    assert trial.fits
    assert trial.seconds > 0 and trial.peak_gb > 0.1
    full = run_trial(Work(str(BASE_CONFIG), words, worst, 0.05), 1)
    assert full.obstacle == "needs more than 0.1 GB"
    with pytest.raises(StageError, match=r"1 image\(s\) failed: UserError: .*none\.yaml"):
        run_trial(Work("none.yaml", (), worst, 0.0), 1)
    with pytest.raises(StageError, match="not even one image fits"):
        find_batch_size(arguments(list(words), 0.05))
    assert not (tmp_path / "out").exists()


@pytest.mark.d2
def test_the_flag_searches_and_does_not_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    from u2seg.engine import batch_trial, run
    from u2seg.host.arguments import train_parser

    monkeypatch.setattr(batch_trial, "find_batch_size", lambda args: f"{args.memory_limit:g} GB")
    monkeypatch.setattr(run, "train_or_evaluate", lambda args: pytest.fail("it trains"))
    words = ["--config-file", str(BASE_CONFIG), "--find-batch-size", "--memory-limit", "1.5"]
    with caplog.at_level(logging.INFO, logger="u2seg"):
        assert run.launch_run(train_parser().parse_intermixed_args(words)) == 0
    assert any("1.5 GB" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "flags",
    [
        ["--dry-run", "--eval-only"],
        ["--find-batch-size", "--replay", "x.json"],
        ["--replay", "x.json", "--dry-run"],
        ["--eval-only", "--find-batch-size"],
    ],
)
def test_two_things_at_once_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from u2seg.host.arguments import train_parser

    with pytest.raises(SystemExit) as caught:
        train_parser().parse_intermixed_args(["--config-file", "a.yaml", *flags, "SEED", "1"])
    assert caught.value.code == 2
    assert f"argument {flags[-2] if flags[-1] == 'x.json' else flags[-1]}: not allowed with" in (
        capsys.readouterr().err
    )


def test_a_memory_limit_without_the_search_is_refused() -> None:
    from u2seg.engine.run import launch_run
    from u2seg.host.arguments import train_parser

    words = ["--config-file", "a.yaml", "--memory-limit", "2"]
    with pytest.raises(UserError, match="--memory-limit 2 belongs to --find-batch-size"):
        launch_run(train_parser().parse_intermixed_args(words))
