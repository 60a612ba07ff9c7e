"""The correspondence loss: every rule by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from u2seg.semantics.losses import Correspondence, feature_similarity, sample, unit


def _halves() -> Tensor:
    """(1, 2, 2, 1): two positions with orthogonal vectors."""
    return torch.eye(2).reshape(1, 2, 2, 1)


def _mean(compare: Correspondence, features: Tensor, codes: Tensor, shift: float) -> float:
    return float(compare((features, features), (codes, codes), shift).mean())


def test_constant_features_and_codes() -> None:
    same = unit(torch.ones(2, 5, 3, 3))
    assert _mean(Correspondence(), same, same, 0.3) == pytest.approx(-0.7, abs=1e-6)


def test_orthogonal_halves() -> None:
    # Half of the pairs have code similarity 1 and feature similarity 1, the rest 0 and 0;
    # centring subtracts 1/2 and adds 1/2.
    halves = _halves()
    assert _mean(Correspondence(), halves, halves, 0.2) == pytest.approx(-0.4, abs=1e-6)


def test_opposite_codes_count_as_nothing_only_with_the_clamp() -> None:
    # First all-equal features against codes c and -c: similarity -1 everywhere.
    features = unit(torch.ones(1, 3, 1, 1))
    code = torch.ones(1, 1, 1, 1)
    clamped = Correspondence()((features, features), (code, -code), 0.25)
    free = Correspondence(zero_clamp=False)((features, features), (code, -code), 0.25)
    assert float(clamped) == 0.0
    assert float(free) == pytest.approx(0.75)


def test_stabilize_caps_the_reward() -> None:
    same = unit(torch.ones(1, 3, 1, 1))
    loss = Correspondence(stabilize=True)((same, same), (same, same), 0.5)
    assert float(loss) == pytest.approx(-0.8 * 0.5)


def test_pointwise_centring_by_hand() -> None:
    # Second image has two positions like a and one orthogonal. Similarities of a: (1, 1, 0),
    # of b: (0, 0, 1). Row means 2/3 and 1/3, mean of all 1/2.
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 2, 1)
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 3, 1)
    raw = feature_similarity(first, second, pointwise=False).reshape(2, 3)
    assert raw.tolist() == [[1, 1, 0], [0, 0, 1]]
    centred = feature_similarity(first, second, pointwise=True).reshape(2, 3)
    expected = torch.tensor([[1 / 3, 1 / 3, -2 / 3], [-1 / 3, -1 / 3, 2 / 3]]) + 0.5
    torch.testing.assert_close(centred, expected)


def test_features_receive_no_gradient() -> None:
    features = unit(torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    features.requires_grad_()
    codes = unit(torch.rand(1, 3, 2, 2)).requires_grad_()
    Correspondence()((features, features), (codes, codes), 0.1).sum().backward()
    assert features.grad is None
    assert codes.grad is not None and float(codes.grad.abs().sum()) > 0


def test_sampling_by_hand() -> None:
    # 2 x 2 grid, corners at +-1: x runs along columns, y along rows.
    grid = torch.tensor([[[[0.0, 1.0], [10.0, 11.0]]]])
    coords = torch.tensor([[[[-1.0, -1.0], [1.0, -1.0]], [[-1.0, 1.0], [0.0, 0.0]]]])
    values = sample(grid, coords)[0, 0]
    # coords[j, i] lands at (i, j): upstream's transposition.
    assert values.tolist() == [[0.0, 10.0], [1.0, 5.5]]
    outside = sample(grid, torch.tensor([[[[3.0, -3.0]]]]))
    assert float(outside) == 1.0


def test_zero_vectors_stay_zero() -> None:
    assert float(unit(torch.zeros(1, 4, 1, 1)).abs().sum()) == 0.0
