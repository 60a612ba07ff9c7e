"""The moving average of the weights."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from u2seg.engine.ema import KEY, WeightAverage, ema_weights
from u2seg.errors import UserError


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


def test_by_hand_weights_buffers_and_counts() -> None:
    module = model()
    fill(module, 2)
    average = WeightAverage(0.9)
    average.start(module)
    fill(module, 12)
    average.update(module)  # 0.9 * 2 + 0.1 * 12 = 3
    fill(module, 3)
    average.update(module)  # 0.9 * 3 + 0.1 * 3 = 3
    fill(module, -7)
    average.update(module)  # 0.9 * 3 - 0.7 = 2
    assert set(average.weights) == set(module.state_dict())
    for name, value in average.weights.items():
        if value.is_floating_point():  # weight, bias, running mean and variance
            torch.testing.assert_close(value, torch.full_like(value, 2.0))
        else:
            assert (name, int(value)) == ("1.num_batches_tracked", -7)
    assert average.updates == 3


def test_applied_lends_the_weights() -> None:
    module, average = model(), WeightAverage(0.5)
    fill(module, 4)
    average.start(module)
    fill(module, 8)

    def evaluate() -> None:
        with average.applied(module):
            assert float(module.state_dict()["0.weight"][0, 0]) == 4
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        evaluate()
    assert float(module.state_dict()["0.weight"][0, 0]) == 8
    assert float(average.weights["0.weight"][0, 0]) == 4


def test_state_survives_a_checkpoint_and_goes_on_alike() -> None:
    one, two = WeightAverage(0.5), WeightAverage(0.5)
    module = model()
    fill(module, 1)
    one.start(module)
    fill(module, 3)
    one.update(module)
    file = io.BytesIO()
    torch.save({KEY: one.state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    two.load_state_dict(content[KEY])
    fill(module, 7)
    one.update(module)
    two.update(module)
    assert one.updates == two.updates == 2
    assert all(torch.equal(one.weights[k], two.weights[k]) for k in one.weights)
    assert float(ema_weights(content)["0.weight"][0, 0]) == 2


def test_a_resumed_average_moves_to_the_model() -> None:
    """Checkpoints are read on the CPU; ``meta`` stands for a GPU, whose tensors do not mix."""
    saved = WeightAverage(0.5)
    saved.start(model())
    average, module = WeightAverage(0.5), model().to("meta")
    average.load_state_dict(saved.state_dict())
    average.start(module)
    average.update(module)
    assert {value.device.type for value in average.weights.values()} == {"meta"}
    assert average.updates == 1


def test_a_checkpoint_without_average_is_refused() -> None:
    for content in ({"model": {}}, {KEY: 3}, {KEY: {"decay": 0.9}}):
        with pytest.raises(UserError, match=r"a\.pth holds no moving average .*EMA_DECAY"):
            ema_weights(content, "a.pth")
