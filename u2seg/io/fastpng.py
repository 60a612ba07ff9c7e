"""Decode the PNGs of label maps about four times as fast as Pillow, with numba.

Label maps are a few large regions: hundreds of kilobytes of pixels in a few kilobytes of file.
Most of the time of a general decoder goes into calls per row and into copies; here one pass
inflates and one undoes the row filters.

Whatever is unusual (interlacing, 16 bits, transparency, damage of any kind) gives None: the
caller then asks Pillow, which reads it or says what is wrong.

Source: PNG specification (ISO/IEC 15948), sections 5 to 10; RFC 1950 and RFC 1951.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3
"""Colour types of one byte, three bytes and one index per pixel."""
_LONGEST = 15
"""Bits of the longest Huffman code."""
_FAILED = -1
_LENGTH_BITS = np.repeat([0, 0, 1, 2, 3, 4, 5, 0], [4, 4, 4, 4, 4, 4, 4, 1])
_LENGTHS = 3 + np.concatenate([[0], np.cumsum(1 << _LENGTH_BITS[:-1])])
_LENGTHS[-1] = 258  # of code 285, which is one less than it would be
_DISTANCE_BITS = np.repeat(np.arange(14), [4] + [2] * 13)
_DISTANCES = 1 + np.concatenate([[0], np.cumsum(1 << _DISTANCE_BITS[:-1])])
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int32]
State = npt.NDArray[np.uint64]
"""Of the bit reader: bits not used yet (the next one lowest), their number, bytes read."""
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


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


def decode_labels(data: bytes, max_pixels: int) -> Bytes | None:
    """Return the (H, W) uint8 map of a greyscale or palette PNG, or None as ``decode_ids``."""
    found = _rows(data, max_pixels, {GREY: 1, PALETTE: 1})
    return None if found is None else np.ascontiguousarray(found[0][:, 1:])


def _rows(data: bytes, max_pixels: int, steps: dict[int, int]) -> tuple[Bytes, int] | None:
    """Return (H, 1 + step * W) rows, each after a byte without meaning, and W.

    Args:
        data: The file.
        max_pixels: Larger images give None.
        steps: Colour type -> bytes of a pixel, for the types that are read.
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
    rows = np.empty((height, 1 + step * width), dtype=np.uint8)
    flat = rows.reshape(-1)
    if _inflate(np.frombuffer(packed, dtype=np.uint8)[2:], flat) != len(flat):
        return None
    return None if _unfilter(flat, rows.shape[1], step) == _FAILED else (rows, width)


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


@_compiled
def _fill(source: Bytes, state: State) -> None:
    """Read bytes until more than 56 bits are there or the source ends."""
    bits, have, place = state[0], state[1], state[2]
    while have <= 56 and place < len(source):
        bits |= np.uint64(source[np.int64(place)]) << have
        place += np.uint64(1)
        have += np.uint64(8)
    state[0], state[1], state[2] = bits, have, place


@_compiled
def _take(source: Bytes, state: State, count: Any) -> Any:
    """Return the next bits (up to 32) as a number, or -1 at the end."""
    if state[1] < count:
        _fill(source, state)
        if state[1] < count:
            return _FAILED
    value = np.int64(state[0] & np.uint64((1 << count) - 1))
    state[0] >>= np.uint64(count)
    state[1] -= np.uint64(count)
    return value


@_compiled
def _codes(lengths: Bytes, table: Codes) -> int:
    """Fill a table from the lengths of canonical Huffman codes.

    Args:
        lengths: (N,) bits of each symbol's code, 0 = unused.
        table: Becomes, for every value of the next ``width`` bits, 16 times the symbol plus the
            bits of its code; 0 where no code fits.

    Returns:
        The width; -1 if the lengths contradict each other.
    """
    count = np.zeros(_LONGEST + 2, dtype=np.int64)
    for length in lengths:
        count[length] += 1
    count[0] = 0
    width, free, code = 1, 1, 0
    first = np.zeros(_LONGEST + 2, dtype=np.int64)
    for length in range(1, _LONGEST + 1):
        code = (code + count[length - 1]) << 1
        first[length] = code
        free = 2 * free - count[length]
        if free < 0:
            return _FAILED
        if count[length]:
            width = length
    table[: 1 << width] = 0
    for symbol in range(len(lengths)):
        length = np.int64(lengths[symbol])
        if length:
            mirrored, code = 0, first[length]
            first[length] += 1
            for _ in range(length):
                mirrored = (mirrored << 1) | (code & 1)
                code >>= 1
            table[mirrored : 1 << width : 1 << length] = (symbol << 4) | length
    return width


@_compiled
def _code_lengths(source: Bytes, state: State, lengths: Bytes, width: int, table: Codes) -> int:
    """Read the run-length coded lengths of a dynamic block; return -1 if they are garbled."""
    place, value = 0, np.uint8(0)
    while place < len(lengths):
        _fill(source, state)
        entry = np.int64(table[np.int64(state[0] & np.uint64((1 << width) - 1))])
        if entry == 0 or _take(source, state, entry & 15) == _FAILED:
            return _FAILED
        symbol, times = entry >> 4, 1
        if symbol < 16:
            value = np.uint8(symbol)
        elif symbol == 16:
            times = 3 + _take(source, state, 2)
        else:
            value = np.uint8(0)
            times = 3 + _take(source, state, 3) if symbol == 17 else 11 + _take(source, state, 7)
        if place + times > len(lengths) or (symbol == 16 and place == 0):
            return _FAILED
        lengths[place : place + times] = value
        place += times
    return 0


@_compiled
def _dynamic(source: Bytes, state: State, literals: Codes, distances: Codes) -> tuple[int, int]:
    """Read the codes of a dynamic block; return the widths of the tables, or -1."""
    lengths = np.zeros(320, dtype=np.uint8)
    some = 257 + _take(source, state, 5)
    more = 1 + _take(source, state, 5)
    few = 4 + _take(source, state, 4)
    if few < 4:  # the last bits were missing
        return _FAILED, _FAILED
    for i in range(few):
        bits = _take(source, state, 3)
        if bits == _FAILED:
            return _FAILED, _FAILED
        lengths[_ORDER[i]] = bits
    width = _codes(lengths[:19], literals)
    if width == _FAILED:
        return _FAILED, _FAILED
    lengths[:] = 0
    if _code_lengths(source, state, lengths[: some + more], width, literals) == _FAILED:
        return _FAILED, _FAILED
    return _codes(lengths[:some], literals), _codes(lengths[some : some + more], distances)


@_compiled
def _fixed(literals: Codes, distances: Codes) -> tuple[int, int]:
    """Fill the tables with the codes of a fixed block; return their widths."""
    lengths = np.full(288, 8, dtype=np.uint8)
    lengths[144:256] = 9
    lengths[256:280] = 7
    return _codes(lengths, literals), _codes(np.full(32, 5, dtype=np.uint8), distances)


@_compiled
def _stored(source: Bytes, state: State, target: Bytes, done: int) -> Any:
    """Copy a stored block; return the new end of the target, or -1."""
    _take(source, state, np.int64(state[1]) & 7)
    count, check = _take(source, state, 16), _take(source, state, 16)
    place = np.int64(state[2]) - (np.int64(state[1]) >> 3)
    if check == _FAILED or count ^ check != 0xFFFF:
        return _FAILED
    if place + count > len(source) or done + count > len(target):
        return _FAILED
    target[done : done + count] = source[place : place + count]
    state[0], state[1], state[2] = np.uint64(0), np.uint64(0), np.uint64(place + count)
    return done + count


@_compiled
def _repeat(target: Bytes, done: int, length: int, distance: int) -> None:
    """Copy bytes that lie some distance back; the two ranges may overlap."""
    if distance == 1:
        target[done : done + length] = target[done - 1]
    elif distance >= length:
        target[done : done + length] = target[done - distance : done - distance + length]
    else:
        for i in range(done, done + length):
            target[i] = target[i - distance]


@_compiled
def _symbols(
    source: Bytes,
    state: State,
    target: Bytes,
    done: int,
    literals: Codes,
    distances: Codes,
    masks: State,
) -> int:
    """Write the bytes of a compressed block; return the new end of the target, or -1."""
    bits, have, place = state[0], np.int64(state[1]), np.int64(state[2])
    while True:
        # A length and a distance need 48 bits at most.
        while have <= 56 and place < len(source):
            bits |= np.uint64(source[place]) << np.uint64(have)
            place += 1
            have += 8
        entry = np.int64(literals[np.int64(bits & masks[0])])
        used, symbol = entry & 15, entry >> 4
        bits >>= np.uint64(used)
        have -= used
        if entry == 0 or have < 0 or symbol > 285 or done >= len(target) + (symbol == 256):
            return _FAILED
        if symbol < 256:
            target[done] = np.uint8(symbol)
            done += 1
            continue
        if symbol == 256:
            break
        extra = _LENGTH_BITS[symbol - 257]
        length = _LENGTHS[symbol - 257] + np.int64(bits & np.uint64((1 << extra) - 1))
        bits >>= np.uint64(extra)
        entry = np.int64(distances[np.int64(bits & masks[1])])
        symbol = entry >> 4
        if entry == 0 or symbol > 29:
            return _FAILED
        bits >>= np.uint64(entry & 15)
        more = _DISTANCE_BITS[symbol]
        distance = _DISTANCES[symbol] + np.int64(bits & np.uint64((1 << more) - 1))
        bits >>= np.uint64(more)
        have -= extra + (entry & 15) + more
        if have < 0 or distance > done or done + length > len(target):
            return _FAILED
        _repeat(target, done, length, distance)
        done += length
    state[0], state[1], state[2] = bits, np.uint64(have), np.uint64(place)
    return done


@_compiled
def _inflate(source: Bytes, target: Bytes) -> int:
    """Fill ``target`` from a deflate stream; return the number of bytes, or -1."""
    literals = np.zeros(1 << _LONGEST, dtype=np.int32)
    distances = np.zeros(1 << _LONGEST, dtype=np.int32)
    state = np.zeros(3, dtype=np.uint64)
    masks = np.zeros(2, dtype=np.uint64)
    done, last = 0, 0
    while last == 0 and done != _FAILED:
        last = _take(source, state, 1)
        kind = _take(source, state, 2)
        if kind == 0:
            done = _stored(source, state, target, done)
            continue
        if kind == 1:
            widths = _fixed(literals, distances)
        elif kind == 2:
            widths = _dynamic(source, state, literals, distances)
        else:
            return _FAILED
        if min(widths) == _FAILED:
            return _FAILED
        for i in range(2):
            masks[i] = np.uint64((1 << widths[i]) - 1)
        done = _symbols(source, state, target, done, literals, distances, masks)
    return done


@_compiled
def _sub(row: Bytes, step: int) -> None:
    for channel in range(step):
        left = row[channel]
        for x in range(channel + step, len(row), step):
            left = np.uint8(left + row[x])
            row[x] = left


@_compiled
def _average(row: Bytes, above: Bytes, step: int) -> None:
    for x in range(step):
        row[x] += above[x] >> 1
    for x in range(step, len(row)):
        row[x] = np.uint8(row[x] + ((np.int32(row[x - step]) + np.int32(above[x])) >> 1))


@_compiled
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


@_compiled
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
            return _FAILED
        above = row
    return 0


@_compiled
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
