"""Masks of several photographs refined together: the dense CRF of ``refine``, in torch.

Shapes: H x W pixels, N masks of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from u2seg.config.schema import MaskSettings
from u2seg.crf import CrfKernels
from u2seg.crf.batched import BatchDenseCrf
from u2seg.masks.refine import MASK_REFINERS, Masks, fill_holes


def refine_batch(
    images: Sequence[npt.NDArray[np.uint8]],
    masks: Sequence[Masks],
    settings: MaskSettings,
    device: torch.device,
) -> list[Masks]:
    """Return what ``settings.refiner`` makes of the masks of every image.

    The dense CRF runs for all images at once on the device, another refiner image by image.

    Args:
        images: (H, W, 3) uint8 RGB each, all of one size.
        masks: (N, H, W) bool each, N >= 1.
        settings: ``refiner`` and the ``crf_*`` fields are used.
        device: Where the CRF runs.

    Raises:
        ValueError: if masks or images do not fit each other.
        UserError: if the refiner is unknown.
    """
    refine = MASK_REFINERS.get(settings.refiner)
    if settings.refiner != "dense_crf":
        return [refine(image, some, settings) for image, some in zip(images, masks, strict=True)]
    if not images:
        return []
    most = max(map(len, masks))
    # Images with fewer masks get empty ones.
    padded = np.zeros((len(images), most, *images[0].shape[:2]), dtype=bool)
    for target, some in zip(padded, masks, strict=True):
        target[: len(some)] = some
    crf = BatchDenseCrf(
        torch.from_numpy(np.stack(images)).to(device), CrfKernels.from_settings(settings)
    )
    foreground = crf.refine_masks(torch.from_numpy(padded).to(device), settings.crf_iterations)
    refined = (foreground > 0.5).cpu().numpy()
    return [
        np.stack([fill_holes(mask) for mask in some[: len(before)]])
        for some, before in zip(refined, masks, strict=True)
    ]
