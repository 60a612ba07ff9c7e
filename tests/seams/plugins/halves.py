"""A proposer that returns a hierarchy: what is brighter than the image, and its halves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from u2seg.masks.base import MASK_PROPOSERS
from u2seg.structures.features import ImageInputs
from u2seg.structures.masks import InstanceMask


@dataclass(frozen=True)
class HalvesSettings:
    """Settings of it.

    Args:
        factor: How many times as bright as the mean.
    """

    factor: float = 1.0


@MASK_PROPOSERS.register("halves", settings=HalvesSettings, needs=("pixels",))
def halves(inputs: ImageInputs, settings: HalvesSettings) -> list[InstanceMask]:
    """Return the bright part and, as its parts, what of it is left and right."""
    grey = inputs.pixels.mean(axis=2)
    whole = grey > settings.factor * grey.mean()
    left = whole & (np.arange(whole.shape[1]) < whole.shape[1] // 2)
    masks = [InstanceMask.from_array(whole, 0.9)]
    for part in (left, whole & ~left):
        masks.append(
            replace(InstanceMask.from_array(part, 0.5), parent=0, level=1, source="halves")
        )
    return masks
