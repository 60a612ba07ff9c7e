"""Which settings a resumed training may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.host.setup import build_cfg
from u2seg.host.start import REMEMBERED, check_same, check_start, remember_settings

pytestmark = pytest.mark.d2
prepare_host()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("run")
    words = data_words(make_labels(root), root / "out")
    cfg = build_cfg(BASE_CONFIG, words)
    remember_settings(cfg, resume=False)
    (root / "out" / "last_checkpoint").write_text("model_0000000.pth")
    return words


def check(words: list[str], *more: str, resume: bool = True) -> Any:
    cfg = build_cfg(BASE_CONFIG, [*words, *more])
    check_start(cfg, resume)
    return cfg


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("SOLVER.MAX_ITER", "9"),
        ("DATALOADER.NUM_WORKERS", "3"),
        ("TEST.EVAL_PERIOD", "5"),
        ("U2SEG.EVAL.MATCHING", "majority"),
        ("U2SEG.MASKS.MASKCUT.TAU", "0.3"),
        ("MODEL.WEIGHTS", "other.pth"),
        ("MODEL.RPN.POST_NMS_TOPK_TEST", "7"),
        ("SOLVER.STEPS", "[]"),  # the value it was, written otherwise
    ],
)
def test_what_changes_no_weight_may_change(words: list[str], more: tuple[str, ...]) -> None:
    check(words, *more)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("SOLVER.BASE_LR", "0.5", "SOLVER.BASE_LR was 0.02, is 0.5"),
        ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.IMS_PER_BATCH was 2, is 4"),
        ("U2SEG.TRAIN.EMA_DECAY", "0.9", "U2SEG.TRAIN.EMA_DECAY was 0.0, is 0.9"),
        ("INPUT.MIN_SIZE_TRAIN", "(64, 96)", r"INPUT.MIN_SIZE_TRAIN was \[64\], is \[64, 96\]"),
        ("MODEL.RPN.POST_NMS_TOPK_TRAIN", "7", "MODEL.RPN.POST_NMS_TOPK_TRAIN was 100, is 7"),
        ("SEED", "7", "SEED was 1, is 7"),
    ],
)
def test_what_changes_weights_may_not(words: list[str], key: str, value: str, told: str) -> None:
    with pytest.raises(UserError, match=f"--resume with other settings .*{told}") as caught:
        check(words, key, value)
    assert "What changes the weights must stay; MODEL.DEVICE, DATALOADER" in str(caught.value)
    assert str(caught.value).endswith("MODEL.WEIGHTS " + words[-1] + "/model_0000000.pth")


def test_the_end_of_a_cosine_may_not_move(words: list[str], tmp_path: Path) -> None:
    more = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "OUTPUT_DIR", str(tmp_path)]
    remember_settings(check(words, *more), resume=False)
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    check(words, *more)
    with pytest.raises(UserError, match=r"SOLVER.MAX_ITER was 2, is 9") as caught:
        check(words, *more, "SOLVER.MAX_ITER", "9")
    told = str(caught.value)
    assert "may change with WarmupMultiStepLR alone" in told
    assert "LR_SCHEDULER_NAME is WarmupCosineLR, whose rates depend on the end" in told
    assert "What changes the weights" not in told
    assert told.endswith(f"in another OUTPUT_DIR, with MODEL.WEIGHTS {tmp_path}/model_0000000.pth")


@pytest.mark.parametrize(("old", "new"), [("2", "9"), ("9", "2"), ("2", "3"), ("4", "3")])
def test_the_end_of_a_warm_up_may_not_move(
    words: list[str], tmp_path: Path, old: str, new: str
) -> None:
    """The host's warm-up of 4 iterations ends after MAX_ITER, if that is fewer."""
    more = ["SOLVER.WARMUP_ITERS", "4", "OUTPUT_DIR", str(tmp_path)]
    begun = build_cfg(BASE_CONFIG, [*words, *more, "SOLVER.MAX_ITER", old])
    remember_settings(begun, resume=False)
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    with pytest.raises(UserError, match=rf"SOLVER.MAX_ITER was {old}, is {new}") as caught:
        check(words, *more, "SOLVER.MAX_ITER", new)
    told = str(caught.value)
    assert "old and new value are at least SOLVER.WARMUP_ITERS: SOLVER.WARMUP_ITERS is 4" in told


def test_another_label_folder_is_told_by_its_rule(words: list[str], tmp_path: Path) -> None:
    old, new = Path(words[words.index("U2SEG.DATA.LABELS") + 1]), make_labels(tmp_path)
    with pytest.raises(UserError, match="goes on with the label folder that it began") as caught:
        check(words, "U2SEG.DATA.LABELS", str(new))
    assert f"U2SEG.DATA.LABELS was '{old}', is '{new}'" in str(caught.value)
    assert "holds no labels now" not in str(caught.value)
    moved = old.rename(old.with_name("moved"))
    try:
        with pytest.raises(UserError, match=rf"{old} holds no labels now: put them back"):
            check(words, "U2SEG.DATA.LABELS", str(moved))
    finally:
        moved.rename(old)


NORMS = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.SEM_SEG_HEAD.NORM")


def of_many_processes(cfg: Any, norm: str = "SyncBN") -> Any:
    """Return the config as several processes on GPUs have it, where SyncBN stays."""
    cfg = cfg.clone()
    cfg.defrost()
    for key in NORMS:
        cfg.merge_from_list([key, norm])
    return cfg


@pytest.mark.parametrize("more_processes", [True, False])
def test_the_number_of_processes_may_change_with_sync_bn(
    words: list[str], caplog: pytest.LogCaptureFixture, more_processes: bool
) -> None:
    one = build_cfg(BASE_CONFIG, [*words, *(word for key in NORMS for word in (key, "BN"))])
    many = of_many_processes(one)
    now, then = (many, one) if more_processes else (one, many)
    check_same(now, yaml.safe_load(then.dump()))
    (told,) = [record.getMessage() for record in caplog.records]
    was, found = ("BN", "SyncBN") if more_processes else ("SyncBN", "BN")
    assert f"MODEL.FPN.NORM {found}, MODEL.RESNETS.NORM {found}" in told
    assert f"({was} when it began)" in told
    assert told.endswith("all processes together" if more_processes else "each process")


def test_remembered_settings_are_those_of_the_beginning(words: list[str], tmp_path: Path) -> None:
    more = ["OUTPUT_DIR", str(tmp_path)]
    remember_settings(check(words, *more), resume=False)
    before = (tmp_path / REMEMBERED).read_text()
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    remember_settings(check(words, *more, "SOLVER.MAX_ITER", "7"), resume=True)
    assert (tmp_path / REMEMBERED).read_text() == before
    # Killed before its first checkpoint: the next one begins, though with --resume.
    (tmp_path / "last_checkpoint").unlink()
    remember_settings(check(words, *more, "SOLVER.MAX_ITER", "7"), resume=True)
    assert "MAX_ITER: 7" in (tmp_path / REMEMBERED).read_text()


def test_a_second_beginning_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="add --resume"):
        check(words, resume=False)


def test_more_parts_than_images(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ACCUMULATE is 3, but a process has 2 image"):
        check(words, "OUTPUT_DIR", str(tmp_path), "U2SEG.TRAIN.ACCUMULATE", "3", resume=False)
