"""One writer per folder: every entrance is refused where another run is at work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.label_folder import BASE_CONFIG, data_words, make_labels
from u2seg.errors import UserError
from u2seg.io.lock import LOCK, only_run


def test_a_loading_process_that_outlives_its_run_does_not_hold_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()

    def load() -> None:
        begun.set()
        end.wait()

    with only_run(tmp_path / LOCK):
        child = context.Process(target=load)
        child.start()
        assert begun.wait(60)
    try:
        with only_run(tmp_path / LOCK):  # a training killed with -9 is resumed at once
            assert child.is_alive()
    finally:
        end.set()
        child.join()


def train(root: Path, *flags: str) -> None:
    from u2seg.engine.run import train_or_evaluate
    from u2seg.host.arguments import train_parser

    words = data_words(make_labels(root), root / "out")
    flags = ("--config-file", str(BASE_CONFIG), *flags)
    train_or_evaluate(train_parser().parse_intermixed_args([*flags, *words]))


def evaluate_alone(root: Path) -> None:
    train(root, "--eval-only")


def run_pipeline(root: Path) -> None:
    import u2seg

    words = data_words(make_labels(root), root)
    u2seg.run(root / "photos", root / "out", BASE_CONFIG, words)


def demo(root: Path) -> None:
    from u2seg.host.arguments import demo_parser
    from u2seg.inference.demo import run_demo

    make_labels(root)
    words = ["--config-file", str(BASE_CONFIG), "--input", str(root / "photos")]
    run_demo(demo_parser().parse_args([*words, "--output", str(root / "out")]))


def evaluate_files(root: Path) -> None:
    from u2seg.evaluation.command import evaluate_files, evaluate_parser, parse_evaluate

    labels = make_labels(root) / "panoptic"
    words = ["--predictions", str(labels), "--truth", str(labels / "panoptic.json")]
    words += [str(labels / "panoptic"), "--output", str(root / "out")]
    evaluate_files(parse_evaluate(evaluate_parser(), words))


def report(root: Path) -> None:
    from u2seg.visualization.report import write_report

    write_report(root / "out", labels=None, train=None, predictions=None, title="")


def lowshot(root: Path) -> None:
    from u2seg.data.lowshot import LabelledSet
    from u2seg.engine.lowshot import make_splits

    folder = make_labels(root) / "panoptic"
    parts = (folder / "panoptic.json", folder / "panoptic", folder / "instances.json")
    make_splits(LabelledSet(root / "photos", *parts), [50], 0, root / "out")


D2 = pytest.mark.d2


@pytest.mark.parametrize(
    ("entrance", "lock"),
    [
        pytest.param(train, LOCK, marks=D2),
        pytest.param(evaluate_alone, LOCK, marks=D2),
        pytest.param(run_pipeline, LOCK, marks=D2),
        pytest.param(demo, LOCK, marks=D2),
        (evaluate_files, LOCK),
        (report, ".report.html.lock"),
        (lowshot, LOCK),
    ],
)
def test_a_second_writer_is_refused_at_once(
    entrance: Callable[[Path], None], lock: str, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    told = r"out is in use by another run: process \d+ on .*, since .* UTC"
    with only_run(tmp_path / "out" / lock), pytest.raises(UserError, match=told):
        entrance(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [lock]
