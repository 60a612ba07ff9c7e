"""Masks that know nothing of objects: what a method must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.masks import MaskTruth
from u2seg.io.images import BadImageError, read_image
from u2seg.io.packaged import install_command
from u2seg.io.paths import safe_join
from u2seg.io.progress import Bar
from u2seg.structures.masks import InstanceMask

BOX_SIDE = 0.5
"""Sides of the centred box as a share of the image's sides; a quarter of its area."""
SLIC_SEGMENTS = 25
SLIC_COMPACTNESS = 10.0
"""Settings of the superpixels: scikit-image's default compactness, 5 x 5 cells on average."""


def centered_box(size: tuple[int, int]) -> InstanceMask:
    """Return one box in the middle of an (H, W) image, half as high and wide; score 1.

    Examples:
        >>> centered_box((4, 8)).bbox
        (2.0, 1.0, 4.0, 2.0)
    """
    height, width = size
    mask = np.zeros(size, dtype=bool)
    top, left = round(height * (1 - BOX_SIDE) / 2), round(width * (1 - BOX_SIDE) / 2)
    mask[top : height - top, left : width - left] = True
    return InstanceMask.from_array(mask)


def slic_superpixels(image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
    """Return about 25 superpixels that cover an image; the score is the share of the image.

    Args:
        image: (H, W, 3) uint8 RGB.

    Source: Achanta et al., "SLIC Superpixels", PAMI 2012; computed by scikit-image.

    Raises:
        UserError: if scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise UserError(f"superpixels need scikit-image: {install_command('labels')}") from error
    cells = slic(image, n_segments=SLIC_SEGMENTS, compactness=SLIC_COMPACTNESS, start_label=1)
    pixels = cells.size
    masks = (cells == cell for cell in np.unique(cells))
    return [InstanceMask.from_array(m, score=np.count_nonzero(m) / pixels) for m in masks]


def baseline_results(truth: MaskTruth, images: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the COCO results of each baseline on the images of a truth.

    Args:
        truth: Names the images.
        images: Folder the file names are relative to.

    Raises:
        UserError: if an image is missing, unreadable or of another size than the truth says.
    """
    results: dict[str, list[dict[str, Any]]] = {"centered_box": [], "slic_superpixels": []}
    for record in Bar(truth.images, desc="baselines"):
        path = safe_join(images, record["file_name"])
        try:
            image = read_image(path)
        except BadImageError as error:
            raise UserError(f"{path}: {error}; --images must be the truth's folder") from error
        size = (record["height"], record["width"])
        if image.shape[:2] != size:
            raise UserError(f"{path} is {image.shape[:2]}, {truth.source} says {size} (H, W)")
        results["centered_box"].append(centered_box(size).to_result(record["id"]))
        results["slic_superpixels"].extend(
            mask.to_result(record["id"]) for mask in slic_superpixels(image)
        )
    return results
