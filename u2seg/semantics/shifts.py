"""Loss shifts that suit the features: quantiles of their similarities.

A shift is the feature similarity at which attraction turns into repulsion. The published shifts
were found for the cosines of DINO; other features have other ones (the random Fourier features of
``filter_bank`` are centred on zero), for which the same numbers cut elsewhere. A quantile cuts at
the same place of any distribution.

Shapes: n images, m pairs, s x s positions, D feature channels.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from u2seg.config.schema import StegoSettings
from u2seg.semantics.base import FeatureSource
from u2seg.semantics.draws import draw_batch, draw_pairings
from u2seg.semantics.head import grid_tensor
from u2seg.semantics.losses import feature_similarity, sample, unit

PAIRS = 64
"""Image pairs of each kind that are looked at."""
POSITIONS = 8
"""Positions per side in each image."""


def settle_shifts(
    settings: StegoSettings,
    source: FeatureSource,
    neighbors: Tensor,
    generator: torch.Generator,
) -> StegoSettings:
    """Return settings whose ``shift_*`` are the ``quantile_*`` of this source's similarities.

    Args:
        settings: Returned as they are unless ``shifts`` is ``auto``.
        source: Features of n >= 1 images.
        neighbors: (n, k) int64.
        generator: Draws images and positions.
    """
    if settings.shifts != "auto":
        return settings
    images, partners = draw_batch(neighbors, PAIRS, generator)
    strangers = images[draw_pairings(len(images), 1, generator)]
    here = _sampled(source, images, generator)
    others = {
        "intra": here,
        "inter": _sampled(source, partners, generator),
        # One image has no stranger, and its random term is left out anyway.
        "neg": _sampled(source, strangers[0] if len(strangers) else images, generator),
    }
    shifts = {}
    for name, other in others.items():
        values = feature_similarity(here, other, settings.pointwise).flatten()
        shifts[name] = round(quantile(values, getattr(settings, f"quantile_{name}")), 4)
    return dataclasses.replace(
        settings,
        shift_intra=shifts["intra"],
        shift_inter=shifts["inter"],
        shift_neg=shifts["neg"],
    )


def quantile(values: Tensor, share: float) -> float:
    """Return the value below which ``share`` of the values lie: the nearest of them, no mean.

    Args:
        values: (m,) float32, any m >= 1 (``torch.quantile`` refuses more than 16 million).
        share: 0..1.

    Examples:
        >>> quantile(torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0]), 0.5)
        3.0
        >>> quantile(torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0]), 0.8)
        4.0
    """
    rank = 1 + round(share * (len(values) - 1))
    return float(values.kthvalue(rank).values)


def _sampled(source: FeatureSource, images: Tensor, generator: torch.Generator) -> Tensor:
    coords = torch.rand((len(images), POSITIONS, POSITIONS, 2), generator=generator) * 2 - 1
    grids = [grid_tensor(source[i]) for i in images.tolist()]
    return unit(torch.cat([sample(g, c[None]) for g, c in zip(grids, coords)]))
