"""tools/evaluate_semantic.py: several folders, the controls, and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from u2seg.io.png import write_label_png

TOOL = Path(__file__).resolve().parents[2] / "tools" / "evaluate_semantic.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_table_of_two_runs_beside_controls(tmp_path: Path) -> None:
    rows = np.arange(3, dtype=np.uint8).repeat(100).reshape(10, 30)
    write_label_png(tmp_path / "truth" / "street.png", rows)
    for name in ("one", "two"):
        write_label_png(tmp_path / name / "street.png", 5 - rows)
    classes = tmp_path / "classes.json"
    named = [{"id": i, "name": name} for i, name in enumerate(("sky", "road", "tree"))]
    classes.write_text(json.dumps({"classes": named, "ignore_index": 255}))
    done = run(
        *("--predictions", tmp_path / "one", tmp_path / "two", "--truth", tmp_path / "truth"),
        *("--classes", classes, "--controls", "--json", tmp_path / "scores.json"),
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert lines["mean"] == ["100.00"] * 5
    assert lines["single"][:2] == ["11.11", "33.33"]  # one of three classes, a third of it right
    assert float(lines["random"][0]) < 40
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores[str(tmp_path / "one")]["mapping"] == [-1, -1, -1, 2, 1, 0]


def test_errors_end_with_2(tmp_path: Path) -> None:
    done = run("--predictions", tmp_path, "--truth", tmp_path, "--classes", tmp_path / "c.json")
    assert done.returncode == 2 and "c.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr
