"""From one photograph to its instance masks: propose, select, upsample, refine, filter, encode.

Shapes: H x W pixels of the photograph, N masks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.config.schema import MaskSettings
from u2seg.io.images import resize_image
from u2seg.masks.base import MASK_PROPOSERS
from u2seg.masks.maskcut import PatchMask
from u2seg.masks.refine import MASK_REFINERS, Masks, agrees
from u2seg.structures.features import ImageInputs
from u2seg.structures.masks import InstanceMask


def propose_masks(
    inputs: ImageInputs, work_size: tuple[int, int], settings: MaskSettings
) -> list[InstanceMask]:
    """Return the instance masks of one photograph.

    Args:
        inputs: The photograph and what the proposer needs of it.
        work_size: (height, width) in pixels at which masks are refined: the size the features
            were computed at, as in MaskCut (480 x 480).
        settings: Everything of ``U2SEG.MASKS``.

    Returns:
        Masks at H x W in the order they were proposed. One of patches that refinement changes
        too much, or that is empty at full resolution, is dropped.

    Raises:
        UserError: if the proposer or refiner is unknown.
    """
    image = inputs.pixels
    found = MASK_PROPOSERS.get(settings.proposer)(
        inputs, MASK_PROPOSERS.own(settings.proposer, settings)
    )
    whole = [mask for mask in found if isinstance(mask, InstanceMask)]
    cuts = [mask for mask in found if isinstance(mask, PatchMask)]
    proposals = [kept for cut in cuts if (kept := selected(cut, settings))]
    if not proposals:
        return whole
    coarse = np.stack([upsample_nearest(p.grid, work_size) for p in proposals])
    work_image = resize_image(image, work_size, Image.Resampling.LANCZOS)
    own = MASK_REFINERS.own(settings.refiner, settings)
    refined = MASK_REFINERS.get(settings.refiner)(work_image, coarse, own)
    size = (image.shape[0], image.shape[1])
    masks = [
        final_mask(before, after, cut.score, size, settings)
        for cut, before, after in zip(proposals, coarse, refined, strict=True)
    ]
    return [*whole, *(mask for mask in masks if mask is not None)]


def selected(cut: PatchMask, settings: MaskSettings) -> PatchMask | None:
    """Return a cut with its score, None if too much of the image's border is under it.

    An object seldom runs along the border; sky, ground and walls do. Both rules are off by
    default: the reference has neither. The border as background: Zhu et al., "Saliency
    Optimization from Robust Background Detection", 2014, section 3.

    Args:
        cut: At patch resolution.
        settings: ``max_border`` and ``score`` are used.

    Examples:
        Two of the six patches along the border:

        >>> cut = PatchMask(np.array([[1, 1, 0], [0, 0, 0]], dtype=bool), 0.9)
        >>> round(selected(cut, MaskSettings(score="border")).score, 3)
        0.6
        >>> selected(cut, MaskSettings(max_border=0.3)) is None
        True
    """
    share = border_share(cut.grid)
    if share > settings.max_border:
        return None
    score = cut.score * (1 - share) if settings.score == "border" else cut.score
    return PatchMask(cut.grid, score)


def border_share(grid: Masks) -> float:
    """Return the share of the patches along the image's border that a mask covers, 0..1.

    Examples:
        Four of the eight border patches; the patch in the middle does not count:

        >>> border_share(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=bool))
        0.5
    """
    inside = grid[1:-1, 1:-1]
    covered = int(np.count_nonzero(grid)) - int(np.count_nonzero(inside))
    return covered / (grid.size - inside.size)


def final_mask(
    coarse: Masks, refined: Masks, score: float, size: tuple[int, int], settings: MaskSettings
) -> InstanceMask | None:
    """Return a refined mask at the photograph's ``size``, None if it changed too much or is empty.

    Args:
        coarse: (h, w) bool, before refinement.
        refined: (h, w) bool, after it.
        score: Of the mask.
        size: (H, W).
        settings: ``min_refine_iou`` is used.
    """
    if not agrees(coarse, refined, settings.min_refine_iou):
        return None
    full = resize_mask(refined, size)
    return InstanceMask.from_array(full, score) if full.any() else None


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
