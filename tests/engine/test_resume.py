"""A resumed training is the uninterrupted one: the same losses, the same weights."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.host.arguments import train_parser
from u2seg.io.checkpoints import load_checkpoint

pytestmark = [pytest.mark.d2, pytest.mark.slow]
prepare_host()
LENGTH = 8
EVERYTHING = [
    "SOLVER.MAX_ITER", str(LENGTH), "SOLVER.STEPS", "(4,)", "SOLVER.WARMUP_ITERS", "3",
    "SOLVER.BASE_LR", "0.01", "INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)", "INPUT.CROP.ENABLED", "True",
    "U2SEG.TRAIN.EMA_DECAY", "0.5", "U2SEG.TRAIN.DROPLOSS", "True",
    "MODEL.ROI_HEADS.NAME", "PseudoCascadeROIHeads", "U2SEG.TRAIN.PICTURES", "0",
    "U2SEG.COPY_PASTE.ENABLED", "True", "U2SEG.COPY_PASTE.MEMORY", "2",
    "U2SEG.COPY_PASTE.MIN_AREA", "4",
]  # fmt: skip


class Killed(BaseException):
    """What stands for the end of the process."""


def train(words: list[str], stop: int = LENGTH, resume: bool = False) -> dict[int, float]:
    """Train until iteration ``stop`` is computed, but not saved; return the losses computed."""
    from u2seg.engine.trainer import Trainer, run_training
    from u2seg.host.start import setup_cfg

    flags = ["--resume"] if resume else []
    args = train_parser().parse_intermixed_args(["--config-file", str(BASE_CONFIG), *flags, *words])
    with setup_cfg(args) as cfg:
        trainer = Trainer(cfg, lambda _: None)
    found: dict[int, float] = {}
    note = trainer.note

    def record(iteration: Any) -> None:
        if trainer.iter == stop:
            raise Killed
        found[trainer.iter] = sum(iteration.losses.values())
        note(iteration)
        random.random()  # what happens in between must not matter
        np.random.rand()  # noqa: NPY002
        torch.rand(2)

    trainer.loop.done = record
    with contextlib.suppress(Killed):
        run_training(trainer, resume)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, dict[int, float]]:
    """A training without interruption, whose seed is drawn by chance."""
    root = tmp_path_factory.mktemp("whole")
    labels = make_labels(root, tuple(f"{number}.png" for number in range(6)))
    words = [*data_words(labels, root / "out"), *EVERYTHING, "SEED", "-1"]
    return words, root / "out", train(words)


def assert_same(first: Any, second: Any) -> None:
    one, two = (load_checkpoint(f / "model_final.pth") for f in (first, second))
    assert one.keys() == two.keys()
    for part in (k for k in one if k != "trainer"):
        if isinstance(one[part], dict):
            assert_close(one[part], two[part])
    assert one["trainer"].keys() == two["trainer"].keys()
    assert_close(one["trainer"]["_trainer"], two["trainer"]["_trainer"])
    assert one["trainer"]["hooks"] == two["trainer"]["hooks"]  # schedule, seed


def assert_close(one: Any, two: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.allclose(one.double(), two.double(), atol=1e-6)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_close(one[key], two[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, two, strict=True):
            assert_close(a, b)
    else:
        assert one == two


def test_killed_twice_and_resumed(tmp_path: Path) -> None:
    """Killed in iterations 3 and 5, after which the last checkpoints are those of 2 and 4."""
    labels = make_labels(tmp_path, tuple(f"{number}.png" for number in range(6)))
    words = [*data_words(labels, tmp_path / "calm"), *EVERYTHING]
    calm = train(words)
    assert sorted(calm) == list(range(LENGTH))
    words += ["OUTPUT_DIR", str(tmp_path / "killed")]
    parts = [train(words, 3), train(words, 5, resume=True), train(words, resume=True)]
    assert [sorted(part) for part in parts] == [[0, 1, 2], [3, 4], [5, 6, 7]]
    losses = {k: v for part in parts for k, v in part.items()}
    assert losses == pytest.approx(calm, abs=1e-6)
    assert len(set(calm.values())) == LENGTH
    assert_same(tmp_path / "calm", tmp_path / "killed")


@pytest.mark.parametrize("last", [1, 4])
def test_a_drawn_seed_is_resumed_too(
    whole: tuple[list[str], Path, dict[int, float]], tmp_path: Path, last: int
) -> None:
    words, output, calm = whole
    name = f"model_{last:07d}.pth"
    for part in (name, f"{name}.sha256"):
        shutil.copy(output / part, tmp_path)
    (tmp_path / "last_checkpoint").write_text(name)
    found = train([*words, "OUTPUT_DIR", str(tmp_path)], resume=True)
    assert found == pytest.approx({i: calm[i] for i in range(last + 1, LENGTH)}, abs=1e-6)
    assert_same(output, tmp_path)


def test_precise_statistics_do_not_depend_on_an_interruption(tmp_path: Path) -> None:
    """PreciseBN after iterations 2, 4 and 5; what is resumed begins after the first of them."""
    labels = make_labels(tmp_path, tuple(f"{number}.png" for number in range(6)))
    words = [*data_words(labels, tmp_path / "calm"), *EVERYTHING, "SOLVER.MAX_ITER", "5"]
    words += ["SEED", "-1", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]
    words += ["TEST.EVAL_PERIOD", "2", "TEST.PRECISE_BN.ENABLED", "True"]
    words += ["TEST.PRECISE_BN.NUM_ITER", "2"]
    calm = train(words)
    for part in ("model_0000002.pth", "model_0000002.pth.sha256"):
        (tmp_path / "killed").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "calm" / part, tmp_path / "killed")
    (tmp_path / "killed" / "last_checkpoint").write_text("model_0000002.pth")
    found = train([*words, "OUTPUT_DIR", str(tmp_path / "killed")], resume=True)
    assert found == pytest.approx({i: calm[i] for i in (3, 4)}, abs=1e-6)
    assert_same(tmp_path / "calm", tmp_path / "killed")


def test_the_state_of_a_host_trainer_is_gone_on_with(tmp_path: Path) -> None:
    """One group and one rate per parameter; the last layers' rate is four times the others'."""
    from u2seg.engine.trainer import Trainer
    from u2seg.host.start import setup_cfg

    words = [*data_words(make_labels(tmp_path), tmp_path), "U2SEG.TRAIN.HEAD_LR_FACTOR", "4"]
    args = train_parser().parse_intermixed_args(["--config-file", str(BASE_CONFIG), *words])
    with setup_cfg(args) as cfg:
        trainer = Trainer(cfg, lambda _: None)
    trainer.iter = 1
    calm = trainer.state_dict()
    rates = [group["initial_lr"] for group in trainer.loop.optimizer.param_groups]
    assert sorted(set(rates)) == pytest.approx([0.02, 0.08])
    optimizer = calm["_trainer"]["optimizer"]
    single = [
        {**group, "params": [p]} for group in optimizer["param_groups"] for p in group["params"]
    ]
    host = {
        **calm,
        "_trainer": {"optimizer": {**optimizer, "param_groups": single}, "iteration": 1},
        "hooks": {"LRScheduler": {"base_lrs": [g["initial_lr"] for g in single], "last_epoch": 2}},
    }
    trainer.load_state_dict(host)
    assert [g["params"] for g in trainer.loop.optimizer.state_dict()["param_groups"]] == [
        g["params"] for g in optimizer["param_groups"]
    ]
    assert trainer.scheduler.last_epoch == 2
    assert trainer.scheduler.get_lr() == pytest.approx(rates)  # warmed up, no drop yet


@pytest.mark.parametrize("older", [False, True], ids=["none", "of a shorter training"])
def test_the_final_weights_are_written_where_the_end_was_missed(
    whole: tuple[list[str], Path, dict[int, float]], tmp_path: Path, older: bool
) -> None:
    """Killed between the last numbered checkpoint and ``model_final.pth``."""
    words, output, _ = whole
    name = f"model_{LENGTH - 1:07d}.pth"
    for suffix in ("", ".sha256"):
        shutil.copy(output / f"{name}{suffix}", tmp_path)
    if older:
        shutil.copy(output / "model_0000003.pth", tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text(name)
    assert train([*words, "OUTPUT_DIR", str(tmp_path)], resume=True) == {}
    assert_same(output, tmp_path)
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == LENGTH - 1
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert (tmp_path / "model_final.pth.sha256").is_file()


def test_a_damaged_checkpoint_is_not_resumed_from(
    whole: tuple[list[str], Path, dict[int, float]], tmp_path: Path
) -> None:
    words, output, _ = whole
    for number in (3, 4):
        for suffix in (".pth", ".pth.sha256"):
            shutil.copy(output / f"model_000000{number}{suffix}", tmp_path)
    damaged = tmp_path / "model_0000004.pth"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 16
    damaged.write_bytes(content)
    (tmp_path / "last_checkpoint").write_text(damaged.name)
    message = r"model_0000004.pth is damaged.*Write the name of an intact one \(model_0000003.pth\)"
    with pytest.raises(UserError, match=message):
        train([*words, "OUTPUT_DIR", str(tmp_path)], resume=True)


def test_labels_with_another_number_of_images_are_refused(
    whole: tuple[list[str], Path, dict[int, float]], tmp_path: Path
) -> None:
    words, output, _ = whole
    for name in ("model_0000003.pth", "model_0000003.pth.sha256"):
        shutil.copy(output / name, tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    labels = make_labels(tmp_path / "fewer")
    words = [*words, "OUTPUT_DIR", str(tmp_path), "U2SEG.DATA.LABELS", str(labels)]
    with pytest.raises(UserError, match=r"began with 6 images, there are 4 now"):
        train(words, resume=True)
