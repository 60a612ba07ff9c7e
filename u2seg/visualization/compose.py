"""Put pictures together: side by side with captions, and colour legends.

Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from u2seg.errors import UserError
from u2seg.io.atomic import write_bytes
from u2seg.visualization.text import Color, font, printable, text_size

Rgb = npt.NDArray[np.uint8]
PAPER: Color = (250, 250, 250)
INK: Color = (30, 30, 30)


def shrink(image: Rgb, longest: int, *, labels: bool = False) -> Rgb:
    """Return ``image`` with its longer side at most ``longest`` px; never enlarged.

    Args:
        image: (H, W, 3) uint8 RGB, or an (H, W) label map.
        longest: Pixels, >= 1.
        labels: Take the nearest pixel instead of averaging, for id-coded maps.

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
    """Return tiny pictures or id maps with every pixel repeated, so that names find room.

    Args:
        pixels: (H, W) or (H, W, 3), any dtype.
        longest: The longer side stays at most this, px; larger pictures come back as they are.

    Examples:
        >>> magnify(np.array([[1, 2]]), 4).tolist()
        [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    factor = max(1, longest // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def side_by_side(
    images: Sequence[Rgb], captions: Sequence[str] = (), *, height: int = 0, gap: int = 8
) -> Rgb:
    """Return pictures in one row, scaled to one height, each under its caption.

    Args:
        images: One or more (H, W, 3) uint8 RGB pictures of any size.
        captions: One line each, or none at all.
        height: Height of the pictures in pixels; 0 = the largest of them.
        gap: Pixels between pictures.

    Returns:
        (height + caption strip, sum of widths + gaps, 3) uint8.

    Raises:
        UserError: if there is no picture or the number of captions differs.
    """
    if not images or (captions and len(captions) != len(images)):
        raise UserError(f"{len(images)} pictures with {len(captions)} captions")
    height = height or max(image.shape[0] for image in images)
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
    """Return ``text`` cut with an ellipsis so that it is at most ``width`` pixels wide.

    Examples:
        >>> fit_text("a caption", 12, 500), fit_text("a caption", 12, 0)
        ('a caption', '')
    """
    text = printable(text)
    if text_size(text, size)[0] <= width:
        return text
    while text and text_size(text + "…", size)[0] > width:
        text = text[:-1]
    return text + "…" if text else ""


def draw_legend(entries: Sequence[tuple[str, Color]], *, width: int = 640, size: int = 16) -> Rgb:
    """Return a legend: colour squares with names, in as many columns as fit.

    Args:
        entries: (name, RGB) each; at least one.
        width: Pixels.
        size: Height of the letters in pixels.

    Raises:
        UserError: if there is no entry.
    """
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
    """Write an (H, W, 3) uint8 RGB picture in the format of its ending, atomically.

    Raises:
        UserError: if Pillow knows no such format or the file cannot be written.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: no format of pictures ends with {path.suffix!r}, .png does")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, quality=92)  # PNG has no quality
    write_bytes(path, buffer.getvalue())
