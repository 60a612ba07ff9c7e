"""The commands that score: options, tables, files and refusals."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scenes import SceneSettings, write_scenes

from tests.evaluation import formats
from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.label_files import write_labels
from tests.evaluation.test_task_rules import result_folder
from u2seg.errors import UserError
from u2seg.evaluation.command import evaluate_files, evaluate_parser, parse_evaluate
from u2seg.io.atomic import write_json
from u2seg.io.png import write_label_png
from u2seg.structures.labels import LabelSpace

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TOOL, SEMANTIC, MASKS = (TOOLS / f"evaluate{kind}.py" for kind in ("", "_semantic", "_masks"))


def run(*arguments: object, tool: Path = TOOL) -> subprocess.CompletedProcess[str]:
    """Run a tool in this process, which spares it its imports."""
    main = runpy.run_path(str(tool))["main"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in arguments])
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


@pytest.fixture
def arguments(tmp_path: Path) -> list[object]:
    space = LabelSpace(num_things=3, num_stuff=2)
    folder = write_predictions(tmp_path / "p", relabelled({1: 3, 2: 1, 3: 5, 4: 4}), space)
    truth = write_truth(tmp_path)
    return [
        *("--predictions", folder),
        *("--truth-json", truth.panoptic_json),
        *("--truth-pngs", truth.panoptic_pngs),
    ]


def test_tables_and_files(arguments: list[object], tmp_path: Path) -> None:
    done = run(*arguments, "--per-class", "U2SEG.EVAL.MATCHING", "majority")
    assert done.returncode == 0, done.stderr
    assert "majority matching, fitted on the same 2 images that are scored" in done.stdout
    assert ["all", "100.00", "100.00", "100.00", "4"] in [
        line.split() for line in done.stdout.splitlines()
    ]
    assert "dog" in done.stdout
    metrics = json.loads((tmp_path / "p/metrics.json").read_text())
    assert metrics["protocol"]["matching"] == "majority"
    again = run(*arguments, "--mapping", tmp_path / "p/mapping.json")
    assert again.returncode == 0 and "majority matching" in again.stdout


def test_errors_end_with_2_and_one_line(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "p/instances.json").unlink()
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
    assert "instances.json does not exist" in done.stderr
    assert "Traceback" in run(*arguments, "--debug").stderr


@pytest.mark.parametrize(
    "option",
    ["--predictions", "--truth-json", "--truth-pngs", "--mapping", "--labels", "--config-file"],
)
def test_what_is_missing_is_said_by_option(
    arguments: list[object], tmp_path: Path, option: str
) -> None:
    words = [*map(str, arguments), option, str(tmp_path / "gone")]  # the last one counts
    with pytest.raises(UserError, match=f"{option} {tmp_path}/gone does not exist, expected"):
        evaluate_files(parse_evaluate(evaluate_parser(), words))
    other = TOOL if option in ("--predictions", "--truth-pngs", "--labels") else TOOL.parent
    with pytest.raises(UserError, match=f"{option} {other} is a .*, expected (a|the|mapping)"):
        evaluate_files(parse_evaluate(evaluate_parser(), [*words, option, str(other)]))


def test_what_is_missing_is_said_before_libraries_are_loaded(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    words = ["--predictions", tmp_path, "--dataset", "voc", "--truth", tmp_path, gone]
    command = [sys.executable, "-X", "importtime", str(TOOL), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    *loaded, last = done.stderr.splitlines()
    assert last.startswith(f"error: --truth {gone} does not exist, expected a file or folder of")
    names = {line.rpartition("|")[2].strip() for line in loaded}
    assert "u2seg.commands" in names
    assert not names & {"numpy", "scipy", "pycocotools", "PIL", "torch", "yaml"}


def test_a_misspelt_key_is_named(arguments: list[object]) -> None:
    done = run(*arguments, "U2SEG.EVAL.MACHING", "majority")
    assert done.returncode == 2
    assert "Did you mean U2SEG.EVAL.MATCHING?" in done.stderr


def test_help_is_quick() -> None:
    done = run("--help")
    assert done.returncode == 0 and "--truth-json" in done.stdout


def test_several_protocols_in_one_table(arguments: list[object], tmp_path: Path) -> None:
    words = ["--protocol", "all", "one-to-one", "U2SEG.EVAL.BOOTSTRAP", "0"]
    done = run(*arguments, "--per-class", "--workers", "2", *words)
    assert done.returncode == 0, done.stderr
    classes = done.stdout.split("classes under u2seg-released:\n")[1].splitlines()
    assert [line.split()[0] for line in classes[:-1]] == ["class", "cat", "dog", "grass", "sky"]
    assert classes[-1] == f"report: {tmp_path / 'p/report.html'}"
    page = (tmp_path / "p/report.html").read_text("utf-8")
    assert "Panoptic, all" in page and "u2seg-paper: model" in page
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    names = ["u2seg-released", "u2seg-paper", "one-to-one", "cups"]
    assert [name for name in rows if name in names] == names
    # all that was predicted is right, and the paper's thresholds of the nearest K are named
    table = {line.split()[0]: line for line in done.stdout.split("\n\n")[1].splitlines()}
    for name in names:
        assert table[name].split()[1:4] == ["100.00"] * 3
        assert table[name].endswith("4 of 5")
    assert "for coco and 300 thing clusters (it has none for 3; 300 is the nearest)" in done.stdout
    metrics = json.loads((tmp_path / "p/metrics.json").read_text())
    assert sorted(metrics["protocols"]) == sorted(names)
    assert metrics["protocols"]["cups"]["protocol"]["things"] == {"votes": "pixels"}
    assert (tmp_path / "p/mapping_cups.json").is_file()


def test_protocol_and_key_that_disagree(arguments: list[object]) -> None:
    done = run(*arguments, "--protocol", "cups", "U2SEG.EVAL.MATCHING", "majority")
    assert done.returncode == 2
    assert "MATCHING is 'majority', but the protocol cups makes it" in done.stderr
    assert run(*arguments, "--protocol", "coups").returncode == 2


def test_a_protocol_of_a_plug_in(arguments: list[object], tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from u2seg.evaluation.protocols.rules import PROTOCOLS, EvalProtocol\n"
        "@PROTOCOLS.register('mine')\n"
        "def mine(settings, num_things):\n"
        "    return EvalProtocol('mine', 'majority', note='of my own')\n"
    )
    words = ["U2SEG.PLUGINS", json.dumps([str(plugin)]), "U2SEG.EVAL.BOOTSTRAP", "0"]
    done = run(*arguments, "--protocol", "mine", *words)
    assert done.returncode == 0, done.stderr
    assert "protocol mine, majority matching" in done.stdout and "of my own" in done.stdout


def test_keys_are_checked_beside_the_options(arguments: list[object], tmp_path: Path) -> None:
    """One key's meaning depends on another that an option sets."""
    words = [str(word) for word in arguments]

    def evaluate(*more: str) -> str:
        parser = evaluate_parser()
        return evaluate_files(parse_evaluate(parser, [*words, *more, "U2SEG.EVAL.BOOTSTRAP", "0"]))

    with pytest.raises(UserError, match=r"MERGE_TRUE_STUFF is True, expected False where"):
        evaluate("U2SEG.EVAL.MERGE_TRUE_STUFF", "True")
    truth = tmp_path / "truth.json"
    truth.write_text(truth.read_text().replace('"grass"', '"river"').replace('"sky"', '"sea"'))
    assert "classes of coco-95" in evaluate(
        "--classes", "coco-95", "U2SEG.EVAL.MERGE_TRUE_STUFF", "True"
    )
    metrics = json.loads((tmp_path / "p/metrics.json").read_text())
    assert metrics["protocol"]["merge_true_stuff"] is metrics["protocol"]["merge_stuff"] is True
    with pytest.raises(UserError, match=r"APART is False, but the protocol cups makes it True"):
        evaluate("--protocol", "cups", "U2SEG.EVAL.APART", "False")
    with pytest.raises(UserError, match=r"FIT_SHARE is 0.5, expected 0 where ids are classes"):
        evaluate("--protocol", "identity", "--fit-fraction", "0.5")
    with pytest.raises(UserError, match=r"FIT_SHARE is nan|FIT_SHARE is 'NaN'"):
        evaluate("--fit-fraction", "nan")
    (tmp_path / "a: b").mkdir()
    with pytest.raises(UserError, match=r"a: b holds no panoptic"):
        evaluate("--labels", str(tmp_path / "a: b"))


def test_a_share_is_held_out(arguments: list[object]) -> None:
    done = run(*arguments, "--fit-fraction", "0.45")
    assert done.returncode == 0, done.stderr
    assert "fitted on 1 image held out of the same truth" in done.stdout


def test_baselines_are_rows_beside_the_model(arguments: list[object], tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "run")
    done = run(*arguments, "--baselines", "--labels", labels, "U2SEG.EVAL.BOOTSTRAP", "0")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("custom:")]
    assert rows == ["model", "random_clusters", "one_cluster", "labels"]
    metrics = json.loads((tmp_path / "p/metrics.json").read_text())
    assert sorted(metrics["baselines"]) == ["labels", "one_cluster", "random_clusters"]
    done = run(*arguments, "--labels", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere does not exist, expected the output folder of" in done.stderr


def test_a_label_folder_is_scored_with_an_output_of_its_own(
    arguments: list[object], tmp_path: Path
) -> None:
    labels = write_labels(tmp_path / "run")
    words = ["--predictions", labels, *arguments[2:], "--output", tmp_path / "scores"]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    panoptic = json.loads((tmp_path / "scores/metrics.json").read_text())["panoptic"]
    assert panoptic["per_class"]["dog"]["PQ"] == 100.0
    camvid = formats.camvid(tmp_path / "camvid")
    told = run("--predictions", labels, "--dataset", "camvid", "--truth", *camvid).stderr
    assert "none of the 2 images of" in told and "label the photographs of the truth" in told


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def evaluated(arguments: list[object], *more: object) -> str:
    words = [*map(str, [*arguments, *more]), "U2SEG.EVAL.BOOTSTRAP", "0"]
    return evaluate_files(parse_evaluate(evaluate_parser(), words))


def test_a_folder_of_its_own_takes_everything(arguments: list[object], tmp_path: Path) -> None:
    before = contents(tmp_path / "p")
    output = tmp_path / "new/results"
    text = evaluated(arguments, "--protocol", "one-to-one", "cups", "--output", output)
    assert contents(tmp_path / "p") == before
    written = contents(output)
    # without the option the same files come beside the predictions
    assert evaluated(arguments, "--protocol", "one-to-one", "cups") == text
    beside = {k: v for k, v in contents(tmp_path / "p").items() if k not in before}
    assert {"metrics.json", "mapping_cups.json", "per_class.csv"} <= written.keys()
    assert any(name.startswith("worst/") for name in written)
    assert written == beside


def test_an_output_that_is_a_file_is_refused(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output .*file is a file, expected a folder for the"):
        evaluated(arguments, "--output", tmp_path / "file")
    assert not (tmp_path / "p/metrics.json").exists()


def test_the_given_mapping_is_not_written_over(arguments: list[object], tmp_path: Path) -> None:
    evaluated(arguments)
    path = tmp_path / "p/mapping.json"
    edited = json.dumps({**json.loads(path.read_text()), "remark": "by hand"})
    path.write_text(edited)
    evaluated(arguments, "--mapping", path)
    assert path.read_text() == edited
    evaluated(arguments, "--mapping", path, "--output", tmp_path / "q")
    assert json.loads((tmp_path / "q/mapping.json").read_text()).keys() == (
        json.loads(edited).keys() - {"remark"}
    )
    evaluated(arguments)  # fitted anew
    assert "remark" not in path.read_text()


def test_help_has_examples() -> None:
    assert "--output runs/train/evaluation-heldout" in evaluate_parser().format_help()


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
        tool=SEMANTIC,
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert lines["mean"] == ["100.00"] * 5
    assert lines["single"][:2] == ["11.11", "33.33"]  # one of three classes, a third of it right
    assert float(lines["random"][0]) < 40
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores[str(tmp_path / "one")]["mapping"] == [-1, -1, -1, 2, 1, 0]


def test_errors_of_semantic_maps_end_with_2(tmp_path: Path) -> None:
    done = run(
        "--predictions",
        tmp_path,
        "--truth",
        tmp_path,
        "--classes",
        tmp_path / "c.json",
        tool=SEMANTIC,
    )
    assert done.returncode == 2 and "c.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_table_beside_baselines(tmp_path: Path) -> None:
    write_scenes(tmp_path, SceneSettings(train=2, val=0, size=64))
    truth = tmp_path / "annotations/instances_train.json"
    annotations = json.loads(truth.read_text())["annotations"]
    write_json(tmp_path / "results.json", [{**a, "score": 1.0} for a in annotations])
    done = run(
        *("--results", tmp_path / "results.json", "--truth", truth, "--baselines"),
        *("--images", tmp_path / "images/train", "--json", tmp_path / "scores.json"),
        tool=MASKS,
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
        *("--results", truth, "--truth", truth, "--clusters", "--json", tmp_path / "scores.json"),
        tool=MASKS,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())["clusters"]["scores"]
    assert [round(value, 6) for value in scores.values()] == [100, 100, 100, 100]
    assert "matched_accuracy" in done.stdout


def test_errors_of_masks_end_with_2(tmp_path: Path) -> None:
    done = run("--results", tmp_path / "none.json", "--truth", tmp_path / "none.json", tool=MASKS)
    assert done.returncode == 2 and "none.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--results", "x", "--truth", "y", "--baselines", tool=MASKS)
    assert done.returncode == 2 and "--baselines needs --images" in done.stderr


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
