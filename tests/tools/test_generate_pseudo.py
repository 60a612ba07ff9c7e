"""The labelling tool as a person meets it: help, exit codes, messages without tracebacks."""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scenes.compose import compose_scene

from tests.faults.harness import forkserver
from tests.pipeline.conftest import FAST, tree
from u2seg.io.atomic import write_json
from u2seg.workflows.label import report_labels

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "generate_pseudo.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        image = compose_scene(np.random.default_rng(i), 64).image
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("MODEL:\n  MASK_ON: True\nU2SEG:\n  RUN: {SHARD_SIZE: 2}\n")
    return path


def arguments(config: Path, photos: Path, output: Path, *extra: str) -> list[str]:
    return [
        "--config-file", str(config), "--images", str(photos), "--output-dir", str(output), *extra,
    ]  # fmt: skip


WRONG = {
    "misspelt key": (["U2SEG.MASKS.TAO", "0.2"], "Did you mean U2SEG.MASKS.MASKCUT.TAU"),
    "misspelt key of the host": (["SOLVER.MAX_ITR", "6"], "unknown key SOLVER.MAX_ITR"),
    "unknown extractor": (["U2SEG.FEATURES.NAME", "dino_vits9"], "Did you mean 'dino_vits8'"),
    "unknown refiner": (["U2SEG.MASKS.REFINER", "crf"], "known are dense_crf, none"),
    "missing weights": (
        ["U2SEG.FEATURES.NAME", "dino_vits8", "U2SEG.FEATURES.VIT.WEIGHTS", "/no/w.pth"],
        "weight file /no/w.pth does not exist",
    ),
    "unknown stage": (["--stages", "mask"], "known are masks, clusters"),
    "no worker": (["--workers", "0"], "--workers is 0, expected a number >= 1"),
    "unknown executor": (["--executor", "dask"], "known are local, ray, slurm"),
    "half an option": (["--executor-options", "cpus"], "cpus: expected KEY=VALUE"),
    "negative dry run": (["--dry-run", "-3"], "expected a number of images"),
}


@pytest.mark.parametrize("case", WRONG)
def test_usage_errors_exit_with_2_and_a_message(
    case: str, config: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra, message = WRONG[case]
    code = load(TOOL).main(arguments(config, photos, tmp_path / "out", *extra))
    told = capsys.readouterr().err
    assert code == 2
    assert message in told
    assert "Traceback" not in told


def test_missing_config_empty_folder_and_unwritable_output(
    config: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = load(TOOL).main
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(arguments(tmp_path / "no.yaml", photos, tmp_path / "out")) == 2
    assert main(arguments(config, empty, tmp_path / "out")) == 2
    assert main(arguments(config, photos, Path("/proc/out"))) == 2
    told = capsys.readouterr().err
    assert "no.yaml does not exist" in told and "no image found" in told
    assert "cannot write" in told and "Traceback" not in told


def test_dry_run_prints_an_estimate(
    config: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--dry-run", "2", *FAST]
    assert load(TOOL).main(arguments(config, photos, tmp_path / "out", *extra)) == 0
    told = capsys.readouterr().out
    assert "hours for 4" in told
    assert told.splitlines()[-1] == f"report: {tmp_path / 'out' / 'dry-run' / 'report.html'}"
    assert not (tmp_path / "out" / "images.json").exists()  # only out/dry-run


def call(words: list[str]) -> None:
    """Be a process that runs the tool."""
    sys.exit(load(TOOL).main(words))


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(
    config: Path, photos: Path, tmp_path: Path
) -> None:
    def start(output: Path) -> BaseProcess:
        words = arguments(config, photos, output, *FAST)
        process: BaseProcess = forkserver().Process(target=call, args=(words,))
        process.start()
        return process

    calm = start(tmp_path / "calm")
    output = tmp_path / "killed"
    for milestone in ("images.json", "masks/plan.json", "semantics/plan.json"):
        process = start(output)
        deadline = time.monotonic() + 60
        while not (output / milestone).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    last = start(output)
    for process in (calm, last):
        process.join()
        assert process.exitcode == 0
    assert tree(output) == tree(tmp_path / "calm")


def test_the_whole_run_wants_its_truth_before_it_labels(
    config: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments(config, photos, tmp_path / "out"), "--truth", str(tmp_path / "absent")]
    assert load(ROOT / "tools" / "run_pipeline.py").main(words) == 2
    assert "absent, does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_status_needs_the_output_folder_alone(
    config: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load(TOOL)
    output = tmp_path / "labels"
    assert tool.main(["--output-dir", str(output), "--status"]) == 2
    assert "holds no labelling run" in capsys.readouterr().err
    options = ["--stages", "masks", *FAST]
    assert tool.main([*arguments(config, photos, output), *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {output / 'report.html'}"
    page = (output / "report.html").read_text("utf-8")
    assert "Showing 4 of 4" in page and "Left out of this page" not in page
    assert tool.main(["--output-dir", str(output), "--status"]) == 0
    told = capsys.readouterr().out
    assert "masks" in told and "no driver is at work" in told
    assert tool.main(["--output-dir", str(output)]) == 2
    assert "--config-file and --images are needed" in capsys.readouterr().err


def test_a_million_photographs_are_not_read_into_memory_for_a_report(tmp_path: Path) -> None:
    write_json(tmp_path / "images" / "manifest.json", {"counts": {"images": 1_281_167}})
    told = report_labels(tmp_path)
    assert told == (
        f"no report of 1281167 photographs by itself: u2seg report {tmp_path} writes it"
    )
    assert not (tmp_path / "report.html").exists()
