"""8-bit label maps and COCO panoptic colour codes as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.errors import UserError
from u2seg.io.atomic import atomic_file
from u2seg.io.images import DEFAULT_MAX_PIXELS, allow_pixels
from u2seg.structures.panoptic import ids_to_rgb, rgb_to_ids


def write_label_png(path: Path | str, labels: npt.NDArray[np.uint8]) -> None:
    """Write an (H, W) uint8 label map as a greyscale PNG, atomically."""
    _save(path, np.ascontiguousarray(labels, dtype=np.uint8))


def write_panoptic_png(path: Path | str, ids: npt.NDArray[np.int32]) -> None:
    """Write an (H, W) int32 id map (0..2^24-1) as an RGB PNG, atomically."""
    _save(path, ids_to_rgb(ids))


def read_label_png(path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return the (H, W) uint8 label map of a greyscale PNG.

    Raises:
        UserError: if the file is missing, unreadable, larger than ``max_pixels`` or not 8-bit
            greyscale (palette counts as greyscale: the index is the label).
    """
    image = _open(path, max_pixels)
    if image.mode not in ("L", "P"):
        raise UserError(f"{path} must be an 8-bit greyscale PNG, its mode is {image.mode}")
    return np.asarray(image, dtype=np.uint8)


def read_panoptic_png(path: Path | str) -> npt.NDArray[np.int32]:
    """Return the (H, W) int32 id map of a COCO panoptic PNG.

    Raises:
        UserError: if the file is missing, unreadable or not RGB.
    """
    image = _open(path, DEFAULT_MAX_PIXELS)
    if image.mode not in ("RGB", "RGBA"):
        raise UserError(f"{path} must be an RGB PNG of panoptic ids, its mode is {image.mode}")
    return rgb_to_ids(np.asarray(image.convert("RGB"), dtype=np.uint8))


def _open(path: Path | str, max_pixels: int) -> Image.Image:
    allow_pixels(max_pixels)
    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > max_pixels:
                raise UserError(f"{path} declares {image.size[0]}x{image.size[1]} pixels: too many")
            image.load()
            return image
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read the PNG {path}: {error}") from error


def _save(path: Path | str, pixels: npt.NDArray[np.uint8]) -> None:
    with atomic_file(path) as file:
        Image.fromarray(pixels).save(file, format="PNG", compress_level=6)
