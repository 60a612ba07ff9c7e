"""One descriptor per mask: the mean patch feature inside it, or the crop to embed.

Shapes: n masks, D channels, h x w patches, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from scipy import sparse

from u2seg.structures.features import PatchFeatures
from u2seg.structures.masks import mask_box

Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]
BACKGROUND = (124, 116, 104)
"""ImageNet's mean colour: 0 after the normalisation of the input of a ViT."""
MAX_RATIO = 16


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


def patch_coverage(mask: Mask, grid: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the share of every patch's rectangle that a mask covers.

    Args:
        mask: (H, W) bool.
        grid: (h, w).

    Returns:
        (h, w) float64 in 0..1.

    Examples:
        >>> patch_coverage(np.array([[1, 1, 0]], dtype=bool), (1, 2)).round(6).tolist()
        [[1.0, 0.333333]]
    """
    height, width = mask.shape
    covered = _overlap(grid[1], width) @ (_overlap(grid[0], height) @ mask.astype(np.float64)).T
    area = (height / grid[0]) * (width / grid[1])
    return np.asarray(covered.T / area, dtype=np.float64)


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


def normalize_rows(descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows scaled to unit Euclidean length; rows of zeros stay zero.

    Examples:
        >>> normalize_rows(np.array([[3, 4], [0, 0]], dtype=np.float32)).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    norms = np.linalg.norm(descriptors.astype(np.float64), axis=1, keepdims=True)
    lengths = np.where(norms > 0, norms, 1.0).astype(np.float32)
    return np.asarray(descriptors / lengths, dtype=np.float32)


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
