"""What a mask descriptor is, and the table of them: one vector for every mask of an image.

Shapes: n masks, D channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from u2seg.clusters.descriptors import Image, Mask, center_square, mask_crops, masked_mean
from u2seg.config.schema import ClusterSettings, FeatureSettings
from u2seg.errors import UserError
from u2seg.features.base import FACETS, FeatureExtractor, target_size
from u2seg.io.images import FILTERS
from u2seg.registry import Registry
from u2seg.structures.features import ImageInputs
from u2seg.structures.masks import InstanceMask

DESCRIPTORS = Registry(
    "mask descriptor", locations=("u2seg.clusters.describe",), section="CLUSTERS"
)


@dataclass(frozen=True)
class Embedder:
    """Describes crops by their CLS tokens, one pass of the extractor for each.

    Args:
        extractor: Of the run.
        side: Of the square that it sees of a square, pixels.
    """

    extractor: FeatureExtractor
    side: int

    def __call__(self, crops: Sequence[Image], resample: str = "") -> npt.NDArray[np.float32]:
        """Return (n, D) float32; NaN for a crop whose features are not finite."""
        blank = np.full(self.extractor.dim, np.nan, np.float32)
        inputs = self.extractor.extract(crops, ("cls",), resample)
        rows = [blank if crop.cls is None else crop.cls for crop in inputs]
        return np.stack(rows) if rows else np.zeros((0, len(blank)), np.float32)


class MaskDescriptor(Protocol):
    """Describes the masks of one image. Members of ``DESCRIPTORS``; each says what it needs."""

    def __call__(
        self, inputs: ImageInputs, masks: Sequence[Mask], settings: Any, embed: Embedder
    ) -> npt.NDArray[np.float32]:
        """Return (n, D) float32 for n masks (H, W) bool; D is the same for all images.

        ``settings`` is the member's own dataclass, or ``ClusterSettings`` if it has none.
        """
        ...


@DESCRIPTORS.register("masked_mean", needs=("token",))
def mean_of_tokens(
    inputs: ImageInputs, masks: Sequence[Mask], settings: ClusterSettings, embed: Embedder
) -> npt.NDArray[np.float32]:
    """Return the mean token under every mask."""
    return masked_mean(inputs.facets["token"], masks)


@DESCRIPTORS.register("crop_cls", needs=("pixels",))
def crops_of_boxes(
    inputs: ImageInputs, masks: Sequence[Mask], settings: ClusterSettings, embed: Embedder
) -> npt.NDArray[np.float32]:
    """Return the CLS token of the crop of every mask's box."""
    return _embedded(inputs, masks, settings, embed, paint=False)


@DESCRIPTORS.register("masked_crop", needs=("pixels",))
def crops_of_masks(
    inputs: ImageInputs, masks: Sequence[Mask], settings: ClusterSettings, embed: Embedder
) -> npt.NDArray[np.float32]:
    """Return the same of crops painted grey outside the mask."""
    return _embedded(inputs, masks, settings, embed, paint=True)


def _embedded(
    inputs: ImageInputs,
    masks: Sequence[Mask],
    settings: ClusterSettings,
    embed: Embedder,
    *,
    paint: bool,
) -> npt.NDArray[np.float32]:
    how = settings.crops
    crops = mask_crops(inputs.pixels, masks, padding=how.padding, paint=paint)
    if how.fit != "squash":  # the extractor makes them squares
        crops = [center_square(crop, embed.side, FILTERS[how.resample]) for crop in crops]
    return embed(crops, how.resample)


def facets_of(settings: ClusterSettings) -> tuple[str, ...]:
    """Return the facets of the whole image that the descriptor needs."""
    needs = DESCRIPTORS.needs(settings.descriptor)
    return tuple(facet for facet in FACETS if facet in needs)


def describe(
    inputs: ImageInputs,
    masks: Sequence[InstanceMask],
    extractor: FeatureExtractor,
    features: FeatureSettings,
    settings: ClusterSettings,
) -> npt.NDArray[np.float32] | None:
    """Return (n, D) descriptors of n masks, or None if one is not finite.

    Args:
        inputs: Of the image, with ``facets_of(settings)``.
        masks: At the size of the image.
        extractor: Describes crops.
        features: What the extractor was built from.
        settings: Which descriptor, and its own settings.
    """
    if not inputs.has(*facets_of(settings)):
        return None
    own = DESCRIPTORS.own(settings.descriptor, settings)
    embed = Embedder(extractor, target_size(1, 1, extractor.patch_size, features)[0])
    rows: npt.NDArray[np.float32] = DESCRIPTORS.get(settings.descriptor)(
        inputs, [mask.to_array() for mask in masks], settings if own is None else own, embed
    )
    if rows.ndim != 2 or len(rows) != len(masks):
        raise UserError(
            f"U2SEG.CLUSTERS.DESCRIPTOR {settings.descriptor} returned {rows.shape} for "
            f"{len(masks)} masks, expected ({len(masks)}, D)"
        )
    return rows.astype(np.float32) if np.isfinite(rows).all() else None
