"""Head, dropout and probe by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from u2seg.semantics.head import (
    ClusterProbe,
    CodeHead,
    draw_dropout,
    drop_channels,
    grid_tensor,
)


def test_code_is_linear_plus_rectified_path() -> None:
    head = CodeHead(2, 1, torch.Generator())
    weights = {
        "linear.weight": torch.tensor([[1.0, 2.0]]).reshape(1, 2, 1, 1),
        "linear.bias": torch.tensor([0.5]),
        "nonlinear.0.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1),
        "nonlinear.0.bias": torch.tensor([0.0, -5.0]),
        "nonlinear.2.weight": torch.tensor([[10.0, 100.0]]).reshape(1, 2, 1, 1),
        "nonlinear.2.bias": torch.tensor([0.0]),
    }
    head.load_state_dict(weights)
    head.requires_grad_(False)
    features = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    # 3 + 2 * 4 + 0.5 = 11.5; hidden (3, max(0, 4 - 5)) gives 30.
    assert float(head(features)) == pytest.approx(41.5)
    # Dropout factors act on each path by itself: linear sees (6, 0), the other (0, 4).
    dropout = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[1.0, 3.0]]])
    assert float(head(features, dropout)) == pytest.approx(6.5)
    assert drop_channels(features, dropout).flatten().tolist() == [3.0, 12.0]
    assert drop_channels(features, None) is features


def test_weights_follow_the_generator_and_leave_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    first = CodeHead(9, 4, torch.Generator().manual_seed(3)).state_dict()
    again = CodeHead(9, 4, torch.Generator().manual_seed(3)).state_dict()
    other = CodeHead(9, 4, torch.Generator().manual_seed(4)).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in first.items():
        assert torch.equal(value, again[name]) and not torch.equal(value, other[name])
        assert float(value.abs().max()) <= 1 / 3


def test_dropout_keeps_the_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = draw_dropout(50, 200, 0.25, generator)
    assert factors is not None and factors.shape == (3, 50, 200)
    assert factors.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.02)
    assert draw_dropout(5, 5, 0.0, generator) is None


def test_probe_loss_by_hand() -> None:
    probe = ClusterProbe(2, 2, torch.Generator())
    probe.clusters.data = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    probe.requires_grad_(False)
    code = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).T.reshape(1, 2, 2, 1)
    # Cosines (0.6, 0.8) and (1, 0): best 0.8 and 1.
    assert float(probe.loss(code)) == pytest.approx(-0.9)
    weights = np.exp([1.2, 1.6]) / np.exp([1.2, 1.6]).sum()
    logs = probe.log_probs(code[:, :, :1])[0, :, 0, 0].exp()
    np.testing.assert_allclose(logs.detach().numpy(), weights, atol=1e-6)


def test_read_only_features_are_copied() -> None:
    grid = np.ones((2, 3, 4), dtype=np.float32)
    assert np.shares_memory(grid_tensor(grid).numpy(), grid)
    grid.flags.writeable = False
    assert grid_tensor(grid).shape == (1, 2, 3, 4)
