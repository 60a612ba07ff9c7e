"""Train two iterations on four small images, evaluate, resume, predict."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.engine.run import train_or_evaluate
from u2seg.errors import StageError, UserError
from u2seg.evaluation import format_metrics
from u2seg.evaluation.report.table import format_protocols
from u2seg.host.arguments import train_parser
from u2seg.inference.segmenter import Segmenter

pytestmark = pytest.mark.d2
prepare_host()


def run(words: list[str], *flags: str) -> dict[str, Any]:
    arguments = ["--config-file", str(BASE_CONFIG), *flags, *words]
    return train_or_evaluate(train_parser().parse_intermixed_args(arguments))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("run")
    words = data_words(make_labels(root), root / "out")
    return words, root / "out", run(words)


def test_training_leaves_checkpoints_losses_and_metrics(
    trained: tuple[list[str], Path, dict[str, Any]],
) -> None:
    _, output, metrics = trained
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert (output / "model_0000000.pth").is_file()
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = lines[-1]
    assert losses["iteration"] == 1
    names = {"loss_sem_seg", "loss_rpn_cls", "loss_mask", "loss_cls_stage0", "loss_cls_stage2"}
    assert names <= losses.keys()
    assert all(np.isfinite(losses[name]) for name in names)
    assert json.loads((output / "evaluation" / "metrics.json").read_text()) == metrics
    assert metrics


def test_without_truth_the_ids_of_the_pseudo_labels_are_compared(
    trained: tuple[list[str], Path, dict[str, Any]],
) -> None:
    protocol = trained[2]["protocol"]
    assert (protocol["reference"], protocol["matching"]) == ("pseudo-labels", "identity")
    mapping = json.loads((trained[1] / "evaluation" / "mapping.json").read_text())
    assert [row["class_id"] for row in mapping["things"].values()] == [1, 2, 3]
    assert [row["class_id"] for row in mapping["stuff"].values()] == [4, 5]
    assert "compared with the pseudo-labels (agreement, not accuracy)" in format_metrics(trained[2])


def test_with_truth_the_chosen_matching_is_used_and_the_truth_named(
    trained: tuple[list[str], Path, dict[str, Any]], tmp_path: Path
) -> None:
    words, output, _ = trained
    root = output.parent
    truth = [
        "EVAL_ROOT",
        root,
        "EVAL_IMAGES",
        "photos",
        "EVAL_JSON",
        "labels/panoptic/panoptic.json",
    ]
    truth += ["EVAL_PNGS", "labels/panoptic/panoptic"]
    data = [f"U2SEG.DATA.{w}" if str(w).startswith("EVAL_") else str(w) for w in truth]
    words = [*words, "OUTPUT_DIR", str(tmp_path), *data]
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    metrics = run([*words, *weights, "U2SEG.EVAL.MATCHING", "majority"], "--eval-only")
    assert metrics["protocol"]["matching"] == "majority"
    expected = str(root / "labels" / "panoptic" / "panoptic.json")
    assert metrics["protocol"]["reference"] == expected
    assert f"compared with {expected}; protocol custom, majority" in format_metrics(metrics)
    # several protocols at once, then the mapping of one of them
    several = run([*words, *weights], "--eval-only", "--protocol", "one-to-one,cups")
    assert set(several["protocols"]) == {"one-to-one", "cups"}
    given = tmp_path / "evaluation" / "mapping_cups.json"
    kept = given.rename(tmp_path / "mapping.json")
    again = run([*words, *weights], "--eval-only", "--mapping", str(kept))
    assert again["protocol"]["matching"] == "hungarian+majority"
    assert again["protocol"]["mapping"]["same_images_as_scored"] is True
    expected_figures = several["protocols"]["cups"]["panoptic"]["all"]
    assert again["panoptic"]["all"] == expected_figures
    wrong = json.loads(kept.read_text())
    wrong["classes"].append({"id": 99, "name": "sea", "isthing": 0})
    kept.write_text(json.dumps(wrong))
    (tmp_path / "evaluation" / "instances.json").unlink()
    with pytest.raises(
        UserError, match=r"maps to 6 classes .* has 5: only the mapping has stuff 99"
    ):
        run([*words, *weights], "--eval-only", "--mapping", str(kept))
    assert not (tmp_path / "evaluation" / "instances.json").exists(), "nothing was predicted"
    wrong["things"].popitem()
    wrong["clusters"]["things"] = 2
    kept.write_text(json.dumps(wrong))
    with pytest.raises(UserError, match="a model with 2 thing clusters, this model has 3"):
        run([*words, *weights], "--eval-only", "--mapping", str(kept))


def test_without_truth_the_option_decides_and_the_key_does_not(
    trained: tuple[list[str], Path, dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words, output, _ = trained
    words = [*words, "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", str(output / "model_final.pth")]
    key = run([*words, "U2SEG.EVAL.PROTOCOL", "cups"], "--eval-only")
    assert key["protocol"]["name"] == key["protocol"]["matching"] == "identity"
    with caplog.at_level(logging.WARNING):
        several = run(words, "--eval-only", "--protocol", "one-to-one,cups")
    assert "comparing with the pseudo-labels, by --protocol" in caplog.text
    assert list(several["protocols"]) == ["one-to-one", "cups"]
    for name, matching in (("one-to-one", "hungarian"), ("cups", "hungarian+majority")):
        protocol = several["protocols"][name]["protocol"]
        assert (protocol["reference"], protocol["matching"]) == ("pseudo-labels", matching)
    head = format_protocols(several).splitlines()[0]
    assert head == "4 images; compared with the pseudo-labels (agreement, not accuracy)"


def test_eval_only_does_not_train(trained: tuple[list[str], Path, dict[str, Any]]) -> None:
    words, output, metrics = trained
    before = {p.name: digest(p) for p in output.glob("*.pth")}
    losses = (output / "metrics.json").read_text()
    assert "<title>Training: " in (output / "report.html").read_text("utf-8")
    assert run(words, "--eval-only", "--resume") == metrics
    assert "<title>Evaluation: " in (output / "report.html").read_text("utf-8")
    assert {p.name: digest(p) for p in output.glob("*.pth")} == before
    assert (output / "metrics.json").read_text() == losses


def test_eval_only_without_weights_says_what_to_do(tmp_path: Path) -> None:
    words = data_words(make_labels(tmp_path), tmp_path / "out")
    with pytest.raises(UserError, match=r"MODEL.WEIGHTS FILE, or add --resume"):
        run(words, "--eval-only")


def test_eval_with_another_number_of_clusters_is_refused(
    trained: tuple[list[str], Path, dict[str, Any]], tmp_path: Path
) -> None:
    weights = trained[1] / "model_final.pth"
    words = [*trained[0], "U2SEG.DATA.LABELS", "", "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(UserError, match=r"set U2SEG.CLUSTERS.NUM_CLUSTERS 3"):
        run(
            [*words, "U2SEG.CLUSTERS.NUM_CLUSTERS", "4", "MODEL.WEIGHTS", str(weights)],
            "--eval-only",
        )


def test_evaluating_on_nothing_is_refused(
    trained: tuple[list[str], Path, dict[str, Any]], tmp_path: Path
) -> None:
    words = [*trained[0], "U2SEG.DATA.LABELS", "", "OUTPUT_DIR", str(tmp_path)]
    weights = ["MODEL.WEIGHTS", str(trained[1] / "model_final.pth")]
    with pytest.raises(UserError, match=r"nothing to evaluate on: set U2SEG.DATA.EVAL_ROOT"):
        run([*words, *weights], "--eval-only")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_label_ends_the_training_with_its_name_and_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: str
) -> None:
    labels = make_labels(tmp_path)
    for path in (labels / "panoptic" / "stuff").rglob("*.png"):
        path.write_bytes(b"no PNG")
    words = [*data_words(labels, tmp_path / "out"), "DATALOADER.NUM_WORKERS", workers]
    with pytest.raises(StageError, match=r"^cannot read the PNG .*u2seg label --overwrite"):
        run(words)
    # A logging error of a stream pytest has closed shows the error too: that is not the host's log.
    printed = "".join(capfd.readouterr()).split("--- Logging error ---")[0]
    assert "u2seg.errors.StageError" not in printed


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 2), (1, 1)])
def test_photographs_of_any_proportions_are_predicted(
    trained: tuple[list[str], Path, dict[str, Any]], shape: tuple[int, int]
) -> None:
    words, output, _ = trained
    segmenter = Segmenter.from_config(BASE_CONFIG, output / "model_final.pth", words)
    prediction = segmenter.predict(np.full((*shape, 3), 90, dtype=np.uint8))
    assert prediction.panoptic.ids.shape == prediction.stuff.shape == shape
