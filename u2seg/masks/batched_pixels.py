"""Masks of many images at full size, in torch, on any device: enlarge, fill holes, compare.

Nothing here makes a GPU wait for the host.

Shapes: B images, N masks each, h x w patches, H x W pixels; M masks of any images.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 16
"""Rounds of a flood. Of 110 masks of photographs (480 x 480, after the CRF) 92 % needed at most
five, one needed eleven; an image whose flood goes on is done on the CPU, which costs far more."""


def upsample_nearest(grids: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, N, h, w) masks repeated to ``size``, as ``propose.upsample_nearest``.

    Examples:
        >>> upsample_nearest(torch.tensor([[[[True, False]]]]), (1, 4))[0, 0].int().tolist()
        [[1, 1, 0, 0]]
    """
    rows, cols = (
        torch.arange(long, device=grids.device) * short // long
        for long, short in zip(size, grids.shape[2:], strict=True)
    )
    return grids[:, :, rows][..., cols]


def fill_holes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Fill background that no 4-path joins to the border, as ``refine.fill_holes``.

    The background is flooded from the border. A round carries the flood as far as it goes along
    columns, down and up, and then along rows, right and left.

    Args:
        masks: (M, H, W) bool.

    Returns:
        The filled masks, and (M,) bool: whether the rounds were enough.

    Examples:
        >>> ring = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]]).bool()
        >>> filled, settled = fill_holes(ring[None])
        >>> filled[0].int().tolist(), settled.tolist()
        ([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]], [True])
    """
    flood = torch.zeros_like(masks)
    for edge in (flood[:, 0], flood[:, -1], flood[..., 0], flood[..., -1]):
        edge.fill_(True)
    flood &= ~masks
    turned = (masks, masks.flip(1), masks, masks.flip(2))
    walls = [_last_true(wall, dim) for wall, dim in zip(turned, (1, 1, 2, 2), strict=True)]
    for _ in range(ROUNDS):
        for dim, (ahead, behind) in ((1, walls[:2]), (2, walls[2:])):
            flood = _last_true(flood, dim) > ahead
            flood = (_last_true(flood.flip(dim), dim) > behind).flip(dim)
    rest = ~(masks | flood)
    leaks = [flood[:, 1:] & rest[:, :-1], flood[:, :-1] & rest[:, 1:]]
    leaks += [flood[..., 1:] & rest[..., :-1], flood[..., :-1] & rest[..., 1:]]
    open_ends = torch.stack([leak.flatten(1).any(dim=1) for leak in leaks])
    return ~flood, ~open_ends.any(dim=0)


def _last_true(marks: Tensor, dim: int) -> Tensor:
    """Return for each place the last true one up to it, counted from 1; 0 if there is none."""
    count = marks.shape[dim]
    kind = torch.int16 if count < 2**15 else torch.int32
    shape = [1, 1, 1]
    shape[dim] = count
    order = torch.arange(1, count + 1, device=marks.device, dtype=kind).reshape(shape)
    return (order * marks).cummax(dim).values


def agrees(before: Tensor, after: Tensor, min_iou: float) -> Tensor:
    """Return whether refinement kept the object, as ``refine.agrees``.

    Args:
        before: (B, N, H, W) bool.
        after: The same after refinement.
        min_iou: 0..1.

    Returns:
        (B, N) bool.

    Examples:
        >>> before, after = torch.tensor([[[[[1, 1, 1, 0]]]], [[[[0, 1, 1, 1]]]]]).bool()
        >>> agrees(before, after, 0.5).tolist(), agrees(before, after, 0.51).tolist()
        ([[True]], [[False]])
    """
    union = (before | after).flatten(2).sum(dim=2)
    common = (before & after).flatten(2).sum(dim=2)
    return (union > 0) & (common.double() >= min_iou * union.double())
