"""What a mask descriptor is, and the table of them: one vector for every mask of an image.

Shapes: n masks, D channels, h x w patches, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import PIL.Image
from scipy import sparse

from u2seg.config.schema import ClusterSettings, FeatureSettings
from u2seg.errors import UserError
from u2seg.features.base import FACETS, FeatureExtractor, target_size
from u2seg.io.images import FILTERS
from u2seg.registry import Registry
from u2seg.structures.features import ImageInputs, PatchFeatures
from u2seg.structures.masks import InstanceMask, mask_box

Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]
BACKGROUND = (124, 116, 104)
"""ImageNet's mean colour: 0 after the normalisation of the input of a ViT."""
MAX_RATIO = 16

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


def masked_mean(features: PatchFeatures, masks: Sequence[Mask]) -> npt.NDArray[np.float32]:
    """Return the mean patch feature under every mask.

    Every patch counts with the share of its image rectangle that the mask covers, computed
    exactly for any image size, so a mask smaller than a patch has that patch's feature.

    Args:
        features: Patch features of the image.
        masks: n masks, each (H, W) bool with (H, W) = ``features.image_size``; may be none.

    Returns:
        (n, D) float32, in the order of ``masks``.

    Raises:
        ValueError: if a mask has another shape or is empty.

    Examples:
        Two patches side by side; the mask covers all of the first, a third of the second.

        >>> features = PatchFeatures(np.array([[[1.0, 5.0]]], dtype=np.float32), (1, 6))
        >>> masked_mean(features, [np.array([[1, 1, 1, 1, 0, 0]], dtype=bool)]).tolist()
        [[2.0]]
    """
    depth = features.grid.shape[0]
    values = features.grid.reshape(depth, -1).astype(np.float64)
    result = np.empty((len(masks), depth), dtype=np.float32)
    rows = _overlap(features.shape[0], features.image_size[0])
    cols = _overlap(features.shape[1], features.image_size[1])
    for index, mask in enumerate(masks):
        _check_mask(mask, features.image_size, index)
        weights = (cols @ (rows @ mask.astype(np.float64)).T).T.ravel()
        touched = np.flatnonzero(weights)
        result[index] = values[:, touched] @ weights[touched] / weights.sum()
    return result


def mask_crops(
    image: Image,
    masks: Sequence[Mask],
    *,
    padding: float = 0.0,
    paint: bool = False,
) -> list[Image]:
    """Return the box crop of every mask.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: n masks, each (H, W) bool.
        padding: Share of the box's width and height by which the crop grows on either side,
            within the image; rounded to pixels.
        paint: Paint everything outside the mask in ``BACKGROUND``.

    Returns:
        n copies (h, w, 3) uint8 RGB with h, w >= 1, in the order of ``masks``.

    Raises:
        ValueError: if a mask has another shape than the image or is empty.

    Examples:
        The mask covers the first and third of six pixels.

        >>> row = np.arange(18, dtype=np.uint8).reshape(1, 6, 3)
        >>> mask = np.array([[1, 0, 1, 0, 0, 0]], dtype=bool)
        >>> mask_crops(row, [mask])[0][0, :, 0].tolist()
        [0, 3, 6]
        >>> mask_crops(row, [mask], paint=True)[0][0, :, 0].tolist()
        [0, 124, 6]
        >>> mask_crops(row, [mask], padding=0.34)[0][0, :, 0].tolist()
        [0, 3, 6, 9]
    """
    crops = []
    for index, mask in enumerate(masks):
        _check_mask(mask, image.shape[:2], index)
        x, y, width, height = (int(v) for v in mask_box(mask))
        rows = _grown(y, height, padding, image.shape[0])
        cols = _grown(x, width, padding, image.shape[1])
        part = (slice(*rows), slice(*cols))
        crop = image[part].copy()
        if paint:
            crop[~mask[part]] = BACKGROUND
        crops.append(crop)
    return crops


def _grown(start: int, length: int, padding: float, limit: int) -> tuple[int, int]:
    extra = round(padding * length)
    return max(0, start - extra), min(limit, start + length + extra)


def center_square(image: Image, side: int, resample: PIL.Image.Resampling) -> Image:
    """Return the middle square of an image whose shorter side is resized to ``side`` pixels.

    Equal to torchvision's ``Resize(side)`` and ``CenterCrop(side)``, the published choice. Of an
    image more than ``MAX_RATIO`` times as long as wide only the middle is resized, which rounds
    otherwise: a mask of one row need not become an image of gigabytes.

    Args:
        image: (H, W, 3) uint8 RGB.
        side: Of the square, pixels.
        resample: Filter.

    Returns:
        (side, side, 3) uint8 RGB.

    Examples:
        >>> row = np.arange(18, dtype=np.uint8).reshape(1, 6, 3)
        >>> center_square(row, 2, PIL.Image.Resampling.NEAREST)[0, :, 0].tolist()
        [6, 9]
    """
    lengths = (image.shape[1], image.shape[0])
    full = [int(side * length / min(lengths)) for length in lengths]
    # round() takes halves to the even number, as torchvision's centre crop does.
    left, top = (round((length - side) / 2) for length in full)
    box = (left, top, left + side, top + side)
    picture = PIL.Image.fromarray(image)
    if max(full) <= MAX_RATIO * side:
        return np.asarray(picture.resize(full, resample).crop(box))
    x, y = (length / whole for length, whole in zip(lengths, full, strict=True))
    part = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    return np.asarray(picture.resize((side, side), resample, box=part))


def _check_mask(mask: Mask, size: tuple[int, ...], index: int) -> None:
    if mask.shape != tuple(size):
        raise ValueError(f"mask {index} has shape {mask.shape}, its image {tuple(size)}")
    if not mask.any():
        raise ValueError(f"mask {index} is empty: it has no descriptor")


def _overlap(parts: int, pixels: int) -> Any:
    """Return the sparse (parts, pixels) length each of equal parts shares with each pixel."""
    edges = np.arange(parts + 1) * (pixels / parts)
    rows, cols, lengths = [], [], []
    for part in range(parts):
        first, last = edges[part], edges[part + 1]
        for pixel in range(int(first), min(pixels, int(np.ceil(last)))):
            length = min(last, pixel + 1) - max(first, pixel)
            if length > 0:
                rows.append(part)
                cols.append(pixel)
                lengths.append(length)
    return sparse.csr_array((lengths, (rows, cols)), shape=(parts, pixels))
