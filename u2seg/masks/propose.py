"""From one photograph to its instance masks: propose, select, upsample, refine, filter, encode.

Shapes: H x W pixels of the photograph, N masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.config.schema import MaskSettings
from u2seg.io.images import resize_image
from u2seg.masks.base import MASK_PROPOSERS
from u2seg.masks.maskcut import PatchMask
from u2seg.masks.refine import MASK_REFINERS, Masks, agrees
from u2seg.masks.select import select
from u2seg.structures.features import PatchFeatures
from u2seg.structures.masks import InstanceMask


def propose_masks(
    image: npt.NDArray[np.uint8],
    features: PatchFeatures,
    work_size: tuple[int, int],
    settings: MaskSettings,
) -> list[InstanceMask]:
    """Return the instance masks of one photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        features: Its patch features.
        work_size: (height, width) in pixels at which masks are refined: the size the features
            were computed at, as in MaskCut (480 x 480).
        settings: Everything of ``U2SEG.MASKS``.

    Returns:
        Masks at H x W in the order they were proposed. One that refinement changes too much,
        or that is empty at full resolution, is dropped.

    Raises:
        UserError: if the proposer or refiner is unknown.
    """
    cuts: list[PatchMask] = MASK_PROPOSERS.get(settings.proposer)(
        features, MASK_PROPOSERS.own(settings.proposer, settings)
    )
    proposals = select(cuts, settings)
    if not proposals:
        return []
    work_image, coarse = at_work_size(image, proposals, work_size)
    own = MASK_REFINERS.own(settings.refiner, settings)
    refined = MASK_REFINERS.get(settings.refiner)(work_image, coarse, own)
    return keep_masks(image, proposals, coarse, refined, settings)


def at_work_size(
    image: npt.NDArray[np.uint8], proposals: Sequence[PatchMask], work_size: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], Masks]:
    """Return the photograph and (N, height, width) bool proposals as they are refined."""
    coarse = np.stack([upsample_nearest(p.grid, work_size) for p in proposals])
    return resize_image(image, work_size, Image.Resampling.LANCZOS), coarse


def keep_masks(
    image: npt.NDArray[np.uint8],
    proposals: Sequence[PatchMask],
    coarse: Masks,
    refined: Masks,
    settings: MaskSettings,
) -> list[InstanceMask]:
    """Return refined masks at the photograph's size, without those that changed too much.

    Args:
        image: (H, W, 3) uint8, the photograph.
        proposals: N of them.
        coarse: (N, h, w) bool, proposals before refinement.
        refined: (N, h, w) bool, after it.
        settings: ``min_refine_iou`` is used.
    """
    masks = []
    for proposal, before, after in zip(proposals, coarse, refined, strict=True):
        if not agrees(before, after, settings.min_refine_iou):
            continue
        full = resize_mask(after, (image.shape[0], image.shape[1]))
        if full.any():
            masks.append(InstanceMask.from_array(full, proposal.score))
    return masks


def upsample_nearest(grid: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return an (h, w) mask repeated to ``size`` = (height, width), nearest neighbour.

    Examples:
        >>> upsample_nearest(np.array([[True, False]]), (1, 4)).astype(int).tolist()
        [[1, 1, 0, 0]]
    """
    rows = np.arange(size[0]) * grid.shape[0] // size[0]
    cols = np.arange(size[1]) * grid.shape[1] // size[1]
    return grid[np.ix_(rows, cols)]


def resize_mask(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return a mask resized to (height, width): bicubic 0..255, threshold at half (CutLER).

    Examples:
        >>> resize_mask(np.array([[True, True], [False, False]]), (4, 2)).astype(int).tolist()
        [[1, 1], [1, 1], [0, 0], [0, 0]]
    """
    if mask.shape == size:
        return mask.copy()
    levels = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = np.asarray(levels.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    if resized.max() == 0:
        return np.zeros(size, dtype=bool)
    above: npt.NDArray[np.bool_] = resized > resized.max() / 2
    return above
