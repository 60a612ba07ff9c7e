"""Whole trainings on four small images: average, rehearsal, losses that are not finite."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.engine import run as training
from u2seg.engine import trainer as trainers
from u2seg.engine.ema import ema_weights
from u2seg.engine.run import train_or_evaluate
from u2seg.errors import StageError, UserError
from u2seg.host.arguments import train_parser
from u2seg.io.checkpoints import load_checkpoint

pytestmark = [pytest.mark.d2, pytest.mark.slow]
prepare_host()


def parse(words: list[str], *flags: str) -> Any:
    arguments = ["--config-file", str(BASE_CONFIG), *flags, *words]
    return train_parser().parse_intermixed_args(arguments)


def run(words: list[str], *flags: str) -> dict[str, Any]:
    return train_or_evaluate(parse(words, *flags))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("run")
    words = data_words(make_labels(root), root / "out")
    words += ["U2SEG.TRAIN.EMA_DECAY", "0.5", "U2SEG.TRAIN.ACCUMULATE", "2"]
    words += ["U2SEG.TRAIN.CHANNELS_LAST", "True", "SOLVER.AMP.ENABLED", "True"]
    words += ["U2SEG.TRAIN.AMP_DTYPE", "bfloat16", "SOLVER.MAX_ITER", "3"]
    return words, root / "out", run(words)


def test_the_average_is_saved_and_evaluated(
    averaged: tuple[list[str], Path, dict[str, Any]],
) -> None:
    _, output, metrics = averaged
    contents = [load_checkpoint(output / f"model_{n:07d}.pth") for n in range(3)]
    name = "roi_heads.mask_head.predictor.weight"
    expected = ema_weights(contents[0])[name]
    for content in contents[1:]:
        expected = 0.5 * expected + 0.5 * content["model"][name]
        torch.testing.assert_close(ema_weights(content)[name], expected, rtol=1e-5, atol=1e-7)
    final = load_checkpoint(output / training.FINAL_EMA)["model"]
    assert torch.equal(final[name], ema_weights(contents[2])[name])
    assert not torch.equal(final[name], contents[2]["model"][name])
    written = json.loads((output / training.EMA_EVALUATION / "metrics.json").read_text())
    assert metrics["ema"]["panoptic"] == written["panoptic"]
    own = load_checkpoint(output / "model_final.pth")["model"]
    assert torch.equal(own[name], contents[2]["model"][name])


def test_a_resumed_training_with_another_rate_is_refused_and_nothing_written(
    averaged: tuple[list[str], Path, dict[str, Any]],
) -> None:
    words, output, _ = averaged
    before = (output / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"SOLVER.BASE_LR was 0.02, is 0.5"):
        run([*words, "SOLVER.BASE_LR", "0.5"], "--resume")
    assert (output / "config.yaml").read_text() == before


def test_the_table_tells_losses_rates_and_memory(
    averaged: tuple[list[str], Path, dict[str, Any]],
) -> None:
    (row,) = rows(averaged[1] / "losses.csv")
    assert row["iteration"] == "2"
    parts = [float(v) for k, v in row.items() if k.startswith("loss")]
    assert float(row["total_loss"]) == pytest.approx(sum(parts), rel=1e-5)
    assert float(row["images_per_second"]) > 0
    assert 0 <= float(row["data_share"]) <= 1
    assert 0.1 < float(row["memory_gb"]) < 64
    assert float(row["eta_seconds"]) == 0


def test_a_loss_that_is_not_finite_can_be_computed_again(tmp_path: Path) -> None:
    labels = make_labels(tmp_path)
    words = [*data_words(labels, tmp_path / "out"), "SOLVER.BASE_LR", "1e30"]
    words += ["SOLVER.WARMUP_ITERS", "0", "SOLVER.CLIP_GRADIENTS.ENABLED", "false"]
    with pytest.raises(StageError, match=r"--replay FILE.*lower SOLVER.BASE_LR"):
        run([*words, "SOLVER.MAX_ITER", "6"])
    (path,) = (tmp_path / "out" / "nonfinite").glob("*.json")
    told = json.loads(path.read_text())
    assert path.name == f"iteration_{told['iteration']:07d}.json"
    assert {image["image_id"] for image in told["images"]} <= {1, 2, 3, 4}
    assert Path(told["images"][0]["file_name"]).is_file()
    weights = load_checkpoint(path.with_suffix(".pth"))["model"]
    previous = tmp_path / "out" / f"model_{told['iteration'] - 1:07d}.pth"
    saved = load_checkpoint(previous)["model"]
    assert all(torch.equal(weights[name], value) for name, value in saved.items())
    shown = training.replay(parse(words, "--replay", str(path))).splitlines()
    assert shown[0] == f"iteration {told['iteration']}"
    assert [line.partition(" ")[0].rstrip(":") for line in shown[1:]] == ["batch", "image", "image"]
    with pytest.raises(UserError, match="of another model"):
        training.replay(parse([*words, "MODEL.FPN.OUT_CHANNELS", "64"], "--replay", str(path)))


@pytest.mark.parametrize(
    "more",
    [
        ("U2SEG.TRAIN.ACCUMULATE", "2", "MODEL.RESNETS.NORM", "BN"),
        ("SOLVER.AMP.ENABLED", "True", "U2SEG.TRAIN.AMP_DTYPE", "bfloat16"),
    ],
    ids=["parts", "bfloat16"],
)
def test_replay_shows_the_losses_of_the_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """The same numbers, to the last digit shown: samples, weights and random draws are kept."""
    from u2seg.engine import loop, nonfinite

    words = [*data_words(make_labels(tmp_path), tmp_path / "out"), *more]
    for module in (loop, nonfinite):
        monkeypatch.setattr(module, "math", SimpleNamespace(isfinite=lambda _: False))
    with pytest.raises(StageError, match="at iteration 0"):
        run(words)
    monkeypatch.undo()
    (path,) = (tmp_path / "out" / "nonfinite").glob("*.json")
    told = json.loads(path.read_text())["losses"]
    line = training.replay(parse(words, "--replay", str(path))).splitlines()[1]
    words_of = line.partition(": ")[2].split()
    shown = dict(zip(words_of[::2], words_of[1::2], strict=True))
    assert shown.keys() == {"total_loss", *told}
    assert {name: f"{float(value):.4g}" for name, value in told.items()} == {
        name: value for name, value in shown.items() if name != "total_loss"
    }


def test_a_rehearsal_does_everything_once_and_leaves_the_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DRY_IMAGES", 2)
    words = [*data_words(make_labels(tmp_path), tmp_path / "out"), "SOLVER.MAX_ITER", "500"]
    folder = tmp_path / "out" / "dry-run"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("")
    with pytest.raises(UserError, match="is no earlier dry run"):
        training.dry_run(parse(words, "--dry-run"))
    (folder / "config.yaml").write_text("")
    told = training.dry_run(parse(words, "--dry-run"))
    assert not (folder / "mine.txt").exists()
    assert [line.partition(":")[0] for line in told.splitlines()[1:]] == [
        "iteration", "training", "checkpoint", "evaluation", "peak memory",
    ]  # fmt: skip
    assert "for 500 iterations" in told
    assert "for 4 images" in told
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["dry-run"]
    assert load_checkpoint(folder / "model_final.pth")["trainer"]["iteration"] == 1
    assert [row["iteration"] for row in rows(folder / "losses.csv")] == ["1"]
    assert "Training: total_loss" in (folder / "report.html").read_text()
    evaluation = folder / "evaluation"
    assert json.loads((evaluation / "metrics.json").read_text())["protocol"]["images"] == 2
    found = json.loads((evaluation / "panoptic.json").read_text())
    assert [image["id"] for image in found["images"]] == [1, 2]


def test_precise_statistics_of_batch_norm_and_nothing_else(tmp_path: Path) -> None:
    words = [*data_words(make_labels(tmp_path), tmp_path), "MODEL.RESNETS.NORM", "BN"]
    words += ["SOLVER.MAX_ITER", "1", "TEST.PRECISE_BN.NUM_ITER", "1"]
    states = []
    for enabled in ("False", "True"):
        output = tmp_path / enabled
        more = ["OUTPUT_DIR", str(output), "TEST.PRECISE_BN.ENABLED", enabled]
        with training.setup_cfg(parse([*words, *more])) as cfg:
            trainer = trainers.Trainer(cfg, lambda _: None)
            trainers.run_training(trainer, resume=False)
        states.append(load_checkpoint(output / "model_final.pth")["model"])
    differ = {name for name, value in states[0].items() if not torch.equal(states[1][name], value)}
    assert {name.rpartition(".")[2] for name in differ} <= {
        "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    assert "backbone.bottom_up.stem.conv1.norm.running_mean" in differ


def test_scalars_reach_tensorboard(averaged: tuple[list[str], Path, dict[str, Any]]) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (path,) = averaged[1].glob("events.out.tfevents.*")
    tags = {
        value.tag for event in loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }  # fmt: skip
    wanted = {"total_loss", "loss_mask", "lr", "images_per_second", "data_share", "memory_gb"}
    assert wanted <= tags
