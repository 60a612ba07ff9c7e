"""What a semantic segmenter is, what it is fitted to, and the table of segmenters.

Shapes: D feature channels, h x w patches, H x W pixels, S stuff clusters.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import SemanticSettings
from u2seg.registry import Registry
from u2seg.structures.features import ImageInputs

if TYPE_CHECKING:
    from u2seg.semantics.neighbors import NeighborCache

SEMANTIC_SEGMENTERS = Registry(
    "semantic segmenter",
    locations=("u2seg.semantics.kmeans_probe", "u2seg.semantics.stego"),
    section="SEMANTICS",
)
"""Members are classes: ``cls(settings, in_dim)`` makes a segmenter that is not fitted yet,
``cls.load(path)`` a fitted one."""


class FeatureSource(Protocol):
    """The features of a set of images, by index; they need not fit in memory."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        """Return the (D, h, w) float32 tokens; h and w may differ from image to image."""
        ...

    def inputs(self, index: int) -> ImageInputs:
        """Return the image and what the segmenter needs of it."""
        ...


class SemanticSegmenter(Protocol):
    """Learns S stuff clusters from features alone and labels images with them."""

    def __init__(self, settings: SemanticSettings, in_dim: int) -> None:
        """Make a segmenter for features of ``in_dim`` channels, not fitted yet."""

    def fit(
        self, source: FeatureSource, progress: bool, cache: NeighborCache | None = None
    ) -> dict[str, list[float]]:
        """Learn from all images of ``source``; return loss curves by name, one value a step.

        Args:
            source: Features of n >= 1 images.
            progress: Show a bar with the time left.
            cache: Where nearest neighbours are kept for the next time; None = nowhere.

        Raises:
            UserError: if the source is empty or its features do not fit.
        """
        ...

    def predict(
        self, inputs: ImageInputs, mirrored: ImageInputs | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the stuff cluster of every pixel.

        Args:
            inputs: The photograph and what the segmenter needs of it.
            mirrored: The same of its left-right mirror image, or None.

        Returns:
            (H, W) uint8, 0..S-1.
        """
        ...

    def save(self, path: Path | str) -> None:
        """Write the fitted segmenter to one file, atomically."""
        ...

    @classmethod
    def load(cls, path: Path | str, settings: SemanticSettings | None = None) -> SemanticSegmenter:
        """Return the segmenter that ``save`` wrote.

        Args:
            path: The file.
            settings: Of this run: sizes, CRF and mirror averaging are taken from it; None = all
                from the file.

        Raises:
            UserError: if the file is missing or not one, or has another number of clusters than
                ``settings``.
        """
        ...
