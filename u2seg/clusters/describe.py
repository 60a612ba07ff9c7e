"""One descriptor for every mask of an image, as the settings say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from u2seg.clusters.descriptors import center_square, mask_crops, masked_mean
from u2seg.config.schema import ClusterSettings, FeatureSettings
from u2seg.features.base import FeatureExtractor, target_size
from u2seg.io.images import FILTERS
from u2seg.structures.features import ImageInputs
from u2seg.structures.masks import InstanceMask


def facets_of(settings: ClusterSettings) -> tuple[str, ...]:
    """Return the facets of the whole image that the descriptors are made of."""
    return ("token",) if settings.descriptor == "masked_mean" else ()


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
        extractor: Describes crops, one pass for each.
        features: What the extractor was built from.
        settings: Descriptor, and how crops are cut.
    """
    arrays = [mask.to_array() for mask in masks]
    if settings.descriptor == "masked_mean":
        token = inputs.facets.get("token")
        return None if token is None else masked_mean(token, arrays)
    crops = mask_crops(
        inputs.pixels,
        arrays,
        padding=settings.crops.padding,
        paint=settings.descriptor == "masked_crop",
    )
    if settings.crops.fit != "squash":  # the extractor makes them squares
        side = target_size(1, 1, extractor.patch_size, features)[0]
        crops = [center_square(crop, side, FILTERS[settings.crops.resample]) for crop in crops]
    rows = [crop.cls for crop in extractor.extract(crops, ("cls",), settings.crops.resample)]
    finite = [row for row in rows if row is not None]
    return np.stack(finite).astype(np.float32) if len(finite) == len(masks) else None
