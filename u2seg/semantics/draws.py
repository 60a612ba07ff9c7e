"""Everything random in one training step, drawn beforehand so that a step is a pure function.

Shapes: B images, n x n positions, D feature channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from u2seg.config.schema import StegoSettings
from u2seg.semantics.head import draw_dropout


@dataclass(frozen=True)
class StepDraws:
    """The random numbers of one step.

    Args:
        coords: (B, n, n, 2) float32 in -1..1: positions in the images (and in themselves).
        coords_paired: The same for the images they are paired with.
        permutations: (R, B) int64: R random pairings; R = 0 leaves the random term out.
        dropout: (3, B, D) float32 factors of the images, or None.
        dropout_paired: The same for the paired images.
    """

    coords: Tensor
    coords_paired: Tensor
    permutations: Tensor
    dropout: Tensor | None
    dropout_paired: Tensor | None


def draw_step(
    settings: StegoSettings, images: int, channels: int, generator: torch.Generator
) -> StepDraws:
    """Return the draws of one step for ``images`` images of ``channels`` feature channels."""
    shape = (images, settings.samples, settings.samples, 2)
    return StepDraws(
        coords=torch.rand(shape, generator=generator) * 2 - 1,
        coords_paired=torch.rand(shape, generator=generator) * 2 - 1,
        permutations=draw_pairings(images, settings.neg_samples, generator),
        dropout=draw_dropout(images, channels, settings.dropout, generator),
        dropout_paired=draw_dropout(images, channels, settings.dropout, generator),
    )


def draw_pairings(images: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random permutations of 0..B-1 without fixed points, (count, B) int64.

    Each is one cycle through all images in random order, so every other image is equally likely
    as partner. (Upstream adds 1 to fixed points, which often uses an image twice.) A single
    image has no partner: (0, 1).

    Examples:
        >>> draw_pairings(2, 1, torch.Generator()).tolist()
        [[1, 0]]
        >>> tuple(draw_pairings(1, 5, torch.Generator()).shape)
        (0, 1)
    """
    if images < 2:
        return torch.empty((0, images), dtype=torch.int64)
    rows = torch.empty((count, images), dtype=torch.int64)
    for row in rows:
        order = torch.randperm(images, generator=generator)
        row[order] = order.roll(1)
    return rows


def draw_batch(
    neighbors: Tensor, batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the images of a step and a random near neighbour of each.

    Args:
        neighbors: (n, k) int64, indices of similar images, k may be 0.
        batch_size: Images wanted; no image is drawn twice, so at most n come back.
        generator: Source of randomness.

    Returns:
        Two (B,) int64; an image without neighbours is paired with itself.
    """
    images = torch.randperm(len(neighbors), generator=generator)[:batch_size]
    if neighbors.shape[1] == 0:
        return images, images
    pick = torch.randint(neighbors.shape[1], images.shape, generator=generator)
    return images, neighbors[images, pick]
