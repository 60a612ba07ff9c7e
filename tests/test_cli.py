"""Exit codes and messages shared by the tools."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from u2seg.cli import run_tool
from u2seg.config.arguments import folder
from u2seg.errors import StageError, UserError


def raising(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


def test_returns_the_code_of_the_body() -> None:
    assert run_tool(lambda: 0) == 0
    assert run_tool(lambda: 7) == 7


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("no such folder"), 2, "error: no such folder\n"),
        (StageError("shard 3 failed"), 1, "error: shard 3 failed\n"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; the same command goes on (u2seg train: with --resume)\n",
        ),
    ],
)
def test_expected_errors_are_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool(raising(error)) == code
    assert capsys.readouterr().err == message


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool(raising(UserError("bad key")), debug=True) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: bad key\n")


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool(raising(ZeroDivisionError()))


def test_an_empty_folder_name_is_not_the_working_directory() -> None:
    assert folder("a/b") == Path("a/b")
    for text in ("", " "):
        with pytest.raises(argparse.ArgumentTypeError, match="empty"):
            folder(text)
