"""tools/evaluate.py on other data sets' own files."""

from __future__ import annotations

import json
from pathlib import Path

from tests.evaluation import formats
from tests.evaluation.test_task_rules import result_folder
from tests.tools.test_evaluate import run
from u2seg.structures.labels import LabelSpace


def test_other_formats_and_class_sets(tmp_path: Path) -> None:
    classes, labels = formats.camvid(tmp_path)
    maps = {"0016E5_07959": [[1, 1], [3, 3]], "0016E5_07961": [[3, 2], [3, 3]]}
    folder = result_folder(tmp_path / "p", maps, LabelSpace(num_things=2, num_stuff=1), first=7)
    words = ["--predictions", folder, "--dataset", "camvid", "--truth", classes, labels]
    done = run("--classes", "camvid-11", *words, "U2SEG.EVAL.BOOTSTRAP", "0")
    assert done.returncode == 0, done.stderr
    assert "classes of camvid-11" in done.stdout and "\npanoptic" not in done.stdout
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["protocol"]["class_set"] == "camvid-11"
    assert metrics["panoptic"] is None and metrics["ci95"] is None
    done = run("--classes", "coco-95", *words)
    assert done.returncode == 2 and "class 1 is 'Sky', which coco-95" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_truth_is_given_one_way() -> None:
    done = run("--predictions", "p", "--truth", "a", "--truth-json", "b", "--truth-pngs", "c")
    assert done.returncode == 2 and "give the truth as --truth PATH" in done.stderr
    done = run("--predictions", "p", "--truth-json", "b")
    assert done.returncode == 2 and "give the truth as --truth PATH" in done.stderr
