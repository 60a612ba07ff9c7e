"""8-bit label maps and COCO panoptic colour codes as PNG files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.errors import UserError
from u2seg.io.atomic import write_bytes
from u2seg.io.images import DEFAULT_MAX_PIXELS, allow_pixels
from u2seg.structures.panoptic import ids_to_rgb, rgb_to_ids

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
"""PNG's number of the filter that subtracts the row above."""

FAST_FROM = 100
"""Images from which on numba's start pays for decoding PNGs with it."""


def write_label_png(path: Path | str, labels: npt.NDArray[np.uint8]) -> None:
    """Write an (H, W) uint8 label map as a greyscale PNG, atomically."""
    _save(path, np.ascontiguousarray(labels, dtype=np.uint8))


def write_panoptic_png(path: Path | str, ids: npt.NDArray[np.int32]) -> None:
    """Write an (H, W) int32 id map (0..2^24-1) as an RGB PNG, atomically."""
    _save(path, ids_to_rgb(ids))


def read_label_png(
    path: Path | str, max_pixels: int = DEFAULT_MAX_PIXELS, *, fast: bool = False
) -> npt.NDArray[np.uint8]:
    """Return the (H, W) uint8 label map of a greyscale PNG.

    Args:
        path: The file.
        max_pixels: Larger images are refused.
        fast: Decode with numba where it is installed; worth its start for many files.

    Raises:
        UserError: if the file is missing, unreadable, larger than ``max_pixels`` or not 8-bit
            greyscale (palette counts as greyscale: the index is the label).
    """
    if fast and (labels := _fast(path, "decode_labels", max_pixels)) is not None:
        return labels.astype(np.uint8, copy=False)
    image = _open(path, max_pixels)
    if image.mode not in ("L", "P"):
        raise UserError(f"{path} must be an 8-bit greyscale PNG, its mode is {image.mode}")
    return np.asarray(image, dtype=np.uint8)


def read_wide_png(path: Path | str) -> npt.NDArray[np.int32]:
    """Return the (H, W) int32 values of an 8-bit or 16-bit greyscale PNG, 0..65535.

    Raises:
        UserError: if the file is missing, unreadable or not greyscale (palette counts as such).
    """
    image = _open(path, DEFAULT_MAX_PIXELS)
    if image.mode not in ("L", "P", "I", "I;16"):
        raise UserError(
            f"{path} must be an 8-bit or 16-bit greyscale PNG, its mode is {image.mode}"
        )
    return np.asarray(image).astype(np.int32)


def read_panoptic_png(path: Path | str, *, fast: bool = False) -> npt.NDArray[np.int32]:
    """Return the (H, W) int32 id map of a COCO panoptic PNG.

    Args:
        path: The file.
        fast: Decode with numba where it is installed; worth its start for many files.

    Raises:
        UserError: if the file is missing, unreadable or not RGB.
    """
    if fast and (ids := _fast(path, "decode_ids", DEFAULT_MAX_PIXELS)) is not None:
        return ids.astype(np.int32, copy=False)
    image = _open(path, DEFAULT_MAX_PIXELS)
    if image.mode not in ("RGB", "RGBA"):
        raise UserError(f"{path} must be an RGB PNG of panoptic ids, its mode is {image.mode}")
    return rgb_to_ids(np.asarray(image.convert("RGB"), dtype=np.uint8))


def _fast(path: Path | str, what: str, max_pixels: int) -> npt.NDArray[np.integer] | None:
    """Return what ``fastpng`` makes of a file; None if it cannot, or numba is not installed."""
    try:
        from u2seg.io import fastpng
    except ImportError:  # no numba
        return None
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None  # Pillow's way says what is wrong
    pixels: npt.NDArray[np.integer] | None = getattr(fastpng, what)(content, max_pixels)
    return pixels


def png_size(path: Path | str) -> tuple[int, int]:
    """Return (H, W) of a PNG from its header; pixels are not read.

    Raises:
        UserError: if the file is missing or does not begin as a PNG.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(24)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read the PNG {path}: {error}") from error
    if len(head) < 24 or head[:8] != _SIGNATURE or head[12:16] != b"IHDR":
        raise UserError(f"cannot read the PNG {path}: it does not begin as a PNG file")
    width, height = struct.unpack(">II", head[16:24])
    return height, width


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


def encode_map(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a map of few, large regions as PNG: about as small as Pillow's, ten times as fast.

    Every row is stored as its difference to the row above (filter "up"), which is zero but at
    outlines, and only runs of one byte are looked for.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.

    Source: PNG specification (ISO/IEC 15948), sections 5 and 9.
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), dtype=np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    packer = zlib.compressobj(6, strategy=zlib.Z_RLE)
    packed = packer.compress(filtered.data) + packer.flush()
    color = 2 if pixels.ndim == 3 else 0
    head = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _save(path: Path | str, pixels: npt.NDArray[np.uint8]) -> None:
    write_bytes(path, encode_map(pixels))
