"""Draw labels on photographs: panoptic labels, masks that may overlap, stuff maps; and names.

Shapes: H x W pixels. Images are (H, W, 3) uint8 RGB, row-major, y down. Colours of categories
come from ``LabelSpace.colors()`` alone, so one id has one colour in every picture. Blending is
integer arithmetic and therefore the same on every machine: ``(p * (256 - a) + c * a) >> 8`` with
``a = round(256 * alpha)``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from u2seg.errors import UserError
from u2seg.structures.labels import VOID_ID, VOID_STUFF, LabelSpace
from u2seg.structures.panoptic import PanopticLabel

Rgb = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
Box = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MIN_OUTLINE_SIDE = 48
"""Pictures with a shorter side get no outlines: they would cover what they enclose."""
MIN_NAMES_SIDE = 64
"""Pictures with a shorter side get no names: nobody could read them."""
_MIN_NAMED_SHARE = 0.002


def draw_panoptic(
    image: Rgb,
    label: PanopticLabel,
    space: LabelSpace,
    *,
    alpha: float = 0.5,
    names: bool = True,
    name_size: int = 0,
) -> Rgb:
    """Return the photograph with its segments coloured and named, things outlined.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: Its ids are (H, W); void pixels keep the photograph.
        space: Gives colours and names of the categories.
        alpha: Opacity of the colours, 0 (photograph) .. 1 (flat colour).
        names: Write names, unless the shorter side is below 64 px; of segments from 0.2 % of the
            picture on, where there is room. A score below 1 stands behind the name in percent.
        name_size: Height of the letters in pixels; 0 = 1/26 of the shorter side, 10..64.

    Raises:
        UserError: if the sizes differ, ``alpha`` is outside 0..1, an id of the map has no
            segment, or a category is not in ``space``.

    Examples:
        >>> from u2seg.structures.panoptic import Segment
        >>> ids = np.array([[0, 1]], dtype=np.int32)
        >>> label = PanopticLabel(ids, (Segment(1, 1, True, 1, (1.0, 0.0, 1.0, 1.0)),))
        >>> LabelSpace(1, 0).colors().tolist()
        [[140, 21, 21]]
        >>> draw_panoptic(np.full((1, 2, 3), 100, np.uint8), label, LabelSpace(1, 0)).tolist()
        [[[100, 100, 100], [120, 60, 60]]]
    """
    present, index = np.unique(label.ids, return_inverse=True)
    index = index.reshape(label.ids.shape)
    colors = _segment_colors(present.tolist(), label, space)
    canvas = _paint(image, index, colors, alpha, clear=np.flatnonzero(present == 0))
    width = _outline_width(index)
    if width:
        things = [s.id for s in label.segments if s.isthing]
        rim = borders(index, width) & np.isin(label.ids, things)
        canvas[rim] = colors[index[rim]] // 2
    return _write_names(canvas, label, space, name_size) if names else canvas


def draw_masks(image: Rgb, masks: Sequence[npt.NDArray[np.bool_]], *, alpha: float = 0.5) -> Rgb:
    """Return the photograph with (H, W) bool masks, one colour each.

    Masks may overlap or lie inside each other: small ones are drawn above large ones, and every
    one is outlined, also where others cover it.

    Raises:
        UserError: if a mask has another size than the image or ``alpha`` is outside 0..1.
    """
    top = np.zeros(image.shape[:2], dtype=np.int32)
    for mask in masks:
        _check(image, mask)
    order = sorted(range(len(masks)), key=lambda i: -int(np.count_nonzero(masks[i])))
    for number in order:
        top[masks[number]] = number + 1
    colors = np.zeros((len(masks) + 1, 3), dtype=np.uint8)
    if masks:
        colors[1:] = LabelSpace(len(masks), 0).colors()
    canvas = _paint(image, top, colors, alpha, clear=[0])
    width = _outline_width(top)
    for number in order if width else ():
        canvas[borders(masks[number], width) & masks[number]] = colors[number + 1] // 2
    return canvas


def draw_stuff(
    image: Rgb,
    stuff: npt.NDArray[np.uint8],
    space: LabelSpace,
    *,
    alpha: float = 0.6,
    target: bool = False,
) -> Rgb:
    """Return a stuff map in colours over the photograph; void keeps the photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        stuff: (H, W) uint8: a semantics map (0..S-1 stuff cluster, 255 void), or with
            ``target`` a Panoptic-FPN target (0 any thing, 1..S stuff, 255 void).
        space: Gives the colours.
        alpha: Opacity over the photograph, 0..1.
        target: Which of the two numberings ``stuff`` has. Things are drawn as white.

    Raises:
        UserError: if the sizes differ, ``alpha`` is outside 0..1 or a value is no stuff id.
    """
    known = space.num_stuff + int(target)
    wrong = np.unique(stuff[(stuff >= known) & (stuff != VOID_STUFF)])
    if wrong.size:
        raise UserError(
            f"the stuff map holds the value {wrong[0]}; with {space.num_stuff} stuff clusters "
            f"it may hold 0..{known - 1} and {VOID_STUFF}"
        )
    colors = np.full((256, 3), 255, dtype=np.uint8)
    colors[int(target) : known] = space.colors()[space.num_things :]
    return _paint(image, stuff, colors, alpha, clear=[VOID_STUFF])


def _check(image: Rgb, labels: npt.NDArray[np.generic]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if labels.shape != image.shape[:2]:
        sizes = (" x ".join(map(str, shape)) for shape in (labels.shape, image.shape[:2]))
        raise UserError("the label is {} (height x width) but the image is {}".format(*sizes))


def _paint(
    image: Rgb, index: npt.NDArray[Any], colors: Rgb, alpha: float, clear: Sequence[int] | Any
) -> Rgb:
    """Return the image under ``colors[index]``; rows of ``colors`` in ``clear`` are transparent."""
    _check(image, index)
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha must be 0..1, got {alpha}")
    opacity = np.full(len(colors), round(256 * alpha), dtype=np.uint16)
    opacity[clear] = 0
    weight = opacity[index][..., None]
    mixed = image.astype(np.uint16) * (256 - weight) + colors[index].astype(np.uint16) * weight
    painted: Rgb = (mixed >> 8).astype(np.uint8)
    return painted


def _segment_colors(present: Sequence[int], label: PanopticLabel, space: LabelSpace) -> Rgb:
    """Return the colour (n, 3) of each id that occurs; black for void."""
    palette = space.colors()
    category = {segment.id: segment.category_id for segment in label.segments}
    colors = np.zeros((len(present), 3), dtype=np.uint8)
    for row, segment_id in enumerate(present):
        if segment_id == VOID_ID:
            continue
        if segment_id not in category:
            raise UserError(f"the id map holds {segment_id}, which no segment of the label has")
        space.is_thing(category[segment_id])  # raises outside 1..K+S
        colors[row] = palette[category[segment_id] - 1]
    return colors


def borders(index: npt.NDArray[np.generic], width: int = 1) -> npt.NDArray[np.bool_]:
    """Return the pixels of a map that lie beside another value, up to ``width`` pixels deep.

    Examples:
        >>> borders(np.array([[1, 1, 2, 2, 2]])).astype(int).tolist()
        [[0, 1, 1, 0, 0]]
    """
    edge = np.zeros(index.shape, dtype=bool)
    for step in range(1, width + 1):
        across, down = index[:, step:] != index[:, :-step], index[step:] != index[:-step]
        edge[:, step:] |= across
        edge[:, :-step] |= across
        edge[step:] |= down
        edge[:-step] |= down
    return edge


def _outline_width(index: npt.NDArray[np.generic]) -> int:
    """Return how many pixels wide outlines are; 0 in pictures too small for them."""
    side = min(index.shape)
    return max(1, round(side / 350)) if side >= MIN_OUTLINE_SIDE else 0


def _write_names(canvas: Rgb, label: PanopticLabel, space: LabelSpace, size: int) -> Rgb:
    height, width = canvas.shape[:2]
    if min(height, width) < MIN_NAMES_SIDE:
        return canvas
    palette = space.colors()
    step = max(1, max(height, width) // 256)
    small = label.ids[::step, ::step]
    segments = sorted(label.segments, key=lambda s: (not s.isthing, -s.area))
    tags = []
    for segment in segments:
        inside = small == segment.id
        if np.count_nonzero(inside) < max(1.0, _MIN_NAMED_SHARE * small.size):
            continue
        x, y = _deepest(inside)
        red, green, blue = (int(c) for c in palette[segment.category_id - 1])
        text = space.name(segment.category_id)
        if segment.score < 1:
            text += f": {round(100 * segment.score)} %"
        tags.append(Tag(text, x * step, y * step, (red, green, blue)))
    picture = Image.fromarray(canvas)
    draw_tags(picture, tags, size or letter_size(height, width))
    return np.array(picture)


def letter_size(height: int, width: int) -> int:
    """Return the height of letters, in pixels, that suits a picture of this size."""
    return int(np.clip(round(min(height, width) / 26), 10, 64))


def _deepest(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return (x, y) of the pixel farthest from the border of the mask."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(depth)), mask.shape)
    return int(x), int(y)


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


def text_size(text: str, size: int) -> tuple[int, int]:
    """Return (width, height) in pixels of one line of text, height equal for every text."""
    left, _, right, _ = font(size).getbbox(printable(text))
    _, top, _, bottom = font(size).getbbox("Ag")
    return round(right - left), round(bottom - top)


@dataclass(frozen=True)
class Tag:
    """A name to be written with its centre near (x, y); ``color`` is that of its box."""

    text: str
    x: int
    y: int
    color: Color


def draw_tags(image: Image.Image, tags: Sequence[Tag], size: int) -> int:
    """Write tags into an RGB ``image`` in place, letters ``size`` px high; return how many fit.

    Earlier tags win: a tag that would cover an earlier one is moved up or down by up to two
    heights, else left out; so is one that is wider than the picture.
    """
    pen = ImageDraw.Draw(image)
    taken: list[Box] = []
    for tag in tags:
        box = _place(image.size, tag, size, taken)
        if box is None:
            continue
        taken.append(box)
        pen.rounded_rectangle(box, radius=max(1, size // 5), fill=tag.color)
        red, green, blue = tag.color
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        pen.text(middle, printable(tag.text), fill=ink, font=font(size), anchor="mm")
    return len(taken)


def _place(bounds: tuple[int, int], tag: Tag, size: int, taken: list[Box]) -> Box | None:
    pad = max(1, size // 5)
    width, height = (length + 2 * pad for length in text_size(tag.text, size))
    if width > bounds[0] or height > bounds[1]:
        return None
    left = min(max(tag.x - width // 2, 0), bounds[0] - width)
    wanted = min(max(tag.y - height // 2, 0), bounds[1] - height)
    for shift in (0, -1, 1, -2, 2):
        top = wanted + shift * height
        box = (left, top, left + width - 1, top + height - 1)
        free = not any(
            box[0] <= b[2] and b[0] <= box[2] and box[1] <= b[3] and b[1] <= box[3] for b in taken
        )
        if free and 0 <= top <= bounds[1] - height:
            return box
    return None
