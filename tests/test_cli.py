"""Exit codes and messages shared by the tools."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from u2seg.cli import COMMANDS, execute, main, run_tool
from u2seg.config.arguments import folder, new_parser
from u2seg.config.env import offline
from u2seg.errors import StageError, UserError
from u2seg.version import __version__


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


def test_a_reader_who_has_seen_enough_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run_tool(lambda: sys.stdout.write("line") and 0) == 141
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):  # another pipe
        run_tool(raising(BrokenPipeError()))


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--config-file", "c", "--input", "a", "--output", ""],
        ["predict", "--config-file", "c", "--input", "a", "", "--output", "b"],
        ["report", ""],
        ["label", "--config-file", "c", "--images", "p", "--output-dir", ""],
        ["evaluate", "--predictions", "a", "--output", "", "--truth", "t"],
        ["convert", "a", ""],
    ],
)
def test_empty_names_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "the name is empty" in capsys.readouterr().err


def test_an_empty_folder_name_is_not_the_working_directory() -> None:
    assert folder("a/b") == Path("a/b")
    for text in ("", " "):
        with pytest.raises(argparse.ArgumentTypeError, match="empty"):
            folder(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_and_loads_nothing_heavy(name: str) -> None:
    code = (
        f"import sys\nfrom u2seg.cli import main\ntry:\n    main([{name!r}, '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'detectron2', 'numpy', 'PIL', 'scipy'} & set(sys.modules)\n"
        "raise SystemExit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: u2seg {name}" in done.stdout
    assert "examples:" in done.stdout and "--offline" in done.stdout and "--debug" in done.stdout


def test_the_command_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["--version"], 0), (["--help"], 0), ([], 2), (["lable"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == code
    shown = capsys.readouterr()
    assert shown.out.startswith(f"u2seg {__version__}\n")
    assert all(f"\n  {name} " in shown.out for name in COMMANDS)
    assert "invalid choice: 'lable'" in shown.err


def test_what_an_extra_brings_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("u2seg.io.packaged.clone", lambda: None)
    record = json.dumps({"url": tmp_path.as_uri()})
    origin = SimpleNamespace(read_text=lambda _: record)
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: origin)
    (tmp_path / "images.json").write_text('{"images": []}')
    for module, extras in (("matplotlib", "labels,demo"), ("yaml", ""), ("ray", "ray")):
        error = ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")
        assert run_tool(raising(error), extras="labels,demo") == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1
        assert told.endswith(f"run pip install '{tmp_path}[{extras}]'\n".replace("[]", ""))
    assert run_tool(raising(ModuleNotFoundError("No module named 'fcntl'", name="fcntl"))) == 2
    assert "WSL on Windows" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        run_tool(raising(ModuleNotFoundError("No module named 'u2seg.mine'", name="u2seg.mine")))


HIDE = """import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {0!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())"""


@pytest.mark.parametrize(
    ("name", "words", "hidden", "extra"),
    [
        ("label", ["--config-file", "u2seg/quickstart", "--images", "photos"], "torch", "labels"),
        ("train", ["--config-file", "u2seg/quickstart"], "torch", "train"),
    ],
)
def test_a_command_without_its_libraries(
    name: str, words: list[str], hidden: str, extra: str, tmp_path: Path
) -> None:
    (tmp_path / "labelspace.json").write_text("{}")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    more = ["--output-dir", "out"] if name == "label" else []
    code = (
        f"{HIDE.format(hidden)}\nfrom u2seg.cli import main\n"
        f"raise SystemExit(main({[name, *words, *more]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.stderr
    assert hidden in last.lower() and f"[{extra}" in last and "pip install" in last


@pytest.mark.parametrize("words", [[], ["--offline"]])
def test_offline_is_known_everywhere(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    found: list[bool] = []
    execute(new_parser("Do it.", ""), lambda _: found.append(offline()) or 0, words)
    assert found == [bool(words)]


def test_offline_holds_for_the_body_and_asks_nothing_of_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from u2seg.features.weights import local_weights

    asked: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *words, **_: asked.append(words))
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # put back afterwards

    def body(_: argparse.Namespace) -> int:
        local_weights("https://host.invalid/vit.pth", folder=tmp_path)
        return 0

    assert execute(new_parser("", ""), body, ["--offline"]) == 2
    assert "vit.pth was never downloaded here, and --offline was given" in capsys.readouterr().err
    assert asked == []
