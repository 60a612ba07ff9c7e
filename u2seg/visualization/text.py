"""Text on pictures: one font at any size, tags that stay legible and inside the picture.

Coordinates are pixels, (x, y), x to the right, y down.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


@functools.lru_cache(maxsize=16)
def font(size: int) -> Font:
    """Return Pillow's built-in font at ``size`` pixels; needs no font file on the machine."""
    return ImageFont.load_default(size)


def printable(text: str) -> str:
    r"""Return ``text`` on one line without control characters and undecodable bytes.

    Examples:
        >>> printable("a\nb\x00")
        'a b '
    """
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in clean)


def ink_on(background: Color) -> Color:
    """Return black or white, whichever is read more easily on ``background``.

    Examples:
        >>> ink_on((250, 240, 10)), ink_on((20, 20, 90))
        ((0, 0, 0), (255, 255, 255))
    """
    red, green, blue = background
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else WHITE


@dataclass(frozen=True)
class Tag:
    """A name to be written near a point.

    Args:
        text: What to write.
        x, y: Wanted centre in pixels.
        color: RGB of the box behind the text.
    """

    text: str
    x: int
    y: int
    color: Color


def draw_tags(image: Image.Image, tags: Sequence[Tag], size: int) -> int:
    """Write tags into ``image`` (changed in place) and return how many found room.

    Earlier tags win: a tag that would cover an earlier one is moved up or down by up to two
    heights, else left out; so is one that is wider than the picture.

    Args:
        image: RGB.
        tags: In order of importance.
        size: Height of the letters in pixels, >= 1.
    """
    pen = ImageDraw.Draw(image)
    taken: list[Box] = []
    for tag in tags:
        box = _place(image.size, tag, size, taken)
        if box is None:
            continue
        taken.append(box)
        pad = max(1, size // 5)
        pen.rounded_rectangle(box, radius=pad, fill=tag.color)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        pen.text(middle, printable(tag.text), fill=ink_on(tag.color), font=font(size), anchor="mm")
    return len(taken)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Return (width, height) in pixels of one line of text, height equal for every text."""
    left, _, right, _ = font(size).getbbox(printable(text))
    _, top, _, bottom = font(size).getbbox("Ag")
    return round(right - left), round(bottom - top)


def _place(bounds: tuple[int, int], tag: Tag, size: int, taken: list[Box]) -> Box | None:
    width, height = text_size(tag.text, size)
    pad = max(1, size // 5)
    width, height = width + 2 * pad, height + 2 * pad
    if width > bounds[0] or height > bounds[1]:
        return None
    left = min(max(tag.x - width // 2, 0), bounds[0] - width)
    wanted = min(max(tag.y - height // 2, 0), bounds[1] - height)
    for shift in (0, -1, 1, -2, 2):
        top = wanted + shift * height
        if not 0 <= top <= bounds[1] - height:
            continue
        box = (left, top, left + width - 1, top + height - 1)
        if not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(one: Box, two: Box) -> bool:
    return one[0] <= two[2] and two[0] <= one[2] and one[1] <= two[3] and two[1] <= one[3]
