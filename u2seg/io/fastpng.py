"""Decode the PNGs of label maps about four times as fast as Pillow, with numba.

Label maps are a few large regions: hundreds of kilobytes of pixels in a few kilobytes of file.
Most of the time of a general decoder goes into calls per row and into copies; here one pass
inflates and one undoes the row filters.

Whatever is unusual (interlacing, 16 bits, transparency, damage of any kind) gives None: the
caller then asks Pillow, which reads it or says what is wrong.

Source: PNG specification (ISO/IEC 15948), sections 5 to 10 and RFC 1950.
"""

from __future__ import annotations

import struct
import threading
import zlib

import numpy as np
import numpy.typing as npt

from u2seg.io.inflate import FAILED, Bytes, inflate
from u2seg.io.jit import compiled

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3
"""Colour types of one byte, three bytes and one index per pixel."""


def decode_ids(data: bytes, max_pixels: int) -> npt.NDArray[np.int32] | None:
    """Return the ids of a panoptic PNG, or None if it is unusual or damaged.

    Args:
        data: The file.
        max_pixels: Larger images give None.

    Returns:
        (H, W) int32, R + 256 G + 65536 B.
    """
    found = _rows(data, max_pixels, {RGB: 3})
    if found is None:
        return None
    rows, width = found
    ids = np.empty((len(rows), width), dtype=np.int32)
    _combine(rows.reshape(-1), ids)
    return ids


def decode_rows(data: bytes, max_pixels: int, slot: int) -> tuple[Bytes, int] | None:
    """Return the pixels of a panoptic PNG as they lie in it, or None as ``decode_ids``.

    Args:
        data: The file.
        max_pixels: Larger images give None.
        slot: The result is this thread's until it decodes into the same slot again; 0 is used
            by ``decode_ids`` and ``decode_labels``.

    Returns:
        (H, 1 + 3 W) uint8, each row after a byte without meaning, and W.
    """
    return _rows(data, max_pixels, {RGB: 3}, slot)


def decode_labels(data: bytes, max_pixels: int) -> Bytes | None:
    """Return the (H, W) uint8 map of a greyscale or palette PNG, or None as ``decode_ids``."""
    found = _rows(data, max_pixels, {GREY: 1, PALETTE: 1})
    return None if found is None else found[0][:, 1:].copy()


class _Kept(threading.local):
    """Buffers of a thread by slot."""

    def __init__(self) -> None:
        self.slots: dict[int, Bytes] = {}


_kept = _Kept()
_KEEP = 1 << 24
"""Bytes of the largest buffer that is kept: 5 million pixels."""


def _buffer(size: int, slot: int) -> Bytes:
    """Return memory that is this thread's until it asks again: fresh pages cost a fault each."""
    if size > _KEEP:
        return np.empty(size, dtype=np.uint8)
    kept = _kept.slots
    if slot not in kept or kept[slot].size < size:
        kept[slot] = np.empty(size, dtype=np.uint8)
    return kept[slot][:size]


def _rows(
    data: bytes, max_pixels: int, steps: dict[int, int], slot: int = 0
) -> tuple[Bytes, int] | None:
    """Return (H, 1 + step * W) rows, each after a byte without meaning, and W.

    Args:
        data: The file.
        max_pixels: Larger images give None.
        steps: Colour type -> bytes of a pixel, for the types that are read.
        slot: See ``decode_rows``.
    """
    read = _chunks(data)
    if read is None:
        return None
    (width, height, depth, color, *rest), packed = read
    step = steps.get(color)
    if step is None or depth != 8 or any(rest) or not 0 < width * height <= max_pixels:
        return None
    if not _is_deflate(packed):
        return None
    flat = _buffer(height * (1 + step * width), slot)
    rows = flat.reshape(height, -1)
    if inflate(np.frombuffer(packed, dtype=np.uint8)[2:], flat) != len(flat):
        return None
    return None if _unfilter(flat, rows.shape[1], step) == FAILED else (rows, width)


def _chunks(data: bytes) -> tuple[tuple[int, ...], bytes] | None:
    """Return the header and the joined image data; None if a chunk is damaged or unusual."""
    if not data.startswith(SIGNATURE):
        return None
    place, header, packed = len(SIGNATURE), None, []
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        end = place + 12 + length
        if end > len(data) or data[end - 4 : end] != _checksum(kind, body):
            return None
        if kind == b"IHDR" and length == 13:
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed.append(body)
        elif kind == b"IEND":
            break
        elif kind == b"tRNS":
            return None
        place = end
    return None if header is None else (header, b"".join(packed))


def _checksum(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _is_deflate(packed: bytes) -> bool:
    """Return whether the two bytes of a zlib header stand there, without a dictionary."""
    if len(packed) < 2:
        return False
    return packed[0] & 15 == 8 and not packed[1] & 32 and (packed[0] * 256 + packed[1]) % 31 == 0


@compiled
def _sub(row: Bytes, step: int) -> None:
    for channel in range(step):
        left = row[channel]
        for x in range(channel + step, len(row), step):
            left = np.uint8(left + row[x])
            row[x] = left


@compiled
def _average(row: Bytes, above: Bytes, step: int) -> None:
    for x in range(step):
        row[x] += above[x] >> 1
    for x in range(step, len(row)):
        row[x] = np.uint8(row[x] + ((np.int32(row[x - step]) + np.int32(above[x])) >> 1))


@compiled
def _paeth(row: Bytes, above: Bytes, step: int) -> None:
    for channel in range(step):
        row[channel] += above[channel]
        left, corner = np.int32(row[channel]), np.int32(above[channel])
        for x in range(channel + step, len(row), step):
            top = np.int32(above[x])
            if left == corner:
                guess = top
            elif top == corner:
                guess = left
            else:
                to_left, to_top = abs(top - corner), abs(left - corner)
                to_corner = abs(left + top - 2 * corner)
                guess = top if to_top <= to_corner else corner
                if to_left <= to_top and to_left <= to_corner:
                    guess = left
            left = (guess + np.int32(row[x])) & 255
            row[x] = np.uint8(left)
            corner = top


@compiled
def _unfilter(rows: Bytes, length: int, step: int) -> int:
    """Undo the row filters in place; return -1 if there is an unknown one.

    Args:
        rows: (H * L,) filter type and bytes of each row.
        length: L = 1 + step * W.
        step: Bytes of a pixel.
    """
    above = np.zeros(length - 1, dtype=np.uint8)
    for start in range(0, len(rows), length):
        kind, row = rows[start], rows[start + 1 : start + length]
        if kind == 1:
            _sub(row, step)
        elif kind == 2:
            for x in range(len(row)):
                row[x] += above[x]
        elif kind == 3:
            _average(row, above, step)
        elif kind == 4:
            _paeth(row, above, step)
        elif kind != 0:
            return FAILED
        above = row
    return 0


@compiled
def _combine(rows: Bytes, ids: npt.NDArray[np.int32]) -> None:
    """Fill (H, W) ids from (H * (1 + 3 W),) rows."""
    height, width = ids.shape
    for y in range(height):
        start = y * (3 * width + 1) + 1
        row = rows[start : start + 3 * width]
        for x in range(width):
            ids[y, x] = (
                np.int32(row[3 * x])
                | (np.int32(row[3 * x + 1]) << 8)
                | (np.int32(row[3 * x + 2]) << 16)
            )
