"""What the processes of a training share before they evaluate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from u2seg.compat import prepare_host
from u2seg.engine import run
from u2seg.engine.ema import WeightAverage
from u2seg.engine.processes import share_buffers
from u2seg.errors import StageError

pytestmark = pytest.mark.d2
prepare_host()

PROCESS = """
import sys
from u2seg.compat import prepare_host
prepare_host()
import torch
from torch import nn
from u2seg.engine.ema import WeightAverage
from u2seg.engine.processes import share_buffers

rank, url = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=2)
model = nn.BatchNorm1d(1)
model.register_buffer("constant", torch.tensor(float(rank)), persistent=False)
average = WeightAverage(0.5)
model.running_mean.fill_(10 + rank)
average.start(model)
model.running_mean.fill_(20 + rank)
model.num_batches_tracked.fill_(30 + rank)
average.update(model)
share_buffers(model, average)
means = float(model.running_mean), float(average.weights["running_mean"])
print(*means, int(model.num_batches_tracked), float(model.constant))
"""


def test_statistics_of_the_first_process_and_its_average(tmp_path: Path) -> None:
    """Running means 20 and 21, averages 15 and 16, counts 30 and 31."""
    url = f"file://{tmp_path / 'meeting'}"
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROCESS, str(rank), url],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    found = [process.communicate(timeout=240) for process in processes]
    assert [out.split() for out, _ in found] == [
        ["20.0", "15.0", "30", "0.0"],
        ["20.0", "15.0", "30", "1.0"],  # in no checkpoint, so a process's own
    ], found


def test_one_process_keeps_its_own() -> None:
    model = nn.BatchNorm1d(1)
    model.running_mean = torch.tensor([3.0])
    share_buffers(model, WeightAverage(0.5))
    assert model.running_mean.tolist() == [3.0]


@pytest.mark.parametrize("averaged", [False, True])
def test_every_evaluation_follows_the_sharing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaged: bool
) -> None:
    told: list[Any] = []
    average = WeightAverage(0.5) if averaged else None
    trainer = SimpleNamespace(model=nn.BatchNorm1d(1), average=average)
    if average is not None:
        average.start(trainer.model)
    monkeypatch.setattr(run, "share_buffers", lambda *given: told.append(given))

    def evaluate(*_: Any, **__: Any) -> dict[str, Any]:
        told.append("evaluated")
        return {}

    monkeypatch.setattr(run, "evaluate", evaluate)
    cfg = SimpleNamespace(OUTPUT_DIR=str(tmp_path))
    shared = (trainer.model, average)
    run._evaluate_running(cfg, trainer)
    assert told == [shared, "evaluated"]
    run._evaluate_trained(cfg, trainer)
    assert told[2:] == [shared] + ["evaluated"] * (1 + averaged)


@pytest.mark.parametrize("main", [True, False])
def test_a_rehearsals_checkpoint_is_compared_by_the_process_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: bool
) -> None:
    """Statistics of batch norm differ between processes, and machines may share no folder."""
    from detectron2.utils import comm

    path = tmp_path / "model_dry_run.pth"
    model = nn.BatchNorm1d(1)
    torch.save({"model": {**model.state_dict(), "running_mean": torch.tensor([7.0])}}, path)
    saved = SimpleNamespace(save=lambda _: None, model=model)
    trainer = SimpleNamespace(checkpointer=saved)
    monkeypatch.setattr(comm, "is_main_process", lambda: main)
    if main:
        with pytest.raises(StageError, match="running_mean was not read as it was written"):
            run._check_checkpoint(trainer, tmp_path)
        torch.save({"model": model.state_dict()}, path)
    assert run._check_checkpoint(trainer, tmp_path)[1] == (path.stat().st_size if main else 0)
