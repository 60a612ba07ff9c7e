"""Whole runs on a few tiny scenes: label, train, evaluate, predict, report, rounds, and again."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from scenes.export import SceneSettings, write_scenes

import u2seg
from tests.factories import NARROW
from tests.pipeline.conftest import FAST
from u2seg.config.load import load_settings
from u2seg.errors import StageError, UserError
from u2seg.io.jsonfile import read_json
from u2seg.workflows import recipe
from u2seg.workflows.folders import Folders

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart" / "scenes.yaml"
SHORT = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)", "SOLVER.IMS_PER_BATCH", "2"]
WORDS = [*FAST, *NARROW, *SHORT]


def run(root: Path, *words: str, config: Path = CONFIG, **given: Any) -> list[str]:
    """Run on the scenes in ``root/data``; return what is told, line by line."""
    data = root / "data"
    given = {"truth": data, "baseline": True, **given}
    told = u2seg.run(data / "images" / "train", root / "run", config, [*WORDS, *words], **given)
    return told.splitlines()


@pytest.mark.d2
@pytest.mark.slow
def test_everything_once_again_and_not_mixed(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=4, val=2, size=64))
    told = run(tmp_path)
    folder = tmp_path / "run"
    assert [line.split(":")[0] for line in told] == [
        "untrained model", "trained model", "trained / untrained", "pictures", "report"
    ]  # fmt: skip
    for metrics in ("train/evaluation", "untrained"):
        assert read_json(folder / metrics / "metrics.json")["protocol"]["images"] == 2
    assert len(list((folder / "predictions/pictures").glob("*.png"))) == 4
    page = (folder / "report.html").read_text()
    assert "Loss curves" in page and "<script" not in page and "Rounds" not in page
    kept = [folder / "train" / name for name in ("timings.json", "model_final.pth")]
    before = [path.read_bytes() for path in kept]
    assert run(tmp_path)[:2] == told[:2]
    assert [path.read_bytes() for path in kept] == before

    with pytest.raises(UserError) as refused:
        run(tmp_path, "SOLVER.BASE_LR", "0.5")
    assert str(refused.value) == (
        f"{folder / 'train'} was trained with other SOLVER.BASE_LR (not given, now 0.5); results "
        f"are never mixed. Choose another output folder, or remove {folder / 'train'} and "
        f"{folder / 'untrained'} and run the same again"
    )
    evaluated_only(tmp_path, (folder / "train/evaluation/metrics.json").read_bytes())


def evaluated_only(root: Path, metrics: bytes) -> None:
    """Other evaluation of a finished run: refused with a command, which works."""
    from u2seg.engine.run import train_or_evaluate
    from u2seg.host.arguments import train_parser

    folder = root / "run"
    with pytest.raises(UserError) as refused:
        run(root, "U2SEG.EVAL.PROTOCOL", "cups")
    told, _, command = str(refused.value).partition(" u2seg ")
    assert told == (
        f"{folder / 'train'} was trained and evaluated with other U2SEG.EVAL.PROTOCOL (not given, "
        "now cups); only the evaluation differs, so keep the training and evaluate it:"
    )
    tool, *words = shlex.split(command)
    assert tool == "train"
    train_or_evaluate(train_parser().parse_intermixed_args(words))
    made = read_json(folder / "other-evaluation/evaluation/metrics.json")
    assert made["protocol"]["name"] == "cups"
    assert (folder / "train/evaluation/metrics.json").read_bytes() == metrics


@pytest.mark.d2
def test_what_cannot_be_finished_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images/train does not exist"):
        run(tmp_path)
    (tmp_path / "data/images/train").mkdir(parents=True)
    (tmp_path / "data/images/train/a.png").write_bytes(b"not looked at yet")
    rounds = "U2SEG.RECIPE.ROUNDS"
    cases: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
        ((), {"truth": tmp_path / "nowhere"}, "ground truth, .*nowhere, does not exist"),
        ((), {"rounds": -1}, r"-1 rounds of self-training, expected .* >= 0"),
        ((rounds, "[{}, {student: 1}]"), {}, "round 1, student is 1, expected a name"),
        ((rounds, "[{relabel: agree}]"), {}, "round 0 .* expected labels to start from"),
        ((rounds, "[{model: x}]"), {}, "round 0 is 'model', expected keys among labels"),
        ((rounds, "[{labels: none}]"), {}, "labels of round 0: none does not exist"),
        ((rounds, "[{student: no}, {}]"), {}, "round 1 relabels, and no round before it trains"),
        (("MODEL.FPN.NORM", "SyncBN", "MODEL.DEVICE", "cpu"), {}, r"FPN\.NORM is SyncBN"),
        (("MODEL.META_ARCHITECTURE", "Nothing"), {}, r"MODEL\.META_ARCHITECTURE"),
    ]
    for words, given, message in cases:
        with pytest.raises(UserError, match=message):
            run(tmp_path, *words, **given)
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
    monkeypatch.setattr("u2seg.visualization.report.report_line", lambda *_, **__: "page")
    for name in ("train", "untrained"):
        monkeypatch.setattr(recipe._Run, name, lambda *_: next(results))
    monkeypatch.setattr(recipe, "_summary", lambda _, metrics: metrics)
    for name in ("label", "relabel", "predict", "check_same", "later_words"):
        monkeypatch.setattr(recipe._Run, name, lambda *_: [])
    (tmp_path / "run").mkdir()
    told = run(tmp_path, rounds=1)
    assert (recipe.NOT_COMPARABLE in told) == (reference == "pseudo-labels")
    assert f"trained / untrained: {ratio}.0 times the PQ" in told


@pytest.mark.d2
@pytest.mark.slow
def test_rounds_of_self_training_build_on_each_other(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=4, val=2, size=64))
    # Two iterations make no confident model: thresholds of zero let its predictions in.
    sure = ["U2SEG.ROUNDS.AGREE.SCORE", "0.01", "U2SEG.ROUNDS.AGREE.AGREED_SCORE", "0.01"]
    sure += ["U2SEG.ROUNDS.AGREE.STUFF_SCORE", "0.01", "SOLVER.BASE_LR", "0.02"]
    told = run(tmp_path, *sure, rounds=2)
    folder = tmp_path / "run"
    assert [line.split(":")[0] for line in told[1:4]] == ["trained model", "round 1", "round 2"]
    rows = read_json(folder / "rounds.json")["rounds"]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows[1]["labels"]["predicted"] + rows[2]["labels"]["predicted"] > 0
    assert rows[1]["labels"]["stuff_changed"] > 0
    for number, before in ((1, folder), (2, folder / "rounds" / "1")):
        opts = read_json(folder / "rounds" / str(number) / "run.json")["opts"]
        keys = dict(zip(opts[::2], opts[1::2], strict=True))
        assert keys["MODEL.WEIGHTS"] == str(before / "train" / "model_final.pth")
        assert float(keys["SOLVER.BASE_LR"]) == 0.01  # half, in every round
        assert keys["U2SEG.TRAIN.DROPLOSS"] == keys["U2SEG.TRAIN.SKIP_HEADS"] == "False"
    page = (folder / "report.html").read_text()
    assert 'id="rounds"' in page and page.count("<figcaption>round 2<") == 4
    before = (folder / "rounds/2/train/model_final.pth").read_bytes()
    assert run(tmp_path, *sure, rounds=2)[:4] == told[:4]
    assert (folder / "rounds/2/train/model_final.pth").read_bytes() == before


@pytest.mark.d2
@pytest.mark.slow
def test_a_recipe_of_other_labels_students_and_settings(tmp_path: Path) -> None:
    """Given labels and an instance model; then its labels alone, with settings of their own."""
    write_scenes(tmp_path / "data", SceneSettings(train=3, val=2, size=64))
    labels = u2seg.label(
        tmp_path / "data/images/train", tmp_path / "given", CONFIG, {"SEED": 1, **pairs(WORDS)}
    )
    rounds = [
        {"labels": str(labels), "student": "InstanceCascadeRCNN"},
        {"relabel": "agree", "student": False, "settings": {"U2SEG.ROUNDS.AGREE.SCORE": 0.9}},
    ]
    config = tmp_path / "recipe.yaml"
    config.write_text(
        yaml.safe_dump({"_BASE_": str(CONFIG), "U2SEG": {"RECIPE": {"ROUNDS": rounds}}})
    )
    assert load_settings(config).recipe.rounds == tuple(rounds)
    told = run(tmp_path, config=config, baseline=False, truth="")
    folder = tmp_path / "run"
    assert [line.split(":")[0] for line in told[-2:]] == ["pictures", "report"]
    trained = yaml.safe_load((folder / "train/config.yaml").read_text())
    assert trained["MODEL"]["META_ARCHITECTURE"] == "InstanceCascadeRCNN"
    assert not (folder / "labels").exists() and not (folder / "rounds/1/train").exists()
    made = read_json(folder / "rounds/1/labels/panoptic/manifest.json")
    assert made["settings"]["RoundSettings"]["agree"]["score"] == 0.9
    assert [row["round"] for row in read_json(folder / "rounds.json")["rounds"]] == [0, 1]


def pairs(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.d2
def test_labels_alone_are_scored_like_predictions(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=4, val=2, size=64))
    ends = ("U2SEG.RECIPE.ROUNDS", "[{student: no}]")
    told = run(tmp_path, *ends, baseline=False)
    assert [line.split(":")[0] for line in told] == ["labels of round 0", "report"]
    tested = tmp_path / "run/test-labels"
    fitted = read_json(tested / "clusters/manifest.json")["settings"]["ClusterSettings"]
    assert fitted["centroids"] == str(tmp_path / "run/labels/clusters/centroids.npy")
    row = read_json(tmp_path / "run/rounds.json")["rounds"][0]
    assert row["panoptic"]["all"]["PQ"] > 0
    assert run(tmp_path, *ends, baseline=False) == told


@pytest.mark.d2
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["things", "stuff"])
def test_labels_of_things_alone_and_of_stuff_alone_pass_through(tmp_path: Path, kind: str) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=4, val=2, size=64))
    things = kind == "things"
    none = "SEMANTICS.NUM_CLASSES" if things else "CLUSTERS.NUM_CLUSTERS"
    words = [f"U2SEG.{none}", "0"]
    if things:
        words += ["MODEL.META_ARCHITECTURE", "InstanceCascadeRCNN"]
    else:
        with pytest.raises(UserError, match=r"PanopticCascadeRCNN learns things, .* another stud"):
            run(tmp_path, *words, baseline=False)
        words += ["U2SEG.RECIPE.ROUNDS", "[{student: no}]"]
    told = run(tmp_path, *words, baseline=False)
    assert told[0].split(":")[0] == ("trained model" if things else "labels of round 0")
    folder = tmp_path / "run"
    assert (folder / "labels/masks").is_dir() == (folder / "labels/clusters").is_dir() == things
    assert (folder / "labels/semantics").is_dir() is not things
    space = read_json(folder / "labels/panoptic/labelspace.json")
    assert bool(space["num_things"]) == things and bool(space["num_stuff"]) is not things
    labels = read_json(folder / "labels/panoptic/panoptic.json")["annotations"]
    assert {s["isthing"] for a in labels for s in a["segments_info"]} == {int(things)}
    assert "Left out of this page" not in (folder / "report.html").read_text()
    assert run(tmp_path, *words, baseline=False) == told


@pytest.mark.d2
def test_a_detector_s_masks_become_labels(tmp_path: Path) -> None:
    """U2SEG.MASKS.PROPOSER cutler, with a small random Mask R-CNN."""
    import torch
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    from u2seg.host.setup import build_stock_cfg

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
    detector = {
        "PROPOSER": "cutler", "CUTLER.SCORE": 0.1,
        "CUTLER.CONFIG": config, "CUTLER.WEIGHTS": weights,
    }  # fmt: skip
    settings = {**pairs(FAST), "U2SEG": {"MASKS": detector, "FEATURES": {"DEVICE": "cpu"}}}
    images = tmp_path / "data/images/train"
    labels = u2seg.label(images, tmp_path / "labels", CONFIG, settings, stages=["masks"])
    parts = sorted((labels / "masks").glob("part-*.json"))
    entries = [entry for part in parts for entry in read_json(part)]
    assert entries and min(entry["score"] for entry in entries) >= 0.1
    assert set(read_json(labels / "masks/plan.json")["detector"]) == {"config", "weights"}


@pytest.mark.d2
def test_labels_of_another_run_are_refused_with_advice(tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", SceneSettings(train=1, val=1, size=64))
    labels = tmp_path / "run/labels"
    (labels / "masks").mkdir(parents=True)
    (labels / "masks/plan.json").write_text('{"settings_hash": "another"}')
    (tmp_path / "run/train").mkdir()
    with pytest.raises(UserError) as refused:
        run(tmp_path)
    finding, _, advice = str(refused.value).partition(" results are never mixed. ")
    assert finding.startswith(f"{labels / 'masks'} was made with other ")
    assert advice == (
        f"Choose another output folder, or remove {labels} and {tmp_path / 'run/train'} and run "
        "the same again"
    )


def asked(root: Path, *words: str, truth: str = "", rounds: int = 0) -> str:
    """Return what a run is told of a finished one; empty = nothing."""
    made = recipe._Run(root, root, str(CONFIG), truth, False, list(words), [{}] * (rounds + 1))
    try:
        made.check_same(made.rounds[0], made.train_words(made.rounds[0]))
    except UserError as error:
        return str(error)
    return ""


def trained(run: Path, rounds: int = 0) -> Folders:
    """Leave what the comparison of a finished run with another looks at; of SEED 1."""
    for number in range(rounds + 1):
        folders = Folders(run, number)
        folders.train.mkdir(parents=True)
        folders.labels.mkdir()
        (folders.train / "last_checkpoint").write_text("model_final.pth")
        folders.final_model.write_bytes(b"")
        manifest = {"inputs": {"masks": "a"}, "files": {}, "settings_hash": "1"}
        (folders.labels / "manifest.json").write_text(json.dumps(manifest))
    assert asked(run, "SEED", "1") == ""
    return Folders(run)


def test_another_truth_is_evaluated_and_not_trained_again(tmp_path: Path) -> None:
    folders = trained(tmp_path, rounds=1)
    told = asked(tmp_path, "SEED", "1", truth="coco")
    assert "with other ground truth (not given, now coco); only the evaluation differs" in told
    assert f"MODEL.WEIGHTS {folders.final_model}" in told and "remove" not in told
    told = asked(tmp_path, "SEED", "1", truth="coco", rounds=1)
    assert f"MODEL.WEIGHTS {Folders(tmp_path, 1).final_model}" in told
    assert asked(tmp_path, "SEED", "1") == ""


def test_labels_count_and_the_settings_beside_them_do_not(tmp_path: Path) -> None:
    folders = trained(tmp_path)
    path = folders.labels / "manifest.json"
    first = read_json(path)
    path.write_text(json.dumps({**first, "settings_hash": "2"}))
    told = asked(tmp_path, "SEED", "1", "U2SEG.EVAL.PROTOCOL", "cups")
    assert "u2seg train" in told and "labels (" not in told
    path.write_text(json.dumps({**first, "inputs": {"masks": "b"}}))
    for extra in ((), ("U2SEG.EVAL.PROTOCOL", "cups")):
        told = asked(tmp_path, "SEED", "1", *extra)
        assert f"trained with other labels (made anew in {folders.labels})" in told
        assert f"remove {folders.train} and run" in told


def test_fewer_rounds_than_were_made_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        folders = Folders(tmp_path / "run", number)
        folders.train.mkdir(parents=True)
        folders.final_model.write_bytes(b"")

    def stop(*_: object, **__: object) -> None:
        raise StageError("far enough")

    monkeypatch.setattr(recipe._Run, "check", lambda _: None)
    monkeypatch.setattr("u2seg.pipeline.generate_labels", stop)
    for rounds, expected in ((0, True), (1, True), (2, False), (3, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(StageError):
            run(tmp_path, rounds=rounds)
        told = f"{tmp_path / 'run/rounds'} holds 2 rounds of self-training"
        assert (told in caplog.text) is expected
        assert ("The same run with 2 rounds brings them back" in caplog.text) is expected
