"""A table of shares as a picture: one square per row and column, the darker the larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

CELL = 22
"""Side of a square in pixels."""
INK = "#3b82c4"
MARK = "#d9822b"
_LETTER = 6.6
_LEAST = 0.005
"""Shares below this are not drawn."""
_LONGEST = 24
_TEXT_FROM = 0.1
"""Shares from this on are written into their square."""


def matrix_chart(
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Mapping[tuple[int, int], float],
    marked: Sequence[tuple[int, int]] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a matrix as an ``<svg>`` element, or a note in words if it is empty.

    Args:
        rows: Names, written to the left.
        columns: Names, written above, slanted.
        shares: (row, column) -> 0..1; missing cells are 0.
        marked: Cells with a frame.
        notes: What is written behind each row; none by default.

    Returns:
        Squares of 22 px whose opacity is the share; shares of at least 10 % are written into
        them in percent.
    """
    if not rows or not columns:
        return '<p class="none">nothing to draw</p>'
    names = [_short(name) for name in rows]
    heads = [_short(name) for name in columns]
    left = 12 + round(_LETTER * max(map(len, names)))
    top = 14 + round(0.72 * _LETTER * max(map(len, heads)))
    right = 10 + round(_LETTER * max([len(n) for n in notes], default=0))
    slant = round(0.72 * _LETTER * len(heads[-1]))
    width = left + CELL * len(heads) + max(right, slant) + 8
    height = top + CELL * len(names) + 6
    parts = [_frame(left, top, len(names), len(heads))]
    for column, name in enumerate(heads):
        x, y = left + CELL * column + CELL // 2, top - 6
        parts.append(f'<text x="{x}" y="{y}" transform="rotate(-45 {x} {y})">{escape(name)}</text>')
    for row, name in enumerate(names):
        y = top + CELL * row
        parts.append(f'<text x="{left - 6}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        if row < len(notes):
            x = left + CELL * len(heads) + 6
            parts.append(f'<text x="{x}" y="{y + 15}">{escape(notes[row])}</text>')
    for (row, column), share in sorted(shares.items()):
        parts += _square(left + CELL * column, top + CELL * row, share)
    for row, column in marked:
        parts.append(
            f'<rect x="{left + CELL * column + 1}" y="{top + CELL * row + 1}" width="{CELL - 2}" '
            f'height="{CELL - 2}" fill="none" stroke="{MARK}" stroke-width="2"/>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="shares of rows in columns" font-size="12" fill="currentColor" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _frame(left: int, top: int, rows: int, columns: int) -> str:
    lines = "".join(
        f"M{left} {top + CELL * row}h{CELL * columns}" for row in range(rows + 1)
    ) + "".join(f"M{left + CELL * column} {top}v{CELL * rows}" for column in range(columns + 1))
    return f'<path d="{lines}" stroke="currentColor" stroke-opacity="0.15" fill="none"/>'


def _square(x: int, y: int, share: float) -> list[str]:
    if share < _LEAST:
        return []
    parts = [
        f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{INK}" '
        f'fill-opacity="{min(1.0, share):.2f}"/>'
    ]
    if share >= _TEXT_FROM:
        parts.append(
            f'<text x="{x + CELL // 2}" y="{y + 15}" text-anchor="middle" font-size="10">'
            f"{100 * share:.0f}</text>"
        )
    return parts


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
