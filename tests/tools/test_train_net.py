"""``tools/train_net.py`` as a person calls it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.host.arguments import train_parser

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "train_net.py"
DEMO = ROOT / "demo" / "u2seg_demo.py"


def call(script: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False
    )


@pytest.mark.parametrize("script", [TOOL, DEMO], ids=["train_net", "demo"])
def test_help_is_fast_and_has_examples(script: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", str(script), "--help"],
        capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60, check=True,
    )  # fmt: skip
    assert "examples:" in shown.stdout
    assert "torch" not in shown.stderr
    assert "detectron2" not in shown.stderr


@pytest.mark.parametrize("script", [TOOL, DEMO], ids=["train_net", "demo"])
def test_scripts_are_thin(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert not any(
        isinstance(n, ast.ClassDef | ast.For | ast.While) for n in ast.walk(ast.parse(text))
    )


def test_flags_and_overrides_may_mix() -> None:
    words = ["--config-file", "c", "SOLVER.MAX_ITER", "3", "--resume", "SEED", "-1", "--debug"]
    args = train_parser().parse_intermixed_args(words)
    assert args.opts == ["SOLVER.MAX_ITER", "3", "SEED", "-1"]
    assert (args.resume, args.eval_only, args.debug, args.num_gpus) == (True, False, True, 1)


def tool_main() -> Callable[[list[str]], int]:
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main  # type: ignore[no-any-return]


@pytest.mark.d2
def test_a_typo_ends_with_code_2_and_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*data_words(make_labels(tmp_path), tmp_path / "out"), "SOLVER.BASE_LRR", "1"]
    assert tool_main()(["--config-file", str(BASE_CONFIG), *words]) == 2
    shown = capfd.readouterr().err
    assert "Did you mean SOLVER.BASE_LR?" in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.d2
def test_more_gpus_than_there_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = data_words(make_labels(tmp_path), tmp_path / "out")
    assert tool_main()(["--config-file", str(BASE_CONFIG), "--num-gpus", "99", *words]) == 2
    assert "--num-gpus is 99, this machine has" in capfd.readouterr().err


@pytest.mark.d2
def test_train_then_demo(tmp_path: Path) -> None:
    labels = make_labels(tmp_path)
    words = [*data_words(labels, tmp_path / "out"), "SOLVER.MAX_ITER", "1"]
    assert tool_main()(["--config-file", str(BASE_CONFIG), *words]) == 0
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff half")
    arguments = ["--config-file", str(BASE_CONFIG), "--input", str(tmp_path / "photos")]
    weights = str(tmp_path / "out" / "model_final.pth")
    shown = tmp_path / "shown"
    options = ["--output", str(shown), "--confidence-threshold", "0.1", "--opts", *words]
    done = call(DEMO, *arguments, "--weights", weights, *options)
    assert done.returncode == 0, done.stderr
    written = {p.relative_to(shown).as_posix() for p in shown.rglob("*") if p.is_file()}
    stems = ("a/0", "b/1", "2", "3")
    folders = ("pictures", "panoptic", "stuff")
    assert {f"{f}/{s}.png" for f in folders for s in stems} <= written
    assert {"panoptic.json", "instances.json", "labelspace.json"} <= written
    skipped = (shown / "skipped.jsonl").read_text()
    assert skipped.count("\n") == 1
    assert "broken.jpg" in skipped


def test_skip_heads_is_the_setting_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import u2seg.engine.run

    seen = []
    monkeypatch.setattr(u2seg.engine.run, "launch_run", lambda args: seen.append(args.opts) or 0)
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = ["--config-file", "x.yaml", "OUTPUT_DIR", "out"]
    assert module.main(command) == module.main([*command, "--skip-heads"]) == 0
    assert seen == [
        ["OUTPUT_DIR", "out"],
        ["OUTPUT_DIR", "out", "U2SEG.TRAIN.SKIP_HEADS", "True"],
    ]
