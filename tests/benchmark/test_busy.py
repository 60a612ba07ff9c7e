"""The rows of a busy machine, with commands that only sleep and a clock that is made up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import busy
from benchmarks.inputs import Sizes
from benchmarks.machine import Rates
from benchmarks.setting import Setting
from u2seg.errors import StageError

SETTING = Setting(3, 2, Rates(1.0, 1.0), Sizes())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every command take 10 s, 25 s beside a loop, and 11 s when threads spin."""
    told: list[str] = []
    running: list[str] = []

    @contextlib.contextmanager
    def within(code: str = "spinning") -> Iterator[None]:
        running.append(code)
        yield
        running.clear()

    def seconds(words: list[str]) -> float:
        told.append(words[0])
        return {busy.LOOP: 25.0, "spinning": 11.0}[running[0]] if running else 10.0

    monkeypatch.setattr(busy, "seconds", seconds)
    monkeypatch.setattr(busy, "beside", within)
    monkeypatch.setattr(busy, "inherited_spinning", within)
    monkeypatch.setattr(
        busy, "jobs", lambda *_: {name: [name] for name in ("label", "model", "train", "predict")}
    )
    return told


def test_a_command_beside_other_work_is_compared_with_itself_alone(calls: list[str]) -> None:
    row = busy.measure(SETTING, "predict", "loop")
    assert (row.ours, row.peer, row.ratio, row.met) == (25.0, 10.0, 2.5, False)
    assert calls == ["label", "model", *["predict"] * 6]  # what it needs, then in turns


def test_sleeping_threads_are_compared_with_spinning_ones(calls: list[str]) -> None:
    row = busy.measure(SETTING, "train", "quiet")
    assert (row.ours, row.peer, row.met) == (10.0, 11.0, True)


def test_other_work_runs_within_the_block_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy, "WARM_S", 0.05)
    beat = tmp_path / "beat"
    code = f"import time\nwhile True: open({str(beat)!r}, 'w').close(); time.sleep(0.01)"
    with busy.beside(code):
        while not beat.exists():
            time.sleep(0.01)
    beat.unlink()
    time.sleep(0.05)
    assert not beat.exists()
    with pytest.raises(StageError, match="ended by itself, with 3"), busy.beside("exit(3)"):
        time.sleep(0.5)


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(StageError, match="u2seg nonsense ended with"):
        busy.seconds(["nonsense"])
