"""The rules of ``u2seg.masks.select`` on the cuts of a batch, in torch.

Shapes: B images, N rounds, h x w patches.
"""

from __future__ import annotations

import dataclasses

import torch

from u2seg.config.schema import MaskSettings
from u2seg.masks.batched import BatchMasks


def select_batch(cuts: BatchMasks, settings: MaskSettings) -> BatchMasks:
    """Return the cuts of every image that ``select`` keeps as valid, with their scores.

    Args:
        cuts: Of ``maskcut_batch``.
        settings: ``max_border`` and ``score`` are used.
    """
    height, width = cuts.grids.shape[2:]
    border = torch.ones((height, width), dtype=torch.bool, device=cuts.grids.device)
    border[1:-1, 1:-1] = False
    patches = height * width - max(height - 2, 0) * max(width - 2, 0)
    share = (cuts.grids & border).sum(dim=(2, 3), dtype=torch.float64) / patches
    valid = cuts.valid & (share <= settings.max_border)
    scores = cuts.scores * (1 - share) if settings.score == "border" else cuts.scores
    return dataclasses.replace(cuts, valid=valid, scores=scores.masked_fill(~valid, 0.0))
