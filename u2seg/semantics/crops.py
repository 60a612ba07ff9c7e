"""The training set of five crops: each photograph is seen as its corners and its centre.

Shapes: H x W pixels.
Source: STEGO commit eb4d6b5, src/crop_datasets.py (``cropped_datasets``, five crops, ratio 0.5).
"""

from __future__ import annotations

CROPS = {"none": 1, "five": 5}
"""``U2SEG.SEMANTICS.CROPS`` -> training images made of one photograph."""

Box = tuple[int, int, int, int]


def crop_box(kind: str, index: int, height: int, width: int, ratio: float) -> Box:
    """Return what part of a photograph training image ``index`` of it shows.

    Args:
        kind: A key of ``CROPS``.
        index: 0 .. ``CROPS[kind]`` - 1; of five: top left, top right, bottom left, bottom right,
            centre.
        height: H >= 1.
        width: W >= 1.
        ratio: Side of a crop over the side of the photograph, 0 < r <= 1; rounded down to pixels,
            at least one.

    Returns:
        (top, left, bottom, right) in pixels, the latter two exclusive.

    Examples:
        >>> [crop_box("five", i, 10, 20, 0.5) for i in (0, 3, 4)]
        [(0, 0, 5, 10), (5, 10, 10, 20), (2, 5, 7, 15)]
        >>> crop_box("none", 0, 10, 20, 0.5)
        (0, 0, 10, 20)
    """
    if kind == "none":
        return 0, 0, height, width
    tall, wide = max(1, int(height * ratio)), max(1, int(width * ratio))
    lower, right = height - tall, width - wide
    corners = ((0, 0), (0, right), (lower, 0), (lower, right))
    # round() takes halves to the even number, as torchvision's centre crop does.
    middle = (round(lower / 2), round(right / 2))
    top, left = (*corners, middle)[index]
    return top, left, top + tall, left + wide
