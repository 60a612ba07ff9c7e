"""One iteration of training: load, losses, gradients, check, update.

The batch may be computed in parts, in mixed precision and in several processes. The losses cross
from the device once per iteration, before the weights change, so that a loss that is not finite
is found while the weights that produced it are still there.

Most losses are means over the images of a part, or over as many proposals of each. Two are means
over things that some images lack: the mask loss over proposals that match an object, the semantic
loss over labelled pixels. A part without any gives 0, and as a mean of its share of the images it
would weaken the loss of the whole batch; see ``loss_shares``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from u2seg.engine.ema import WeightAverage
from u2seg.engine.optimizer import load_state, parameter_names

logger = logging.getLogger(__name__)
Batch = Sequence[dict[str, Any]]
VOID = 255
_WEIGHED = ("loss_mask", "loss_sem_seg")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Iteration:
    """What one iteration measured."""

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
        model: A student; in training mode.
        data_loader: Endless batches.
        optimizer: May clip the gradients itself.
        parts: A batch is computed in so many parts, each weighted by its share of the images
            (masks and stuff: see ``loss_shares``).
        dtype: Of mixed precision; None = float32. ``torch.float16`` scales the loss.
        average: Of the weights, updated after each iteration.
        clip: Clips the gradients, once the scale of the loss is taken out; None = nothing to do.
        failed: Called when a loss is not finite, in each process; raises.
        done: Called after each iteration.
        asked: Whether this process shall stop; asked once per iteration.
        watchers: Called with the number of the iteration and its batch, before it is computed.
        compute: Samples -> name -> scalar loss; None = the model's forward pass.

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
    compute: Callable[[Batch], dict[str, Tensor]] | None = None
    iter: int = 0
    stopping: bool = False
    """Whether any process was asked to stop: the same in all of them."""

    def __post_init__(self) -> None:
        self._losses = self.compute or self.model
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
                    losses: dict[str, Tensor] = self._losses(part)
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
        if last or not isinstance(self._losses, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._losses.no_sync()

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
        """Go on from ``state_dict``; of a Detectron2 trainer's own, the momentum is left out.

        Rates are left as they are, for the schedule to set.
        """
        if "parameters" in state:
            names = parameter_names(self.model, self.optimizer)
            load_state(self.optimizer, state["optimizer"], names, state["parameters"])
        else:
            logger.warning("the checkpoint does not name the parameters: momentum starts at 0")
        if state.get("grad_scaler"):
            self.scaler.load_state_dict(state["grad_scaler"])


def precision(
    device: torch.device, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[Any]:
    """Return the context of mixed precision in ``dtype``; of float32 if it is None."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def gather_rows(losses: Tensor, data_s: float, images: int, asked: bool = False) -> Tensor:
    """Return a row of L losses, waiting time, images, whether to stop of each process.

    Returns:
        (processes, L + 3) float32 on the CPU; reading it waits for the device.
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


def split(batch: Batch, parts: int) -> list[Batch]:
    """Return a batch in at most ``parts`` parts whose sizes differ by one at most.

    Examples:
        >>> [len(part) for part in split([{}] * 5, 2)], [len(p) for p in split([{}], 2)]
        ([3, 2], [1])
    """
    small, more = divmod(len(batch), parts)
    sizes = [small + (number < more) for number in range(parts)]
    starts = [sum(sizes[:number]) for number in range(parts)]
    return [batch[s : s + size] for s, size in zip(starts, sizes, strict=True) if size]


def loss_shares(parts: Sequence[Batch], device: torch.device) -> list[Mapping[str, float]]:
    """Return for each part which share of the batch's losses its own are, where known.

    The semantic loss has the share of the part's labelled pixels, which is exact. How many
    proposals will match an object is not known before the last part is computed: the mask loss
    has the share of the images with objects.

    Examples:
        >>> labels = torch.tensor([[255, 1], [2, 0]])
        >>> parts = [[{"instances": [], "sem_seg": labels}],
        ...          [{"instances": ["a", "b"], "sem_seg": labels[:1]}]]
        >>> loss_shares(parts, torch.device("cpu"))
        [{'loss_mask': 0.0, 'loss_sem_seg': 0.75}, {'loss_mask': 1.0, 'loss_sem_seg': 0.25}]
    """
    if len(parts) == 1:
        return [{}]
    rows = [[sum(pair) for pair in zip(*map(_counts, part), strict=True)] for part in parts]
    counts = torch.tensor(rows, dtype=torch.float64, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    shares = (counts / counts.sum(0)).tolist()  # NaN where no part has any
    return [
        {name: share for name, share in zip(_WEIGHED, row, strict=True) if share == share}
        for row in shares
    ]


def _counts(sample: Mapping[str, Any]) -> tuple[int, int]:
    """Return whether an image has objects, and how many pixels of its semantic target count."""
    labelled = int((sample["sem_seg"] != VOID).sum()) if "sem_seg" in sample else 0
    return int(len(sample.get("instances", ())) > 0), labelled
