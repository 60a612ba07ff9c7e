"""Patch features of one image, and what a method looks at of it.

Shapes: D channels, h x w patches, H x W pixels of the photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
class ImageInputs:
    """What a method looks at of one image: what it declared to need.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        facets: Facet (``key``, ``token``, ``attention``) -> features; one that is not finite is
            left out.
        cls: (D,) float32 descriptor of the whole image; None if not asked for, or not finite.
        model: A trained model, (H, W, 3) uint8 -> masks; None unless a method needs one.
        name: Of the image, for messages.
    """

    pixels: npt.NDArray[np.uint8]
    facets: dict[str, PatchFeatures] = field(default_factory=dict)
    cls: npt.NDArray[np.float32] | None = None
    model: Any = None
    name: str = "an image"

    def has(self, *facets: str) -> bool:
        """Return whether all of these are there."""
        return all(self.cls is not None if f == "cls" else f in self.facets for f in facets)
