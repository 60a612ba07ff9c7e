"""A student of another kind: semantic labels alone, AdamW, its own groups, nothing of the host."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
import torch
from torch import nn
from torch.nn import functional

from tests.factories import BASE_CONFIG, data_words, make_labels, scene
from u2seg.engine.run import train_or_evaluate
from u2seg.errors import UserError
from u2seg.host.arguments import train_parser
from u2seg.host.setup import build_cfg
from u2seg.inference.segmenter import Segmenter
from u2seg.io.checkpoints import load_checkpoint
from u2seg.modeling.student import STUDENTS, student_tasks
from u2seg.structures.segmentation import Segmentation

pytestmark = [pytest.mark.d2, pytest.mark.slow]
NAME = "TwoLayers"


class TwoLayers(nn.Module):
    tasks = frozenset({"stuff"})

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, cfg.U2SEG.SEMANTICS.NUM_CLASSES + 1, 1)

    def logits(self, sample: dict[str, Any]) -> torch.Tensor:
        pixels = sample["image"].to(self.head.weight).div(255)[None]
        return self.head(self.body(pixels).relu())

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        assert all("instances" not in sample for sample in batch)
        pairs = [(self.logits(s), s["sem_seg"][None].to(self.head.weight.device)) for s in batch]
        each = [functional.cross_entropy(x, y, ignore_index=255) for x, y in pairs]
        return {"loss_pixels": torch.stack(each).mean()}

    def predict(self, images: Any, prompts: Any = None) -> list[Segmentation]:
        found = []
        for sample in images:
            size = sample["height"], sample["width"]
            logits = functional.interpolate(self.logits(sample), size, mode="bilinear")
            sure, stuff = logits[0].softmax(0).cpu().max(0)
            maps = stuff.numpy().astype(np.uint8), sure.numpy()
            found.append(Segmentation(size, None, *maps))
        return found

    def parameter_groups(self, settings: Any) -> list[dict[str, Any]]:
        slow = {"params": [*self.body.parameters()], "lr": settings.rate / 10}
        return [slow, {"params": [*self.head.parameters()], "lr": settings.rate}]

    def class_layers(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias"})


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    STUDENTS.register(NAME)(TwoLayers)
    yield
    STUDENTS._members.pop(NAME, None)


def run(words: list[str], *flags: str) -> dict[str, Any]:
    arguments = ["--config-file", str(BASE_CONFIG), *flags, *words]
    return train_or_evaluate(train_parser().parse_intermixed_args(arguments))


def test_it_trains_resumes_is_evaluated_and_predicts(tmp_path: Path) -> None:
    words = [*data_words(make_labels(tmp_path), tmp_path / "out"), "MODEL.META_ARCHITECTURE", NAME]
    words += ["U2SEG.TRAIN.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", "0.01", "SOLVER.MAX_ITER", "6"]
    words += ["U2SEG.TRAIN.PICTURES", "1", "SOLVER.WARMUP_ITERS", "0", "TEST.EVAL_PERIOD", "4"]
    metrics = run(words)
    assert 0 <= metrics["semantic"]["mIoU"] <= 100
    final = load_checkpoint(tmp_path / "out" / "model_final.pth")
    assert final["trainer"]["_trainer"]["parameters"][-1] == "head.bias"
    rates = [g["lr"] for g in final["trainer"]["_trainer"]["optimizer"]["param_groups"]]
    assert rates[1] == pytest.approx(10 * rates[0])
    # the same weights after an interruption
    again = tmp_path / "again"
    again.mkdir()
    for name in ("model_0000002.pth", "train_config.yaml"):
        (again / name).write_bytes((tmp_path / "out" / name).read_bytes())
    (again / "last_checkpoint").write_text("model_0000002.pth")
    run([*words, "OUTPUT_DIR", str(again)], "--resume")
    other = load_checkpoint(again / "model_final.pth")["model"]
    for name, value in final["model"].items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)
    lines = (again / "metrics.json").read_text().splitlines()
    assert "loss_pixels" in json.loads(lines[-1])
    weights = tmp_path / "out" / "model_final.pth"
    alone = run([*words, "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(again)], "--eval-only")
    assert alone["semantic"]["mIoU"] == pytest.approx(metrics["semantic"]["mIoU"])
    prediction = Segmenter.from_config(BASE_CONFIG, weights, words).predict(scene(0)[0])
    assert prediction.instances is None
    assert prediction.stuff is not None


def test_it_does_not_care_for_the_number_of_thing_clusters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*data_words(make_labels(tmp_path), tmp_path / "out"), "MODEL.META_ARCHITECTURE", NAME]
    words += ["U2SEG.CLUSTERS.NUM_CLUSTERS", "9"]
    with caplog.at_level(logging.WARNING):
        cfg = build_cfg(BASE_CONFIG, words, register=True)
    assert student_tasks(cfg) == {"stuff"}
    with pytest.raises(UserError, match="2 stuff clusters, the model is set to 5"):
        build_cfg(BASE_CONFIG, [*words, "U2SEG.SEMANTICS.NUM_CLASSES", "5"], register=True)


def test_labels_of_stuff_alone_train_a_segmenter_of_detectron2(tmp_path: Path) -> None:
    words = data_words(make_labels(tmp_path, things=False), tmp_path / "out")
    words += ["U2SEG.CLUSTERS.NUM_CLUSTERS", "0"]
    with pytest.raises(
        UserError, match=r"NUM_CLUSTERS 0 makes none: .*SemanticSegmentor learns stuff"
    ):
        run(words)
    metrics = run([*words, "MODEL.META_ARCHITECTURE", "SemanticSegmentor"])
    assert 0 <= metrics["semantic"]["mIoU"] <= 100


def test_unknown_names_and_tasks_are_refused() -> None:
    class Careless(TwoLayers):
        tasks = frozenset({"sky"})

    with pytest.raises(UserError, match=r"is not registered; known are .*PanopticCascade.*TwoLay"):
        build_cfg(BASE_CONFIG, ["MODEL.META_ARCHITECTURE", "ThreeLayers"])
    STUDENTS._members[NAME] = Careless
    cfg = build_cfg(BASE_CONFIG, ["MODEL.META_ARCHITECTURE", NAME])
    with pytest.raises(UserError, match=r"has the tasks \['sky'\], expected some of"):
        student_tasks(cfg)
