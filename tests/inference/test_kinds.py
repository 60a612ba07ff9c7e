"""Whole runs of two iterations: instances alone, and real labels from another model's weights."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch

from tests.factories import BASE_CONFIG, SPACE, TINY, data_words, make_labels, scene
from u2seg.compat import prepare_host
from u2seg.engine.lowshot import LabelledSet, make_splits
from u2seg.engine.run import train_or_evaluate
from u2seg.errors import UserError
from u2seg.host.arguments import train_parser
from u2seg.host.setup import build_cfg
from u2seg.inference.segmenter import Segmenter
from u2seg.inference.writer import PredictionWriter
from u2seg.io.atomic import write_json
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.jsonfile import read_json

pytestmark = pytest.mark.d2
prepare_host()
INSTANCES = ["MODEL.META_ARCHITECTURE", "InstanceCascadeRCNN"]
DROP = ["U2SEG.TRAIN.DROPLOSS", "True", "U2SEG.TRAIN.PICTURES", "0"]


def run(words: list[str], *flags: str) -> dict[str, Any]:
    arguments = ["--config-file", str(BASE_CONFIG), *flags, *words]
    return train_or_evaluate(train_parser().parse_intermixed_args(arguments))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the root of a run of the instance model and its metrics.

    With drop-loss and pictures, on labels whose stuff targets cannot be read: copy-paste alone
    would look at them, for void.
    """
    root = tmp_path_factory.mktemp("instances")
    words = [*data_words(make_labels(root), root / "out"), *INSTANCES, *DROP[:2]]
    for png in (root / "labels" / "panoptic" / "stuff").rglob("*.png"):
        png.write_bytes(b"not looked at")
    return root, run(words)


def test_instances_alone_train_and_are_evaluated(trained: tuple[Path, dict[str, Any]]) -> None:
    root, metrics = trained
    lines = (root / "out" / "metrics.json").read_text().splitlines()
    losses = json.loads(lines[-1])
    assert losses["iteration"] == 1
    assert {"loss_mask", "loss_cls_stage2", "stage2/roi_head/num_dropped"} <= losses.keys()
    assert "loss_sem_seg" not in losses
    assert {"box", "segm"} <= metrics["instances"].keys()
    folder = root / "out" / "evaluation"
    predicted = read_json(folder / "panoptic.json")
    segments = [s for a in predicted["annotations"] for s in a["segments_info"]]
    assert all(s["isthing"] for s in segments if "isthing" in s)
    assert all(1 <= s["category_id"] <= SPACE.num_things for s in segments)
    assert isinstance(read_json(folder / "instances.json"), list)


def test_instances_alone_in_the_demo(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = trained
    words = [*data_words(root / "labels", root / "out")[:-4], *INSTANCES]
    weights = root / "out" / "model_final.pth"
    segmenter = Segmenter.from_config(BASE_CONFIG, weights, words, confidence=0.0)
    image, _ = scene(0)
    prediction = segmenter.predict(image)
    assert prediction.panoptic.ids.shape == image.shape[:2]
    assert len(prediction.instances) > 0
    assert prediction.stuff is None and prediction.draw().shape[2] == 3
    writer = PredictionWriter(tmp_path, segmenter.space)
    writer.add(1, "a.png", prediction)
    writer.finish()
    assert len(read_json(tmp_path / "instances.json")) == len(prediction.instances)


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of a model of 7 + 2 clusters."""
    from detectron2.modeling import build_model

    words = [*TINY, "U2SEG.CLUSTERS.NUM_CLUSTERS", "7"]
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("seven") / "seven.pth"
    torch.save(build_model(build_cfg(BASE_CONFIG, words)).state_dict(), path)
    return path


def shifted(labels: Path, root: Path) -> LabelledSet:
    """Write the JSON files of a label folder as a data set whose category ids are 100 higher."""
    for name in ("panoptic.json", "instances.json"):
        content = read_json(labels / "panoptic" / name)
        for category in content["categories"]:
            category["id"] += 100
        records = content["annotations"]
        for record in [s for a in records for s in a.get("segments_info", [a])]:
            record["category_id"] += 100
        write_json(root / name, content)
    names = ("panoptic.json", "labels/panoptic/panoptic", "instances.json")
    return LabelledSet(root / "photos", *(root / name for name in names))


def test_low_shot_from_the_weights_of_other_clusters(
    seven: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of "real" labels of 3 + 2 classes; two iterations at a rate of 0 change nothing."""
    source = shifted(make_labels(tmp_path), tmp_path)
    make_splits(source, [50], 42, tmp_path / "low")
    words = data_words(tmp_path / "low" / "50", tmp_path / "out")
    words += ["MODEL.WEIGHTS", str(seven), "U2SEG.TRAIN.HEAD_LR_FACTOR", "4.0"]
    words += ["SOLVER.BASE_LR", "0.0", *DROP[2:], "U2SEG.EVAL.PROTOCOL", "identity"]
    tree = {"ROOT": tmp_path, "IMAGES": "photos", "JSON": "panoptic.json"}
    for key, value in {**tree, "PNGS": "labels/panoptic/panoptic"}.items():
        words += [f"U2SEG.DATA.EVAL_{key}", str(value)]
    with pytest.raises(UserError, match=r"7 thing clusters, the model 3.*--skip-heads"):
        run(words)
    words += ["U2SEG.TRAIN.SKIP_HEADS", "True", "OUTPUT_DIR", str(tmp_path / "skipped")]
    with caplog.at_level(logging.WARNING, "u2seg"):
        assert run(words)["panoptic"]
    skipped = next(message for message in caplog.messages if "not loaded:" in message)
    assert "roi_heads.box_predictor.2.cls_score.weight" in skipped
    ours, theirs = (
        load_checkpoint(path).get("model") or load_checkpoint(path)
        for path in (tmp_path / "skipped" / "model_final.pth", seven)
    )
    same = [name for name, value in theirs.items() if torch.equal(value, ours[name])]
    other = {name for name in theirs if name not in same}
    assert "backbone.fpn_lateral2.weight" in same
    assert {name.split(".")[0] for name in other} == {"roi_heads", "sem_seg_head"}
    assert all(re.search("cls_score|predictor.(weight|bias)", name) for name in other)
    # The classes of the truth are known, though their ids are not the model's.
    written = read_json(tmp_path / "skipped" / "evaluation" / "mapping.json")
    assert {c: row["class_id"] for c, row in written["things"].items()} == {
        "1": 101, "2": 102, "3": 103,
    }  # fmt: skip
    assert written["stuff"]["5"]["class_name"] == "stuff_1"
