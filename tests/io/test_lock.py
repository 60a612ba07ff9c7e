"""One writer per folder: every entrance is refused where another run is at work."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.errors import UserError
from u2seg.io.lock import LOCK, holder_of, may_live, only_run


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


def train(root: Path) -> None:
    from u2seg.engine.run import train_or_evaluate
    from u2seg.host.arguments import train_parser

    words = data_words(make_labels(root), root / "out")
    words = ["--config-file", str(BASE_CONFIG), *words]
    train_or_evaluate(train_parser().parse_intermixed_args(words))


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
    from u2seg.engine.lowshot import LabelledSet, make_splits

    folder = make_labels(root) / "panoptic"
    parts = (folder / "panoptic.json", folder / "panoptic", folder / "instances.json")
    make_splits(LabelledSet(root / "photos", *parts), [50], 0, root / "out")


D2 = pytest.mark.d2


@pytest.mark.parametrize(
    ("entrance", "lock"),
    [
        pytest.param(train, LOCK, marks=D2),
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


def test_a_second_driver_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    lock = tmp_path / "out" / ".lock"
    with only_run(lock):
        assert may_live(holder_of(lock))
        who = rf"process {os.getpid()} on {socket.gethostname()}, since \d{{4}}-\d\d-\d\d .* UTC"
        with pytest.raises(UserError, match=who), only_run(lock):
            pass
    assert not may_live(holder_of(lock)) and not lock.parent.exists()  # nothing came


def test_where_files_cannot_be_locked_a_driver_of_this_machine_is_known_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("u2seg.io.lock.fcntl.flock", no_locks)
    lock = tmp_path / ".lock"
    with only_run(lock):
        content = lock.read_text()
        with pytest.raises(UserError, match=f"process {os.getpid()}"), only_run(lock):
            pass
    lock.write_text(content.replace(f'"{os.getpid()}"', f'"{2**22 + 1}"'))  # it was killed
    with only_run(lock):
        pass
    with pytest.raises(ZeroDivisionError), only_run(lock):
        _ = 1 / 0
    assert lock.read_bytes() == b""


def test_a_driver_of_another_machine_is_known_by_its_beats(tmp_path: Path) -> None:
    """Where locks do not cross machines; its clock does not matter."""
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"host": "node-3", "pid": "7", "since": "then", "machine": "x"}))
    with only_run(lock, patience=0.3):  # nobody touches it: its driver is dead
        pass
    lock.write_text(json.dumps({"host": "node-3", "pid": "7", "since": "then", "machine": "x"}))
    stop = threading.Event()

    def touch() -> None:
        stamp = 3600.0
        while not stop.wait(0.02):
            stamp += 1
            os.utime(lock, (stamp, stamp))

    other = threading.Thread(target=touch)
    other.start()
    try:
        with (
            pytest.raises(UserError, match="process 7 on node-3, since then"),
            only_run(lock, patience=30),
        ):
            pass
    finally:
        stop.set()
        other.join()
