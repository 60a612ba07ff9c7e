"""One iteration of training: load, losses, gradients, check, update.

The batch may be computed in parts, in mixed precision and in several processes. The losses cross
from the device once per iteration, before the weights change, so that a loss that is not finite
is found while the weights that produced it are still there.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from u2seg.engine.ema import WeightAverage
from u2seg.engine.parts import Batch, loss_shares, split
from u2seg.engine.sgd import fitting_state, parameter_names

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Iteration:
    """What one iteration measured.

    Args:
        losses: Name -> mean over the processes.
        images: Of all processes together.
        data_s: Seconds that the slowest process waited for its batch.
        seconds: Of the whole iteration.
    """

    losses: dict[str, float]
    images: int
    data_s: float
    seconds: float


@dataclass(frozen=True)
class NonFinite:
    """A batch whose loss is not finite, before any weight has changed.

    Args:
        iteration: Its number, from 0.
        batch: The samples of this process.
        losses: Of this process; empty if the model itself gave up.
        random: From ``random_state``, before the batch's losses were computed.
        reason: Why the model gave up.
    """

    iteration: int
    batch: Batch
    losses: dict[str, float]
    random: dict[str, Tensor]
    reason: str = ""


@dataclass
class TrainingLoop:
    """Computes iterations; Detectron2's ``DefaultTrainer`` calls it, with hooks around it.

    Args:
        model: Samples -> name -> scalar loss; in training mode.
        data_loader: Endless batches.
        optimizer: May clip the gradients itself.
        parts: A batch is computed in so many parts, each weighted by its share of the images
            (masks and stuff: see ``parts.loss_shares``).
        dtype: Of mixed precision; None = float32. ``torch.float16`` scales the loss.
        average: Of the weights, updated after each iteration.
        clip: Clips the gradients, once the scale of the loss is taken out; None = nothing to do.
        failed: Called when a loss is not finite, in each process; raises.
        done: Called after each iteration.
        asked: Whether this process shall stop; asked once per iteration.
        watchers: Called with the number of the iteration and its batch, before it is computed.

    Raises:
        RuntimeError: from ``run_step``, if the model is in evaluation mode.
    """

    model: nn.Module
    data_loader: Iterable[Batch]
    optimizer: torch.optim.Optimizer
    parts: int = 1
    dtype: torch.dtype | None = None
    average: WeightAverage | None = None
    clip: Callable[[], None] | None = None
    failed: Callable[[NonFinite], NoReturn] | None = None
    done: Callable[[Iteration], None] = lambda _: None
    asked: Callable[[], bool] = lambda: False
    watchers: list[Callable[[int, Batch], None]] = field(default_factory=list)
    iter: int = 0
    stopping: bool = False
    """Whether any process was asked to stop: the same in all of them."""

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.scaler = GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self._batches: Iterator[Batch] | None = None

    def run_step(self) -> None:
        """Compute one iteration and update the weights."""
        if not self.model.training:
            raise RuntimeError("the model is in evaluation mode: call train() on it")
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        data_s = time.perf_counter() - start
        for watch in self.watchers:
            watch(self.iter, batch)
        if self.average is not None:
            self.average.start(self.model)
        random = random_state(self.device)
        try:
            names, row = self._gradients(batch)
        except FloatingPointError as error:  # the host's proposals are not finite
            self._fail(NonFinite(self.iter, batch, {}, random, str(error)))
        rows = gather_rows(row, data_s, len(batch), self.asked())
        self.stopping = bool(rows[:, -1].any())
        means = rows[:, :-3].mean(0).tolist()
        if not math.isfinite(sum(means)):
            self._fail(NonFinite(self.iter, batch, dict(zip(names, row.tolist())), random))
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        self.done(
            Iteration(
                dict(zip(names, means, strict=True)),
                int(rows[:, -2].sum()),
                float(rows[:, -3].max()),
                time.perf_counter() - start,
            )
        )

    def _gradients(self, batch: Batch) -> tuple[list[str], Tensor]:
        """Accumulate the gradients of a batch; return the names and values of its losses."""
        parts = split(batch, self.parts)
        row: Tensor | None = None
        shares = loss_shares(parts, self.device)
        if self.device.type != "cpu":  # the end of the losses is where most memory is in use
            self.optimizer.zero_grad(set_to_none=True)
        for number, (part, known) in enumerate(zip(parts, shares, strict=True), 1):
            with self._synchronized(number == len(parts)):
                with precision(self.device, self.dtype):
                    losses: dict[str, Tensor] = self.model(part)
                    weights = [known.get(name, len(part) / len(batch)) for name in losses]
                    found = torch.stack([value.float() for value in losses.values()])
                    found = found * found.new_tensor(weights)
                if number == 1:  # on a CPU only here: their memory is used again at once
                    self.optimizer.zero_grad(set_to_none=True)
                self.scaler.scale(found.sum()).backward()  # type: ignore[no-untyped-call]
            row = found.detach() if row is None else row + found.detach()
        if row is None:
            raise RuntimeError("the data loader gave a batch without images")
        return list(losses), row

    def _synchronized(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Let processes exchange gradients after the last part of a batch only."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _fail(self, found: NonFinite) -> NoReturn:
        if self.failed is not None:
            self.failed(found)
        told = found.reason or found.losses
        raise FloatingPointError(f"the loss of iteration {found.iteration} is not finite: {told}")

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, with names, and of the loss scaling."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "parameters": parameter_names(self.model, self.optimizer),
            "grad_scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``, or from that of a Detectron2 trainer.

        Rates are left as they are, for the schedule to set.

        Raises:
            UserError: as ``fitting_state``.
        """
        names = parameter_names(self.model, self.optimizer)
        fitting = fitting_state(state["optimizer"], self.optimizer, names, state.get("parameters"))
        self.optimizer.load_state_dict(fitting)
        if state.get("grad_scaler"):
            self.scaler.load_state_dict(state["grad_scaler"])


def precision(
    device: torch.device, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[Any]:
    """Return the context of mixed precision in ``dtype``; of plain float32 if it is None."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def gather_rows(losses: Tensor, data_s: float, images: int, asked: bool = False) -> Tensor:
    """Return one row per process, on the CPU: losses, waiting time, images, whether to stop.

    Args:
        losses: (L,) float32 on the model's device; the same L everywhere.
        data_s: Seconds.
        images: In the batch of this process.
        asked: Whether it was asked to stop.

    Returns:
        (processes, L + 3) float32; reading it waits for the device.

    Examples:
        >>> gather_rows(torch.tensor([0.5, 1.0]), 0.25, 4)
        tensor([[0.5000, 1.0000, 0.2500, 4.0000, 0.0000]])
    """
    row = torch.cat([losses, losses.new_tensor([data_s, images, asked])])
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return row[None].cpu()
    rows = [torch.empty_like(row) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(rows, row)
    return torch.stack(rows).cpu()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the positions of torch's generators, for ``set_random_state``."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put torch's generators where ``random_state`` found them."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
