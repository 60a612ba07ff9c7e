"""Patch features of one image.

Shapes: D channels, h x w patches, H x W pixels of the photograph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PatchFeatures:
    """Dense features on a grid of patches.

    Args:
        grid: (D, h, w) float32, row-major (y, x); patch (y, x) covers the image rectangle
            ``[y / h, (y + 1) / h) x [x / w, (x + 1) / w)`` of the photograph, whatever its size.
        image_size: (H, W) of the upright photograph in pixels.

    Raises:
        ValueError: if ``grid`` is not 3-D, has a zero side, or is not finite.
    """

    grid: npt.NDArray[np.float32]
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.grid.ndim != 3 or 0 in self.grid.shape:
            raise ValueError(f"patch features must be (D, h, w), got shape {self.grid.shape}")
        if not np.isfinite(self.grid).all():
            raise ValueError("patch features hold NaN or infinity")

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the patch grid."""
        return self.grid.shape[1], self.grid.shape[2]
