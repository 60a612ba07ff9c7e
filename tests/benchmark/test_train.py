"""The benchmark of training: a row at a small size, its correctness, what it skips."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from scenes.kinds import SCENE_LABELS

from benchmarks import train
from benchmarks.machine import Rates
from benchmarks.rows import SKIPPED
from benchmarks.setting import Setting
from benchmarks.train_inputs import write_label_folder
from benchmarks.train_parts import PoolingSizes, roi_align
from benchmarks.train_sides import TrainSizes
from tests.factories import TINY
from u2seg.compat import prepare_host
from u2seg.labels import LabelFolder
from u2seg.structures.labels import LabelSpace

pytestmark = [
    pytest.mark.d2,
    # The peer's own mapper.
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),
]
prepare_host()
SETTING = Setting(1, 1, Rates(1e11, 1e10), None)  # type: ignore[arg-type]
WORDS = tuple(
    word
    for pair in zip(TINY[::2], TINY[1::2], strict=True)
    if not pair[0].startswith("U2SEG.")
    for word in pair
)
SMALL = TrainSizes(words=(*WORDS, "SOLVER.MAX_ITER", "100"), photographs=4, side=64, block=1)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_row_is_measured_correct_and_leaves_nothing(tmp_path: Path) -> None:
    row = train.table(cpu=SMALL)["train"].measure(SETTING)
    assert (row.name, row.unit, row.target) == ("train", "it/s", ">= 0.97x")
    assert row.ours and row.peer and row.ratio
    assert row.ratio == pytest.approx(row.ours / row.peer)
    assert "U2SEG.COPY_PASTE.ENABLED True" in row.note
    difference = re.search(r"losses differ by (\S+),", row.note)
    assert difference
    assert float(difference[1]) < 1e-6
    assert not list(tmp_path.glob("u2seg-train-*"))


def test_other_losses_miss_the_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train, "largest_difference", lambda cfg, peer: 1e-3)
    labels = write_label_folder(tmp_path, 2, 64)
    rows = train.table(str(labels), SMALL)
    assert rows["accumulate"].measure(SETTING).met is False
    monkeypatch.setattr(train, "largest_difference", lambda cfg, peer: 1e-7)
    row = rows["accumulate"].measure(SETTING)
    assert (row.met, row.target) == (True, "none")
    assert labels.is_dir()


def test_the_losses_are_compared_not_only_their_sum(tmp_path: Path) -> None:
    """A model that weighs the mask loss otherwise is told from the peer."""
    from benchmarks.train_sides import config, largest_difference, peer_config, peer_trainer

    labels = write_label_folder(tmp_path, 4, 64)
    cfg = config(SMALL, labels, tmp_path / "ours")
    peer = peer_trainer(peer_config(cfg, tmp_path / "peer"))
    peer.trainer.model.roi_heads.mask_head.loss_weight = 1.25
    assert largest_difference(cfg, peer) == pytest.approx(0.2)
    peer.close()


def test_pooling_is_compared_in_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from u2seg.modeling.roi_align import PoolingWeights

    sizes = PoolingSizes(channels=4, height=20, width=30, boxes=30)
    row = roi_align(SETTING, sizes)
    assert (row.name, row.unit, row.target) == ("roi_align", "s", ">= 5x")
    assert row.floor and row.ours and row.peer
    pool = PoolingWeights.pool
    monkeypatch.setattr(PoolingWeights, "pool", lambda self, rows: pool(self, rows) * 1.001)
    assert roi_align(SETTING, sizes).met is False
    assert "differ by 1.0e-03" in roi_align(SETTING, sizes).note


@pytest.mark.parametrize("name", ["gpu_train", "gpu_train_half"])
def test_rows_of_a_gpu_are_skipped_without_one(name: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    row = train.ROWS[name].measure(SETTING)
    assert (row.met, row.ours) == (SKIPPED, None)
    assert "no CUDA device" in row.note


def test_scenes_in_a_larger_label_space(tmp_path: Path) -> None:
    """Things keep their category, stuff moves behind the further things."""
    small, large = (
        LabelFolder.open(
            write_label_folder(tmp_path / str(space.num_things), 3, 64, space=space)
        ).records()
        for space in (SCENE_LABELS, LabelSpace(num_things=300, num_stuff=27))
    )
    moved = 0
    for one, other in zip(small, large, strict=True):
        for before, after in zip(one["segments_info"], other["segments_info"], strict=True):
            expected = before["category_id"] + (0 if before["isthing"] else 300 - 5)
            assert after["category_id"] == expected
            moved += expected > 300
    assert moved
