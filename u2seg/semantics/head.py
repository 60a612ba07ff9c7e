"""The learned parts of STEGO: the code head and the cluster probe.

Shapes: B images, D feature channels, K code channels, S clusters, h x w positions.
Source: Hamilton et al., "Unsupervised semantic segmentation by distilling feature
correspondences", 2022; commit eb4d6b5, src/modules.py (``DinoFeaturizer``, ``ClusterLookup``).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

DROPOUT_CALLS = 3
"""Dropout is drawn for the linear input, the non-linear input and the features of the loss."""


def grid_tensor(grid: npt.NDArray[np.float32]) -> Tensor:
    """Return (1, D, h, w) from (D, h, w); shares memory unless the array is read-only."""
    return torch.from_numpy(np.require(grid, np.float32, ["C", "W"]))[None]


class CodeHead(nn.Module):
    """Features to codes: a linear plus a one-hidden-layer projection, position by position.

    Args:
        in_dim: D >= 1.
        code_dim: K >= 1.
        generator: Draws the initial weights, uniform in +-1 / sqrt(D).
        projection: ``nonlinear`` (both), or ``linear`` without the hidden layer.
    """

    def __init__(
        self,
        in_dim: int,
        code_dim: int,
        generator: torch.Generator,
        projection: str = "nonlinear",
    ) -> None:
        super().__init__()
        self.linear = _pointwise(in_dim, code_dim)
        self.nonlinear = (
            nn.Sequential(_pointwise(in_dim, in_dim), nn.ReLU(), _pointwise(in_dim, code_dim))
            if projection == "nonlinear"
            else None
        )
        _start(self, in_dim, generator)

    def forward(self, features: Tensor, dropout: Tensor | None = None) -> Tensor:
        """Return (B, K, h, w) float32 codes.

        Args:
            features: (B, D, h, w) float32.
            dropout: (>= 2, B, D) float32 channel factors for the two projections; None = none.
        """
        first = second = features
        if dropout is not None:
            first, second = features * _spread(dropout[0]), features * _spread(dropout[1])
        code: Tensor = self.linear(first)
        return code if self.nonlinear is None else code + self.nonlinear(second)


class Decoder(nn.Module):
    """Codes back to features, position by position: used while training only.

    Args:
        code_dim: K >= 1.
        out_dim: D >= 1.
        generator: Draws the initial weights, uniform in +-1 / sqrt(K).
    """

    def __init__(self, code_dim: int, out_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = _pointwise(code_dim, out_dim)
        _start(self, code_dim, generator)

    def loss(self, code: Tensor, features: Tensor) -> Tensor:
        """Return minus the mean cosine of decoded (B, K, h, w) codes and (B, D, h, w) features."""
        return -functional.cosine_similarity(self.linear(code), features, dim=1).mean()


def drop_channels(features: Tensor, dropout: Tensor | None) -> Tensor:
    """Return the features that the loss compares: (B, D, h, w), third dropout applied."""
    return features if dropout is None else features * _spread(dropout[2])


def draw_dropout(
    images: int, channels: int, probability: float, generator: torch.Generator
) -> Tensor | None:
    """Return (3, B, D) float32 factors, 0 or 1 / (1 - p); None if ``probability`` is 0."""
    if probability == 0:
        return None
    kept = torch.rand(DROPOUT_CALLS, images, channels, generator=generator) >= probability
    return kept.float() / (1 - probability)


def _pointwise(in_dim: int, out_dim: int) -> nn.Module:
    # Without torch's own initialisation, which would draw from the global generator.
    layer: nn.Module = skip_init(nn.Conv2d, in_dim, out_dim, 1)  # type: ignore[no-untyped-call]
    return layer


def _start(module: nn.Module, in_dim: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(in_dim)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


def _spread(factors: Tensor) -> Tensor:
    return factors[:, :, None, None]


class ClusterProbe(nn.Module):
    """S directions in code space; a position belongs to the one with the largest cosine.

    Args:
        num_classes: S >= 1.
        code_dim: K >= 1.
        generator: Draws the initial directions, standard normal.
    """

    def __init__(self, num_classes: int, code_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.clusters = nn.Parameter(torch.randn(num_classes, code_dim, generator=generator))

    def cosines(self, code: Tensor) -> Tensor:
        """Return (B, S, h, w): cosine of each position of a (B, K, h, w) code with each cluster.

        Examples:
            >>> probe = ClusterProbe(2, 2, torch.Generator())
            >>> probe.clusters.data = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
            >>> probe.cosines(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)).flatten().tolist()
            [0.6000000238418579, 0.800000011920929]
        """
        directions = functional.normalize(self.clusters, dim=1)
        return torch.einsum("bkhw,sk->bshw", functional.normalize(code, dim=1), directions)

    def loss(self, code: Tensor, alpha: float | None = None) -> Tensor:
        """Return minus the mean cosine with the own cluster, a scalar.

        Args:
            code: (B, K, h, w) float32, detached.
            alpha: None = the nearest cluster (training); else softmax(alpha * cosine) weights.
        """
        cosines = self.cosines(code)
        if alpha is None:
            return -cosines.amax(dim=1).mean()
        return -(functional.softmax(alpha * cosines, dim=1) * cosines).sum(dim=1).mean()

    def log_probs(self, code: Tensor, alpha: float = 2.0) -> Tensor:
        """Return (B, S, h, w) log-probabilities, log-softmax of alpha * cosine."""
        return functional.log_softmax(alpha * self.cosines(code), dim=1)
