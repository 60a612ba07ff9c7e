"""The moving average of a model's weights, a teacher that is steadier than the model itself.

Source: Tarvainen and Valpola, "Mean teachers are better role models", 2017; used for
self-training by CUPS (arXiv 2504.01955).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from u2seg.errors import UserError

KEY = "ema"
"""Entry of a checkpoint that holds the average."""


class WeightAverage:
    """Exponential moving average of all weights and buffers.

    After each iteration: average = decay * average + (1 - decay) * model. Whole numbers (counts
    of batches) are copied. It begins with the weights that ``start`` is given.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(1.0)
        >>> average = WeightAverage(0.75)
        >>> average.start(model)
        >>> _ = model.weight.data.fill_(5.0)
        >>> average.update(model)  # 0.75 * 1 + 0.25 * 5
        >>> average.weights["weight"].item()
        2.0
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self.updates = 0
        self._placed = True

    def start(self, model: nn.Module) -> None:
        """Begin with a model's weights; an average there is already goes to the model's devices."""
        if not self.weights:
            self.weights = {name: value.clone() for name, value in _state(model).items()}
        elif not self._placed:  # read from a checkpoint, whose tensors are on the CPU
            own = _state(model)
            self.weights = {
                name: value.to(own[name].device) for name, value in self.weights.items()
            }
        self._placed = True

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of one more iteration."""
        means, news = [], []
        for name, value in _state(model).items():
            mean = self.weights[name]
            if value.is_floating_point():
                means.append(mean)
                news.append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(means, news, 1 - self.decay)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give a model the average's weights within the block, and its own ones back after it."""
        own = {name: value.clone() for name, value in _state(model).items()}
        _fill(model, self.weights)
        try:
            yield
        finally:
            _fill(model, own)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: decay, number of updates, weights by name."""
        return {"decay": self.decay, "updates": self.updates, "model": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state; its weights stay where they are until ``start``."""
        self.weights = {name: value.clone() for name, value in state["model"].items()}
        self.updates = int(state["updates"])
        self._placed = False


def ema_weights(checkpoint: Mapping[str, Any], source: str = "the checkpoint") -> dict[str, Tensor]:
    """Return the averaged weights of a loaded checkpoint by name; UserError if it has none."""
    state = checkpoint.get(KEY)
    if not isinstance(state, Mapping) or not isinstance(state.get("model"), Mapping):
        raise UserError(
            f"{source} holds no moving average of the weights: train with U2SEG.TRAIN.EMA_DECAY "
            "above 0 (0.999, say)"
        )
    return dict(state["model"])


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items()}


@torch.no_grad()
def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, value in _state(model).items():
        value.copy_(weights[name])
