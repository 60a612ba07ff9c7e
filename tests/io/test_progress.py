"""Progress in a file: a line now and then, nothing for what is quick."""

from __future__ import annotations

import pytest

from u2seg.io import progress


def test_in_a_file_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))
    bar = progress.Bar(total=20, desc="masks", unit="img")
    monkeypatch.setattr(bar, "_time", lambda: bar.start_t + next(clock))
    for _ in range(20):
        bar.update()
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 8, lines
    assert all(line.startswith("masks: ") and "\r" not in line for line in lines)
    assert lines[-1].startswith("masks: 20 of 20, ")


def test_what_is_quick_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.Bar(range(3), desc="x")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
