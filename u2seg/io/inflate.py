"""Inflate a deflate stream into a buffer of known size, compiled by numba.

Source: RFC 1951.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.io.jit import compiled

FAILED = -1
_LONGEST = 15
"""Bits of the longest Huffman code."""
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


@compiled
def _fill(source: Bytes, state: State) -> None:
    """Read bytes until more than 56 bits are there or the source ends."""
    bits, have, place = state[0], state[1], state[2]
    while have <= 56 and place < len(source):
        bits |= np.uint64(source[np.int64(place)]) << have
        place += np.uint64(1)
        have += np.uint64(8)
    state[0], state[1], state[2] = bits, have, place


@compiled
def _take(source: Bytes, state: State, count: Any) -> Any:
    """Return the next bits (up to 32) as a number, or -1 at the end."""
    if state[1] < count:
        _fill(source, state)
        if state[1] < count:
            return FAILED
    value = np.int64(state[0] & np.uint64((1 << count) - 1))
    state[0] >>= np.uint64(count)
    state[1] -= np.uint64(count)
    return value


@compiled
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
            return FAILED
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
            for place in range(mirrored, 1 << width, 1 << length):
                table[place] = (symbol << 4) | length
    return width


@compiled
def _code_lengths(source: Bytes, state: State, lengths: Bytes, width: int, table: Codes) -> int:
    """Read the run-length coded lengths of a dynamic block; return -1 if they are garbled."""
    place, value = 0, np.uint8(0)
    while place < len(lengths):
        _fill(source, state)
        entry = np.int64(table[np.int64(state[0] & np.uint64((1 << width) - 1))])
        if entry == 0 or _take(source, state, entry & 15) == FAILED:
            return FAILED
        symbol, times = entry >> 4, 1
        if symbol < 16:
            value = np.uint8(symbol)
        elif symbol == 16:
            times = 3 + _take(source, state, 2)
        else:
            value = np.uint8(0)
            times = 3 + _take(source, state, 3) if symbol == 17 else 11 + _take(source, state, 7)
        if place + times > len(lengths) or (symbol == 16 and place == 0):
            return FAILED
        lengths[place : place + times] = value
        place += times
    return 0


@compiled
def _dynamic(source: Bytes, state: State, literals: Codes, distances: Codes) -> tuple[int, int]:
    """Read the codes of a dynamic block; return the widths of the tables, or -1."""
    lengths = np.zeros(320, dtype=np.uint8)
    some = 257 + _take(source, state, 5)
    more = 1 + _take(source, state, 5)
    few = 4 + _take(source, state, 4)
    if few < 4:  # the last bits were missing
        return FAILED, FAILED
    for i in range(few):
        bits = _take(source, state, 3)
        if bits == FAILED:
            return FAILED, FAILED
        lengths[_ORDER[i]] = bits
    width = _codes(lengths[:19], literals)
    if width == FAILED:
        return FAILED, FAILED
    lengths[:] = 0
    if _code_lengths(source, state, lengths[: some + more], width, literals) == FAILED:
        return FAILED, FAILED
    return _codes(lengths[:some], literals), _codes(lengths[some : some + more], distances)


@compiled
def _fixed(literals: Codes, distances: Codes) -> tuple[int, int]:
    """Fill the tables with the codes of a fixed block; return their widths."""
    lengths = np.full(288, 8, dtype=np.uint8)
    lengths[144:256] = 9
    lengths[256:280] = 7
    return _codes(lengths, literals), _codes(np.full(32, 5, dtype=np.uint8), distances)


@compiled
def _stored(source: Bytes, state: State, target: Bytes, done: int) -> Any:
    """Copy a stored block; return the new end of the target, or -1."""
    _take(source, state, np.int64(state[1]) & 7)
    count, check = _take(source, state, 16), _take(source, state, 16)
    place = np.int64(state[2]) - (np.int64(state[1]) >> 3)
    if check == FAILED or count ^ check != 0xFFFF:
        return FAILED
    if place + count > len(source) or done + count > len(target):
        return FAILED
    target[done : done + count] = source[place : place + count]
    state[0], state[1], state[2] = np.uint64(0), np.uint64(0), np.uint64(place + count)
    return done + count


@compiled
def _repeat(target: Bytes, done: int, length: int, distance: int) -> None:
    """Copy bytes that lie some distance back; the two ranges may overlap."""
    if distance == 1:
        target[done : done + length] = target[done - 1]
    elif distance >= length:
        target[done : done + length] = target[done - distance : done - distance + length]
    else:
        for i in range(done, done + length):
            target[i] = target[i - distance]


@compiled
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
            return FAILED
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
            return FAILED
        bits >>= np.uint64(entry & 15)
        more = _DISTANCE_BITS[symbol]
        distance = _DISTANCES[symbol] + np.int64(bits & np.uint64((1 << more) - 1))
        bits >>= np.uint64(more)
        have -= extra + (entry & 15) + more
        if have < 0 or distance > done or done + length > len(target):
            return FAILED
        _repeat(target, done, length, distance)
        done += length
    state[0], state[1], state[2] = bits, np.uint64(have), np.uint64(place)
    return done


@compiled
def inflate(source: Bytes, target: Bytes) -> int:
    """Fill ``target`` from a deflate stream; return the number of bytes, or -1."""
    literals = np.zeros(1 << _LONGEST, dtype=np.int32)
    distances = np.zeros(1 << _LONGEST, dtype=np.int32)
    state = np.zeros(3, dtype=np.uint64)
    masks = np.zeros(2, dtype=np.uint64)
    done, last = 0, 0
    while last == 0 and done != FAILED:
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
            return FAILED
        if min(widths) == FAILED:
            return FAILED
        for i in range(2):
            masks[i] = np.uint64((1 << widths[i]) - 1)
        done = _symbols(source, state, target, done, literals, distances, masks)
    return done
