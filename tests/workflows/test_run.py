"""The whole run on a few tiny scenes: label, train, evaluate, predict, report, and again."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
from pathlib import Path

import pytest
from scenes.export import SceneSettings, write_scenes

from tests.label_folder import NARROW
from tests.pipeline.conftest import FAST
from u2seg.errors import StageError, UserError
from u2seg.io.jsonfile import read_json
from u2seg.workflows import run as workflow
from u2seg.workflows.run import Folders, _check_same_run, _training_opts, run_everything

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart" / "scenes.yaml"
SHORT = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)", "SOLVER.IMS_PER_BATCH", "2"]


def arguments(root: Path, *opts: str, rounds: int = 0) -> argparse.Namespace:
    data = root / "data"
    return argparse.Namespace(
        config_file=str(CONFIG),
        images=data / "images" / "train",
        output_dir=root / "run",
        truth=data,
        baseline=True,
        rounds=rounds,
        debug=False,
        opts=[*FAST, *NARROW, *SHORT, *opts],
    )


@pytest.mark.d2
@pytest.mark.slow
def test_everything_once_again_and_not_mixed(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=4, val=2, size=64))
    told = run_everything(arguments(tmp_path))
    run = tmp_path / "run"
    assert "untrained model: PQ" in told and "trained / untrained" in told
    trained = read_json(run / "train/evaluation/metrics.json")
    assert trained["protocol"]["images"] == 2
    assert read_json(run / "untrained/metrics.json")["protocol"]["images"] == 2
    assert len(list((run / "predictions/pictures").glob("*.png"))) == 4
    page = (run / "report.html").read_text()
    assert "Loss curves" in page and "<script" not in page and "Rounds" not in page
    seconds = read_json(run / "train/timings.json")

    model = (run / "train/model_final.pth").read_bytes()
    assert run_everything(arguments(tmp_path)).splitlines()[1] == told.splitlines()[1]
    assert (run / "train/model_final.pth").read_bytes() == model
    assert read_json(run / "train/timings.json") == seconds

    with pytest.raises(UserError) as refused:
        run_everything(arguments(tmp_path, "SOLVER.BASE_LR", "0.5"))
    assert str(refused.value) == (
        f"{run / 'train'} was trained with other SOLVER.BASE_LR (not given, now 0.5); results are "
        f"never mixed. Choose another --output-dir, or remove {run / 'train'} and "
        f"{run / 'untrained'} and run the same command again"
    )
    evaluated_only(tmp_path, (run / "train/evaluation/metrics.json").read_bytes())


def evaluated_only(root: Path, metrics: bytes) -> None:
    """Other evaluation of a finished run: refused with a command, which works."""
    from u2seg.engine.run import train_or_evaluate
    from u2seg.host.arguments import train_parser

    run = root / "run"
    with pytest.raises(UserError) as refused:
        run_everything(arguments(root, "U2SEG.EVAL.PROTOCOL", "cups"))
    told, _, command = str(refused.value).partition(" u2seg ")
    assert told == (
        f"{run / 'train'} was trained and evaluated with other U2SEG.EVAL.PROTOCOL (not given, "
        "now cups); only the evaluation differs, so keep the training and evaluate it:"
    )
    tool, *words = shlex.split(command)
    assert tool == "train"
    train_or_evaluate(train_parser().parse_intermixed_args(words))
    made = read_json(run / "other-evaluation/evaluation/metrics.json")
    assert made["protocol"]["name"] == "cups"
    assert (run / "train/evaluation/metrics.json").read_bytes() == metrics


def test_missing_folders_are_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images/train does not exist"):
        run_everything(arguments(tmp_path))
    (tmp_path / "data/images/train").mkdir(parents=True)
    (tmp_path / "data/images/train/a.png").write_bytes(b"not looked at yet")
    wrong = arguments(tmp_path)
    wrong.truth = tmp_path / "nowhere"
    with pytest.raises(UserError, match="--truth"):
        run_everything(wrong)
    with pytest.raises(UserError, match=r"--rounds is -1, expected .* >= 0"):
        run_everything(arguments(tmp_path, rounds=-1))
    assert not (tmp_path / "run").exists()


@pytest.mark.d2
def test_a_training_that_cannot_begin_is_refused_before_the_labels_are_made(
    tmp_path: Path,
) -> None:
    (tmp_path / "data/images/train").mkdir(parents=True)
    (tmp_path / "data/images/train/a.png").write_bytes(b"not looked at yet")
    for words, message in (
        (("MODEL.FPN.NORM", "SyncBN", "MODEL.DEVICE", "cpu"), r"MODEL\.FPN\.NORM is SyncBN"),
        (("MODEL.META_ARCHITECTURE", "Nothing"), r"MODEL\.META_ARCHITECTURE"),
    ):
        with pytest.raises(UserError, match=message):
            run_everything(arguments(tmp_path, *words))
    assert not (tmp_path / "run").exists()


@pytest.mark.d2
@pytest.mark.parametrize(("reference", "ratio"), [("pseudo-labels", 2), ("scenes val", 3)])
def test_without_truth_the_figures_of_rounds_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, ratio: int
) -> None:
    """PQ is 10 untrained, 20 after the first training, 30 after the round."""
    write_scenes(tmp_path / "data", SceneSettings(train=1, val=1, size=32))
    results = iter(
        {"protocol": {"reference": reference}, "panoptic": {"all": {"PQ": pq}}}
        for pq in (10.0, 20.0, 30.0)
    )
    monkeypatch.setattr("u2seg.pipeline.generate_labels", lambda *_, **__: None)
    monkeypatch.setattr("u2seg.visualization.report.write_report", lambda *_, **__: "page")
    for name in ("_train", "_untrained_metrics"):
        monkeypatch.setattr(workflow, name, lambda *_: next(results))
    monkeypatch.setattr(workflow, "_summary", lambda _, metrics: metrics)
    for name in ("_relabel", "_predict", "_check_same_run"):
        monkeypatch.setattr(workflow, name, lambda *_: [])
    (tmp_path / "run").mkdir()
    told = run_everything(arguments(tmp_path, rounds=1)).splitlines()
    assert (workflow.NOT_COMPARABLE in told) == (reference == "pseudo-labels")
    assert f"trained / untrained: {ratio}.0 times the PQ" in told


@pytest.mark.d2
@pytest.mark.slow
def test_rounds_of_self_training_build_on_each_other(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=4, val=2, size=64))
    # Two iterations make no confident model: thresholds of zero let its predictions in.
    sure = ["U2SEG.ROUNDS.SCORE", "0.01", "U2SEG.ROUNDS.AGREED_SCORE", "0.01"]
    sure += ["U2SEG.ROUNDS.STUFF_SCORE", "0.01", "SOLVER.BASE_LR", "0.02"]
    told = run_everything(arguments(tmp_path, *sure, rounds=2)).splitlines()
    run = tmp_path / "run"
    assert [line.split(":")[0] for line in told[1:4]] == ["trained model", "round 1", "round 2"]
    rows = read_json(run / "rounds.json")["rounds"]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows[1]["labels"]["predicted"] + rows[2]["labels"]["predicted"] > 0
    assert rows[1]["labels"]["stuff_changed"] > 0
    for number, before in ((1, run), (2, run / "rounds" / "1")):
        opts = read_json(run / "rounds" / str(number) / "run.json")["opts"]
        keys = dict(zip(opts[::2], opts[1::2], strict=True))
        assert keys["MODEL.WEIGHTS"] == str(before / "train" / "model_final.pth")
        assert float(keys["SOLVER.BASE_LR"]) == 0.01  # half, in every round
        assert keys["U2SEG.TRAIN.DROPLOSS"] == keys["U2SEG.TRAIN.SKIP_HEADS"] == "False"
    page = (run / "report.html").read_text()
    assert 'id="rounds"' in page and page.count("<figcaption>round 2<") == 4
    before = (run / "rounds/2/train/model_final.pth").read_bytes()
    assert run_everything(arguments(tmp_path, *sure, rounds=2)).splitlines()[:4] == told[:4]
    assert (run / "rounds/2/train/model_final.pth").read_bytes() == before


@pytest.mark.d2
def test_a_detector_s_masks_become_labels(tmp_path: Path) -> None:
    """U2SEG.MASKS.PROPOSER cutler by the labelling tool, with a small random Mask R-CNN."""
    import torch
    import yaml
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    from u2seg.host.setup import build_stock_cfg
    from u2seg.workflows.run import label_folder

    write_scenes(tmp_path / "data", SceneSettings(train=3, val=1, size=64))
    base = model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    model = {
        "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
        "FPN": {"OUT_CHANNELS": 16},
        "ROI_HEADS": {"NUM_CLASSES": 1},
        "ROI_BOX_HEAD": {"FC_DIM": 16},
        "ROI_MASK_HEAD": {"CONV_DIM": 8, "NUM_CONV": 1},
    }
    config, weights = tmp_path / "stock.yaml", tmp_path / "stock.pth"
    config.write_text(yaml.safe_dump({"_BASE_": base, "MODEL": model}))
    torch.manual_seed(0)
    stock = build_model(build_stock_cfg(config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]))
    torch.save({"model": stock.state_dict()}, weights)
    told = label_folder(
        argparse.Namespace(
            config_file=str(CONFIG),
            images=tmp_path / "data/images/train",
            output_dir=tmp_path / "labels",
            stages="masks",
            overwrite=False,
            dry_run=0,
            retry_failed=False,
            status=False,
            executor="local",
            workers=1,
            executor_options=[],
            opts=[
                *FAST, "U2SEG.MASKS.PROPOSER", "cutler", "U2SEG.MASKS.DETECTOR_SCORE", "0.1",
                "U2SEG.MASKS.DETECTOR_CONFIG", str(config), "U2SEG.FEATURES.DEVICE", "cpu",
                "U2SEG.MASKS.DETECTOR_WEIGHTS", str(weights),
            ],
        )
    )  # fmt: skip
    assert told.splitlines() == [
        f"labels are in {tmp_path / 'labels'}", f"report: {tmp_path / 'labels/report.html'}"
    ]  # fmt: skip
    parts = sorted((tmp_path / "labels/masks").glob("part-*.json"))
    entries = [entry for part in parts for entry in read_json(part)]
    assert entries and min(entry["score"] for entry in entries) >= 0.1
    assert set(read_json(tmp_path / "labels/masks/plan.json")["detector"]) == {"config", "weights"}


@pytest.mark.d2
def test_labels_of_another_run_are_refused_with_advice_that_this_tool_can_follow(
    tmp_path: Path,
) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=1, val=1, size=64))
    labels = tmp_path / "run/labels"
    (labels / "masks").mkdir(parents=True)
    (labels / "masks/plan.json").write_text('{"settings_hash": "another"}')
    (tmp_path / "run/train").mkdir()
    with pytest.raises(UserError) as refused:
        run_everything(arguments(tmp_path))
    finding, _, advice = str(refused.value).partition(" results are never mixed. ")
    assert finding.startswith(f"{labels / 'masks'} was made with other ")
    assert advice == (
        f"Choose another --output-dir, or remove {labels} and {tmp_path / 'run/train'} and run "
        "the same command again"
    )


def trained(run: Path, opts: list[str], *, rounds: int = 0) -> Folders:
    """Leave what the comparison of a finished run with a command looks at."""
    for number in range(rounds + 1):
        folders = Folders(run, number)
        folders.train.mkdir(parents=True)
        folders.labels.mkdir()
        (folders.train / "last_checkpoint").write_text("model_final.pth")
        folders.final_model.write_bytes(b"")
        manifest = {"inputs": {"masks": "a"}, "files": {}, "settings_hash": "1"}
        (folders.labels / "manifest.json").write_text(json.dumps(manifest))
    args = argparse.Namespace(config_file=str(CONFIG), rounds=rounds, truth=None, opts=opts)
    first = Folders(run)
    _check_same_run(args, first, _training_opts(args, first))
    return first


def asked(folders: Folders, *opts: str, truth: Path | None = None, rounds: int = 0) -> str:
    """Return what a command is told of a finished run; empty = nothing."""
    args = argparse.Namespace(config_file=str(CONFIG), rounds=rounds, truth=truth, opts=list(opts))
    try:
        _check_same_run(args, folders, _training_opts(args, folders))
    except UserError as error:
        return str(error)
    return ""


def test_another_truth_is_evaluated_and_not_trained_again(tmp_path: Path) -> None:
    folders = trained(tmp_path / "run", ["SEED", "1"], rounds=1)
    told = asked(folders, "SEED", "1", truth=Path("coco"))
    assert "with other --truth (not given, now coco); only the evaluation differs" in told
    assert f"MODEL.WEIGHTS {folders.final_model}" in told and "remove" not in told
    told = asked(folders, "SEED", "1", truth=Path("coco"), rounds=1)
    assert f"MODEL.WEIGHTS {Folders(tmp_path / 'run', 1).final_model}" in told
    assert asked(folders, "SEED", "1") == ""


def test_labels_count_and_the_settings_beside_them_do_not(tmp_path: Path) -> None:
    folders = trained(tmp_path / "run", ["SEED", "1"])
    path = folders.labels / "manifest.json"
    first = read_json(path)
    path.write_text(json.dumps({**first, "settings_hash": "2"}))
    told = asked(folders, "SEED", "1", "U2SEG.EVAL.PROTOCOL", "cups")
    assert "u2seg train" in told and "labels (" not in told
    path.write_text(json.dumps({**first, "inputs": {"masks": "b"}}))
    for extra in ((), ("U2SEG.EVAL.PROTOCOL", "cups")):
        told = asked(folders, "SEED", "1", *extra)
        assert f"trained with other labels (made anew in {folders.labels})" in told
        assert f"remove {folders.train} and run" in told


def test_fewer_rounds_than_were_made_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    for number in (1, 2):
        folders = Folders(run, number)
        folders.train.mkdir(parents=True)
        folders.final_model.write_bytes(b"")
    (tmp_path / "data/images/train").mkdir(parents=True)
    (tmp_path / "data/images/train/a.png").write_bytes(b"not looked at")

    def stop(*_: object, **__: object) -> None:
        raise StageError("far enough")

    monkeypatch.setattr("u2seg.pipeline.generate_labels", stop)
    monkeypatch.setattr("u2seg.host.setup.build_cfg", lambda *_, **__: None)
    monkeypatch.setattr("u2seg.host.evaldata.register_eval", lambda *_: None)
    for rounds, expected in ((0, True), (1, True), (2, False), (3, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(StageError):
            run_everything(arguments(tmp_path, rounds=rounds))
        told = f"{run / 'rounds'} holds 2 rounds of self-training"
        assert (told in caplog.text) is expected
        assert ("The same command with --rounds 2 brings them back" in caplog.text) is expected
