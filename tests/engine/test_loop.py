"""One iteration: parts of a batch, mixed precision, losses that are not finite."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from u2seg.engine.ema import WeightAverage
from u2seg.engine.loop import (
    Batch,
    Iteration,
    NonFinite,
    TrainingLoop,
)


class Mean(nn.Module):
    """Two losses, each the mean over the images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.dtypes: list[torch.dtype] = []

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        x = torch.stack([sample["x"] for sample in batch])
        y = self.layer(x)
        self.dtypes.append(y.dtype)
        return {"loss_a": y.float().square().mean(), "loss_b": (y.float() - 1).abs().mean()}


def batches(size: int, *more: Batch) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    yield from more
    while True:
        yield [{"x": torch.randn(3, generator=generator)} for _ in range(size)]


def make(size: int = 4, lr: float = 0.1, model: nn.Module | None = None, **kw: Any) -> TrainingLoop:
    model = model or Mean()
    more = kw.pop("first", ())
    return TrainingLoop(model, batches(size, *more), torch.optim.SGD(model.parameters(), lr), **kw)


def weights(loop: TrainingLoop) -> torch.Tensor:
    return torch.cat([p.detach().clone().flatten() for p in loop.model.parameters()])


@pytest.mark.parametrize(("device", "kept"), [("cpu", True), ("meta", False)])
def test_gradients_stay_during_the_losses_on_a_cpu_alone(device: str, kept: bool) -> None:
    """Beside the activations they would be a part of the largest memory; meta has no memory."""

    class Watched(Mean):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            seen.append(self.layer.weight.grad is not None)
            return super().forward(batch)

    seen: list[bool] = []
    loop = make(model=Watched().to(device))
    batch = [{"x": torch.zeros(3, device=device)}]
    for _ in range(2):
        loop._gradients(batch)
    assert seen == [False, kept]


def test_an_iteration_by_hand() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(3.0))

        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {"loss": (self.w * batch[0]["x"][0]) ** 2}

    found: list[Iteration] = []
    first = [{"x": torch.tensor([2.0])}]
    loop = make(model=Square(), lr=0.01, first=[first], done=found.append)
    loop.run_step()
    # Loss (3 * 2)^2 = 36, gradient 2 * 3 * 4 = 24: 3 - 0.01 * 24.
    assert found[0].losses == {"loss": 36.0}
    assert found[0].images == 1
    assert 0 <= found[0].data_s <= found[0].seconds
    assert weights(loop).tolist() == pytest.approx([2.76], abs=1e-6)


@pytest.mark.parametrize(("size", "parts"), [(4, 2), (4, 4), (5, 2), (7, 3)])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(size: int, parts: int) -> None:
    told: list[list[Iteration]] = [[], []]
    whole, divided = (
        make(size, parts=p, done=log.append) for p, log in zip((1, parts), told, strict=True)
    )
    for _ in range(5):
        whole.run_step()
        divided.run_step()
        torch.testing.assert_close(weights(divided), weights(whole), rtol=0, atol=1e-6)
    assert len(divided.model.dtypes) == 5 * parts  # type: ignore[arg-type]
    for one, other in zip(*told, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-6)
        assert one.images == other.images == size


class Unequal(nn.Module):
    """A mask loss over the images with objects, a semantic loss over the labelled pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 1.0]))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        masks = [s["x"] * self.w[0] for s in batch if s["instances"]]
        pixels = torch.cat([s["sem_seg"] for s in batch])
        pixels = pixels[pixels != 255] * self.w[1]
        zero = self.w.sum() * 0.0
        return {
            "loss_mask": torch.stack(masks).mean() if masks else zero,
            "loss_sem_seg": pixels.mean() if len(pixels) else zero,
        }


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_without_objects_or_stuff_do_not_weaken_the_loss(parts: int) -> None:
    """Masks: (6 + 2) / 2 = 4, not 8 / 3; stuff: (1 + 2 + 3 + 6) / 4 = 3, not (2 + 6) / 3."""
    batch = [
        {"x": torch.tensor(6.0), "instances": ["a", "b"], "sem_seg": torch.tensor([255, 255, 255])},
        {"x": torch.tensor(2.0), "instances": ["c"], "sem_seg": torch.tensor([1, 2, 3])},
        {"x": torch.tensor(9.0), "instances": [], "sem_seg": torch.tensor([255, 6, 255])},
    ]
    found: list[Iteration] = []
    loop = make(model=Unequal(), lr=0.1, first=[batch], parts=parts, done=found.append)
    loop.run_step()
    assert found[0].losses == pytest.approx({"loss_mask": 4.0, "loss_sem_seg": 3.0})
    assert weights(loop).tolist() == pytest.approx([1 - 0.1 * 4, 1 - 0.1 * 3])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_not_finite_changes_no_weight(parts: int) -> None:
    found: list[NonFinite] = []

    def failed(what: NonFinite) -> None:
        found.append(what)
        raise FloatingPointError("stop")

    bad = [{"x": torch.tensor([0.0, value, 1.0])} for value in (1.0, np.inf, 2.0)]
    average = WeightAverage(0.5)
    loop = make(3, first=[bad], parts=parts, failed=failed, average=average)  # type: ignore[arg-type]
    average.start(loop.model)
    before = weights(loop)
    loop.iter = 7
    with pytest.raises(FloatingPointError, match="stop"):
        loop.run_step()
    assert torch.equal(weights(loop), before)
    assert average.updates == 0
    assert (found[0].iteration, found[0].batch) == (7, bad)
    assert found[0].losses["loss_a"] == np.inf
    assert found[0].random["cpu"].dtype == torch.uint8


def test_a_model_that_gives_up_is_a_loss_that_is_not_finite() -> None:
    class Diverged(Mean):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            raise FloatingPointError("predicted boxes are not finite")

    with pytest.raises(FloatingPointError, match="predicted boxes are not finite"):
        make(model=Diverged()).run_step()


def test_bfloat16_computes_in_it_and_keeps_weights_in_float32() -> None:
    half, full = make(dtype=torch.bfloat16), make()
    for _ in range(3):
        half.run_step()
        full.run_step()
    assert set(half.model.dtypes) == {torch.bfloat16}  # type: ignore[arg-type]
    assert weights(half).dtype == torch.float32
    assert not half.scaler.is_enabled()
    difference = (weights(half) - weights(full)).abs().max()
    assert 0 < difference < 0.05


def test_an_overflow_of_the_scaled_loss_is_no_error() -> None:
    class Steep(Mean):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            # Finite; times the first scale, 65536, the gradient is not (float32 ends at 3.4e38).
            return {"loss": self.layer.weight.sum() * 1e35}

    loop = make(model=Steep(), dtype=torch.float16)
    before, scale = weights(loop), loop.scaler.get_scale()
    loop.run_step()
    assert torch.equal(weights(loop), before)
    assert loop.scaler.get_scale() == scale / 2
    other = make(model=Steep(), dtype=torch.float16)
    other.load_state_dict(loop.state_dict())
    other.run_step()
    assert other.scaler.get_scale() == scale / 4


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    url = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=url, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
def test_processes_exchange_gradients_after_the_last_part_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.nn.parallel import DistributedDataParallel

    calls: list[str] = []
    plain: Callable[..., Any] = DistributedDataParallel.no_sync
    monkeypatch.setattr(
        DistributedDataParallel, "no_sync", lambda self: calls.append("quiet") or plain(self)
    )
    told: list[Iteration] = []
    loop = make(6, model=DistributedDataParallel(Mean()), parts=3, done=told.append)
    whole = make(6)
    loop.run_step()
    whole.run_step()
    assert calls == ["quiet", "quiet"]
    torch.testing.assert_close(weights(loop), weights(whole), rtol=0, atol=1e-6)
    assert told[0].images == 6


PROCESS = """
import sys
import torch
from torch import nn
from u2seg.engine.loop import TrainingLoop

rank, url = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=2)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return {"loss": (self.w * torch.stack([s["x"] for s in batch])).mean()}

def stop(found):
    print("stopped", found.iteration, found.losses["loss"], float(found.batch[0]["x"]))
    sys.exit(3)

first = [{"x": torch.tensor(3.0 + 2 * rank)}]
second = [{"x": torch.tensor([1.0, float("inf")][rank])}]
model = nn.parallel.DistributedDataParallel(Model())
told = lambda found: print(found.losses["loss"], found.images)
optimizer = torch.optim.SGD(model.parameters(), 0.0)
loop = TrainingLoop(model, [first, second], optimizer, failed=stop, done=told)
for loop.iter in range(2):
    loop.run_step()
"""


def test_all_processes_stop_when_one_of_them_must(tmp_path: Path) -> None:
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
    # Losses 3 and 5 in the first iteration; each process then tells of its own batch.
    assert found[0][0].splitlines() == ["4.0 2", "stopped 1 1.0 1.0"], found
    assert found[1][0].splitlines() == ["4.0 2", "stopped 1 inf inf"], found
    assert [process.returncode for process in processes] == [3, 3]
