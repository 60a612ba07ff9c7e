"""Masks resized to the sizes of their photographs, in torch, on any device: what Pillow does.

Pillow resizes 8-bit images along rows, rounds to 8 bits, and then along columns; since version 13
columns come first where they shrink more. Its weights are whole numbers of 2^-22, so its sums are
exact and can be had anywhere. Which order the Pillow that is there takes is found by trying.

Shapes: M masks, h x w pixels before and H x W after; T places of a row or column, K weights each.
Source: Pillow, src/libImaging/Resample.c.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from u2seg.io.transfer import upload

BITS = 22
SUPPORT = 2.0
"""Half the width of the bicubic kernel."""
SHARPNESS = -0.5
"""Its parameter a (Keys, 1981)."""


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (M, H, W) bool masks of ``size`` = (H, W), as ``propose.resize_mask``.

    Args:
        masks: (M, h, w) bool.
        size: Of the photograph; ``pass_order`` must know how.

    Raises:
        ValueError: if it does not.

    Examples:
        >>> half = torch.tensor([[[True, True], [False, False]]])
        >>> resize_masks(half, (4, 2))[0].int().tolist()
        [[1, 1], [1, 1], [0, 0], [0, 0]]
    """
    if tuple(masks.shape[1:]) == size:
        return masks
    order = pass_order((masks.shape[1], masks.shape[2]), size)
    if order is None:
        raise ValueError(f"this Pillow resizes {tuple(masks.shape[1:])} to {size} in another way")
    levels = masks.int() * 255
    for axis in order:
        levels = _resample(levels, axis + 1, size[axis])
    top = levels.flatten(1).amax(dim=1)
    return 2 * levels > top[:, None, None]


def _resample(levels: Tensor, dim: int, target: int) -> Tensor:
    """Return (M, h, w) int32 0..255 with another length of one dimension."""
    places, weights = _weights_on(levels.shape[dim], target, levels.device)
    shape, size = [1, 1, 1], list(levels.shape)
    shape[dim] = size[dim] = target
    total = levels.new_full(size, 2 ** (BITS - 1))
    for place, weight in zip(places, weights, strict=True):
        total.addcmul_(levels.index_select(dim, place), weight.reshape(shape))
    return (total >> BITS).clamp_(0, 255)


@functools.lru_cache(maxsize=512)
def _weights_on(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    places, weights = bicubic_weights(source, target)
    return upload(places, device), upload(weights, device)


@functools.lru_cache(maxsize=4096)
def pass_order(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, ...] | None:
    """Return the axes in the order in which Pillow resizes them: 0 columns, 1 rows.

    A noise image is resized in both orders and by Pillow.

    Args:
        source: (h, w).
        target: (H, W).

    Returns:
        Axes whose length changes; None if Pillow did neither.

    Examples:
        >>> pass_order((5, 5), (5, 5)), pass_order((5, 5), (5, 8))
        ((), (1,))
    """
    levels = np.random.default_rng(0).integers(0, 2, source, dtype=np.uint8) * np.uint8(255)
    resized = Image.fromarray(levels).resize(target[::-1], Image.Resampling.BICUBIC)
    changed = tuple(axis for axis in (1, 0) if source[axis] != target[axis])
    for order in dict.fromkeys((changed, changed[::-1])):
        mine = levels.astype(np.int64)
        for axis in order:
            mine = (
                _resample_lines(mine.T, target[axis]).T
                if axis == 0
                else _resample_lines(mine, target[axis])
            )
        if np.array_equal(mine, np.asarray(resized)):
            return order
    return None


def _resample_lines(levels: npt.NDArray[np.int64], target: int) -> npt.NDArray[np.int64]:
    places, weights = bicubic_weights(levels.shape[1], target)
    total = np.full((len(levels), target), 2 ** (BITS - 1))
    for place, weight in zip(places, weights, strict=True):
        total += levels[:, place] * weight
    return (total >> BITS).clip(0, 255)


def bicubic_weights(
    source: int, target: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return which places of a line of ``source`` pixels make each of ``target``, and how.

    Returns:
        (K, T) places, 0..source - 1, and (K, T) weights in units of 2^-22, 0 where a place does
        not count.

    Examples:
        Twice as long: a pixel lies a quarter of a pixel beside an old one. The first has no
        neighbours on its left, so its weights are scaled to have the sum 1.

        >>> places, weights = bicubic_weights(4, 8)
        >>> places[:, 3].tolist(), [round(w / 2**22, 4) for w in weights[:, 3].tolist()]
        ([0, 1, 2, 3, 3], [-0.0703, 0.8672, 0.2266, -0.0234, 0.0])
        >>> [round(w / 2**22, 4) for w in weights[:, 0].tolist()]
        [1.0882, -0.0882, 0.0, 0.0, 0.0]
    """
    scale = source / target
    stretch = max(scale, 1.0)
    support = SUPPORT * stretch
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), source)
    taps = math.ceil(support) * 2 + 1
    places = first + np.arange(taps)[:, None]
    counts = places < last
    values = np.where(counts, _bicubic((places - centre + 0.5) * (1.0 / stretch)), 0.0)
    total = np.zeros(target)
    for row in values:  # in this order, for the same rounding
        total += row
    scaled = values / np.where(total != 0, total, 1.0) * 2**BITS
    weights = np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int32)
    return np.minimum(places, source - 1), weights


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the kernel at (K, T) distances."""
    x = np.abs(x)
    a = SHARPNESS
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    kernel: npt.NDArray[np.float64] = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    return kernel
