"""tools/evaluate_masks.py: the table beside baselines, and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from scenes import SceneSettings, write_scenes

from u2seg.io.atomic import write_json

TOOL = Path(__file__).resolve().parents[2] / "tools" / "evaluate_masks.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_table_beside_baselines(tmp_path: Path) -> None:
    write_scenes(tmp_path, SceneSettings(train=2, val=0, size=64))
    truth = tmp_path / "annotations/instances_train.json"
    annotations = json.loads(truth.read_text())["annotations"]
    write_json(tmp_path / "results.json", [{**a, "score": 1.0} for a in annotations])
    done = run(
        *("--results", tmp_path / "results.json", "--truth", truth, "--baselines"),
        *("--images", tmp_path / "images/train", "--json", tmp_path / "scores.json"),
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    header = rows["class-agnostic"]
    for name in ("AP", "AP50", "AR100", "best_mask_iou", "hits"):
        assert rows["masks"][header.index(name)] == "100.00", name
    assert {"AR1", "AR10", "AR_small", "AR_medium", "AR_large"} <= set(header)
    assert float(rows["centered_box"][-1]) < float(rows["masks"][-1])
    assert float(rows["slic_superpixels"][-1]) < float(rows["masks"][-1])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["masks"]["instances"] == len(annotations)


def test_clusters_are_scored_when_asked(tmp_path: Path) -> None:
    write_scenes(tmp_path, SceneSettings(train=2, val=0, size=64))
    truth = tmp_path / "annotations/instances_train.json"
    # The truth as its own labels: every class is a cluster.
    done = run(
        *("--results", truth, "--truth", truth, "--clusters", "--json", tmp_path / "scores.json")
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())["clusters"]["scores"]
    assert [round(value, 6) for value in scores.values()] == [100, 100, 100, 100]
    assert "matched_accuracy" in done.stdout


def test_errors_end_with_2(tmp_path: Path) -> None:
    done = run("--results", tmp_path / "none.json", "--truth", tmp_path / "none.json")
    assert done.returncode == 2 and "none.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--results", "x", "--truth", "y", "--baselines")
    assert done.returncode == 2 and "--baselines needs --images" in done.stderr
