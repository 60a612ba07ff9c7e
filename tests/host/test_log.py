"""The host's log: one line for one event, in the file of its own run, without colours."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import BASE_CONFIG, TINY, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.host.start import setup_cfg

pytestmark = pytest.mark.d2
prepare_host()
HOST = logging.getLogger("detectron2.engine")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    names = ("detectron2", "fvcore", "u2seg")
    before = {name: logging.getLogger(name).handlers[:] for name in names}
    yield
    for name, handlers in before.items():
        logging.getLogger(name).handlers[:] = handlers


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return make_labels(tmp_path)


def begin(labels: Path, output: Path, *more: str) -> None:
    words = [*data_words(labels, output), *more]
    file = str(BASE_CONFIG)
    args = argparse.Namespace(config_file=file, opts=words, eval_only=False, resume=False)
    with setup_cfg(args):
        pass


def lines(output: Path, text: str) -> list[str]:
    return [line for line in (output / "log.txt").read_text().splitlines() if text in line]


def test_lines_of_later_runs_come_once_and_only_into_their_own_file(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for number, output in enumerate((first, second, first)):
        begin(labels, output)
        capsys.readouterr()
        HOST.info("line %d", number)
        assert capsys.readouterr().out.count(f"line {number}") == 1
    assert [len(lines(first, f"line {n}")) for n in range(3)] == [1, 0, 1]
    assert [len(lines(second, f"line {n}")) for n in range(3)] == [0, 1, 0]


def test_no_colour_reaches_the_file(labels: Path, tmp_path: Path) -> None:
    begin(labels, tmp_path / "out")
    HOST.info("\x1b[36mtable\x1b[0m of %s", "\x1b[1;34mclasses\x1b[0m")
    assert "\x1b" not in (tmp_path / "out" / "log.txt").read_text()
    assert "MODEL:" in lines(tmp_path / "out", "MODEL:")
    assert lines(tmp_path / "out", "table")[0].endswith("table of classes")


def test_the_console_is_spared_what_the_file_has(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(labels, tmp_path / "out")
    HOST.debug("Model:\n%s", "layer\n" * 300)
    logging.getLogger("u2seg.io").warning("mind the gap")
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 12 and "\x1b" not in shown
    assert f"full config and model are in {tmp_path / 'out' / 'log.txt'}" in shown
    assert len(lines(tmp_path / "out", "layer")) == 300
    assert len(lines(tmp_path / "out", "mind the gap")) == 1


def test_the_log_begins_with_the_command(labels: Path, tmp_path: Path) -> None:
    begin(labels, tmp_path / "out", "SOLVER.STEPS", "(1, 2)", "SOLVER.MAX_ITER", "5")
    (told,) = lines(tmp_path / "out", "Command line arguments")
    assert f"{{'config_file': '{BASE_CONFIG}'}} {TINY[0]} " in told
    assert told.endswith("SOLVER.STEPS '(1, 2)' SOLVER.MAX_ITER 5")
