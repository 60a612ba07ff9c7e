"""What the processes of a training share before they evaluate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from u2seg.compat import prepare_host

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
