"""datasets/make_scenes.py: writes the data set, refuses bad numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "datasets" / "make_scenes.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_writes_both_splits(tmp_path: Path) -> None:
    done = run("--output", tmp_path, "--train", 2, "--val", 1, "--size", 48)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 images, ")
    assert len(list((tmp_path / "images").rglob("*.png"))) == 3
    assert (tmp_path / "annotations/instances_val.json").is_file()


def test_bad_numbers_end_with_2(tmp_path: Path) -> None:
    done = run("--output", tmp_path, "--size", 8)
    assert done.returncode == 2
    assert done.stderr == "error: --size is 8, expected 32..2048 pixels\n"
