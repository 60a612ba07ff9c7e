"""Snap coarse masks to the edges of the photograph, and tell when that went wrong.

Shapes: H x W pixels, N masks.
Source: CutLER commit cca0a27, maskcut/crf.py and maskcut/maskcut.py.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_fill_holes

from u2seg.config.schema import CrfSettings
from u2seg.crf import CrfKernels, DenseCrf
from u2seg.registry import Registry

Masks = npt.NDArray[np.bool_]

MASK_REFINERS = Registry("mask refiner", section="MASKS")


class MaskRefiner(Protocol):
    """Improves the outlines of the masks of one image. Members of ``MASK_REFINERS``."""

    def __call__(self, image: npt.NDArray[np.uint8], masks: Masks, settings: Any) -> Masks:
        """Return refined masks in the order given.

        Args:
            image: (H, W, 3) uint8 RGB.
            masks: (N, H, W) bool; N may be 0.
            settings: Its own, of the dataclass it was registered with.

        Returns:
            (N, H, W) bool, a new array; a mask may come back empty.

        Raises:
            ValueError: if the masks do not fit the image.
        """
        ...


@MASK_REFINERS.register("dense_crf", settings=CrfSettings)
def dense_crf_refiner(image: npt.NDArray[np.uint8], masks: Masks, settings: CrfSettings) -> Masks:
    """Return masks after a dense CRF, the more likely label per pixel, holes filled.

    Every mask is a two-label CRF of its own; all share the image's lattice. See
    ``MaskRefiner`` for arguments and errors.

    Examples:
        A pixel missed inside a bright square is found again:

        >>> image = np.zeros((12, 12, 3), dtype=np.uint8)
        >>> image[3:9, 3:9] = 255
        >>> mask = image[..., 0] > 0
        >>> missed = mask.copy()
        >>> missed[3, 3] = False
        >>> settings = CrfSettings(gaussian_weight=1.0)
        >>> bool((dense_crf_refiner(image, missed[None], settings)[0] == mask).all())
        True
    """
    if len(masks) == 0:
        return masks.copy()
    crf = DenseCrf(image, CrfKernels.from_settings(settings))
    foreground = crf.refine_masks(masks, settings.iterations)
    return np.stack([fill_holes(q > 0.5) for q in foreground])


@MASK_REFINERS.register("none")
def no_refiner(image: npt.NDArray[np.uint8], masks: Masks, settings: Any) -> Masks:
    """Return a copy of the masks; ValueError if they do not fit the image."""
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(f"masks {masks.shape} do not fit the image {image.shape}")
    return masks.copy()


def fill_holes(mask: Masks) -> Masks:
    """Return the (H, W) bool mask with background that no 4-path joins to the border filled.

    Examples:
        >>> ring = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]], dtype=bool)
        >>> fill_holes(ring).astype(int).tolist()
        [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    """
    filled: Masks = binary_fill_holes(mask)
    return filled


def agrees(before: Masks, after: Masks, min_iou: float) -> bool:
    """Return whether refinement kept the object: IoU of both masks >= ``min_iou``.

    Two empty masks disagree: there is no object to keep. (CutLER divides 0 by 0 there and the
    comparison with NaN keeps the mask.)

    Args:
        before: (H, W) bool.
        after: (H, W) bool, same shape.
        min_iou: 0..1.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        IoU = 2 / 4:

        >>> before = np.array([1, 1, 1, 0], dtype=bool)[None]
        >>> after = np.array([0, 1, 1, 1], dtype=bool)[None]
        >>> agrees(before, after, 0.5), agrees(before, after, 0.51)
        (True, False)
    """
    if before.shape != after.shape:
        raise ValueError(f"masks differ in shape: {before.shape} and {after.shape}")
    union = int(np.count_nonzero(before | after))
    return union > 0 and int(np.count_nonzero(before & after)) >= min_iou * union
