"""Put pictures together: side by side with captions, colour legends, crops; and encode them.

Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from u2seg.errors import UserError
from u2seg.io.atomic import write_bytes
from u2seg.visualization.draw import Color, Rgb, font, printable, text_size

PAPER: Color = (250, 250, 250)
INK: Color = (30, 30, 30)
MARGIN = 0.12
"""Share of a box added on every side, so that a crop shows a little of its surroundings."""
JPEG_QUALITY = 80


def shrink(image: Rgb, longest: int, *, labels: bool = False) -> Rgb:
    """Return an (H, W, 3) picture with its longer side at most ``longest`` px; never enlarged.

    With ``labels`` the nearest pixel is taken instead of averaging, for (H, W) id maps.

    Examples:
        >>> shrink(np.zeros((10, 40, 3), np.uint8), 20).shape
        (5, 20, 3)
    """
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if labels else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(image).resize(size, how))


def magnify(pixels: npt.NDArray[Any], longest: int) -> npt.NDArray[Any]:
    """Return a tiny (H, W, ...) picture or map with every pixel repeated, ``longest`` px at most.

    Examples:
        >>> magnify(np.array([[1, 2]]), 4).tolist()
        [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    factor = max(1, longest // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def side_by_side(images: Sequence[Rgb], captions: Sequence[str] = (), *, gap: int = 8) -> Rgb:
    """Return (H, W, 3) pictures in one row, scaled to one height, each under its caption."""
    height = max(image.shape[0] for image in images)
    scaled = []
    for image in images:
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        scaled.append(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    size = int(np.clip(height // 20, 11, 40))
    strip = 2 * size if captions else 0
    total = sum(picture.width for picture in scaled) + gap * (len(scaled) - 1)
    sheet = Image.new("RGB", (total, height + strip), PAPER)
    pen = ImageDraw.Draw(sheet)
    left = 0
    for number, picture in enumerate(scaled):
        sheet.paste(picture, (left, strip))
        if captions:
            text = fit_text(captions[number], size, picture.width)
            pen.text((left, strip // 2), text, fill=INK, font=font(size), anchor="lm")
        left += picture.width + gap
    return np.array(sheet)


def fit_text(text: str, size: int, width: int) -> str:
    """Return ``text`` cut with an ellipsis so that it is at most ``width`` pixels wide."""
    text = printable(text)
    if text_size(text, size)[0] <= width:
        return text
    while text and text_size(text + "…", size)[0] > width:
        text = text[:-1]
    return text + "…" if text else ""


def draw_legend(entries: Sequence[tuple[str, Color]], *, width: int = 640, size: int = 16) -> Rgb:
    """Return colour squares with names, (name, RGB) each, in as many columns as fit ``width``."""
    if not entries:
        raise UserError("a legend needs at least one entry")
    row = round(1.6 * size)
    widest = max(text_size(name, size)[0] for name, _ in entries)
    cell = min(width, row + widest + size)
    columns = max(1, width // cell)
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (width, rows * row + size // 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, color) in enumerate(entries):
        left = (number // rows) * cell + size // 4
        top = (number % rows) * row + size // 4
        pen.rectangle((left, top, left + size, top + size), fill=color, outline=INK)
        place = (left + row, top + size // 2)
        pen.text(place, fit_text(name, size, cell - row), fill=INK, font=font(size), anchor="lm")
    return np.array(sheet)


def write_picture(path: Path, pixels: Rgb) -> None:
    """Write an (H, W, 3) uint8 RGB picture in the format of its ending, atomically."""
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: no format of pictures ends with {path.suffix!r}, .png does")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, quality=92)  # PNG has no quality
    write_bytes(path, buffer.getvalue())


def masked_crop(
    image: Rgb, mask: npt.NDArray[np.bool_], *, side: int = 96, rim: Color | None = None
) -> Rgb:
    """Return a (side, side, 3) crop around a mask, everything outside it faded to pale grey."""
    if mask.shape != image.shape[:2]:
        raise UserError(f"mask {mask.shape} and image {image.shape[:2]} differ in size")
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise UserError("an empty mask has no crop")
    top, left = int(rows[0]), int(cols[0])
    height, width = int(rows[-1]) - top + 1, int(cols[-1]) - left + 1
    reach = max(1, round(max(height, width) * (1 + 2 * MARGIN)))
    y, x = top + (height - reach) // 2, left + (width - reach) // 2
    window = (slice(max(0, y), y + reach), slice(max(0, x), x + reach))
    part, inside = image[window].astype(np.uint16), mask[window]
    grey = (part.sum(axis=2, keepdims=True) // 3 + 3 * 225) // 4
    part = np.where(inside[..., None], part, grey).astype(np.uint8)
    square = np.full((reach, reach, 3), 236, dtype=np.uint8)
    y0, x0 = max(0, -y), max(0, -x)
    place = (slice(y0, y0 + part.shape[0]), slice(x0, x0 + part.shape[1]))
    square[place] = part
    crop = np.array(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))
    if rim is not None:
        shape = np.zeros((reach, reach), dtype=np.uint8)
        shape[place] = inside
        small = Image.fromarray(shape).resize((side, side), Image.Resampling.NEAREST)
        filled = np.asarray(small) > 0
        crop[ndimage.binary_dilation(filled) & ~filled] = rim
    return crop


def encode_picture(picture: Rgb) -> bytes:
    """Return a picture as the content of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def data_uri(picture: Rgb) -> str:
    """Return a picture as a JPEG ``data:`` URI."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_picture(picture)).decode("ascii")
