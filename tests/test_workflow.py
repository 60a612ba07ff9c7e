"""The whole run on a few tiny scenes: label, train, evaluate, predict, report, and again."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.label_folder import NARROW
from tests.pipeline.conftest import FAST
from u2seg import workflow
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.scenes.export import SceneSettings, write_scenes
from u2seg.workflow import run_everything

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart" / "scenes.yaml"
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

    with pytest.raises(UserError, match=r"trained with other opts.*never\s+mixed"):
        run_everything(arguments(tmp_path, "SOLVER.BASE_LR", "0.5"))


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
    assert "Rounds of self-training" in page and page.count("<figcaption>round 2<") == 4
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

    from u2seg.engine.setup import build_stock_cfg
    from u2seg.workflow import label_folder

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
    assert told == f"labels are in {tmp_path / 'labels'}"
    parts = sorted((tmp_path / "labels/masks").glob("part-*.json"))
    entries = [entry for part in parts for entry in read_json(part)]
    assert entries and min(entry["score"] for entry in entries) >= 0.1
    assert set(read_json(tmp_path / "labels/masks/plan.json")["detector"]) == {"config", "weights"}
