"""The quick decoder gives what Pillow gives, or nothing."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("numba")

from tests.shared import SHARED, needs_shared
from u2seg.errors import UserError
from u2seg.io import fastpng
from u2seg.io.inflate import inflate
from u2seg.io.png import encode_map, png_size, read_label_png, read_panoptic_png
from u2seg.structures.panoptic import ids_to_rgb

LIMIT = 1_000_000
STRATEGIES = {
    "stored": (0, zlib.Z_DEFAULT_STRATEGY),
    "fixed": (9, zlib.Z_FIXED),
    "huffman": (9, zlib.Z_HUFFMAN_ONLY),
    "runs": (6, zlib.Z_RLE),
    "default": (6, zlib.Z_DEFAULT_STRATEGY),
}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, head: tuple[int, ...], how: str = "default", extra: bytes = b"") -> bytes:
    """Return a PNG of rows that are filtered already, its data in two chunks."""
    level, strategy = STRATEGIES[how]
    packer = zlib.compressobj(level, strategy=strategy)
    packed = packer.compress(rows) + packer.flush()
    half = len(packed) // 2
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *head)), (b"IDAT", packed[:half])]
    parts += [(b"IDAT", packed[half:]), (b"IEND", b"")]
    body = [chunk(*part) for part in parts]
    return fastpng.SIGNATURE + body[0] + extra + b"".join(body[1:])


def random_rows(rng: np.random.Generator, width: int, height: int, step: int) -> bytes:
    """Return bytes as a filter leaves them: mostly zero; each row with a filter of its own."""
    rows = rng.integers(0, 256, (height, 1 + step * width), dtype=np.uint8)
    rows[rng.random(rows.shape) < rng.choice([0.0, 0.9, 0.99])] = 0
    rows[:, 0] = rng.integers(0, 5, height)
    return rows.tobytes()


@pytest.mark.parametrize("how", STRATEGIES)
@pytest.mark.parametrize("seed", range(4))
def test_equals_pillow_under_every_filter_and_kind_of_block(
    how: str, seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(1, 400)), int(rng.integers(1, 120))
    path = tmp_path / "x.png"
    data = png(random_rows(rng, width, height, 3), (width, height, 8, 2, 0, 0, 0), how)
    path.write_bytes(data)
    ids = fastpng.decode_ids(data, LIMIT)
    assert ids is not None and ids.dtype == np.int32
    np.testing.assert_array_equal(ids, read_panoptic_png(path))
    np.testing.assert_array_equal(read_panoptic_png(path, fast=True), ids)
    data = png(random_rows(rng, width, height, 1), (width, height, 8, 0, 0, 0, 0), how)
    path.write_bytes(data)
    np.testing.assert_array_equal(fastpng.decode_labels(data, LIMIT), read_label_png(path))


def test_one_pixel_by_hand() -> None:
    data = png(bytes([0, 1, 2, 3]), (1, 1, 8, 2, 0, 0, 0))
    assert fastpng.decode_ids(data, LIMIT).tolist() == [[1 + 2 * 256 + 3 * 65536]]  # type: ignore[union-attr]
    # filter "up": 5 below 7 is stored as 254
    data = png(bytes([0, 7, 2, 254]), (1, 2, 8, 0, 0, 0, 0))
    assert fastpng.decode_labels(data, LIMIT).tolist() == [[7], [5]]  # type: ignore[union-attr]


def test_files_of_pillow_and_our_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ids = rng.choice([0, 7, 65536, 2**24 - 1], (90, 70)).astype(np.int32)
    path = tmp_path / "x.png"
    for optimize in (False, True):
        Image.fromarray(ids_to_rgb(ids)).save(path, optimize=optimize)
        np.testing.assert_array_equal(fastpng.decode_ids(path.read_bytes(), LIMIT), ids)
    np.testing.assert_array_equal(fastpng.decode_ids(encode_map(ids_to_rgb(ids)), LIMIT), ids)
    labels = (ids % 251).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(bytes(range(256)) * 3)
    image.save(path)
    np.testing.assert_array_equal(fastpng.decode_labels(path.read_bytes(), LIMIT), labels)


@pytest.mark.parametrize("seed", range(4))
def test_damage_never_gives_wrong_pixels(seed: int) -> None:
    """Every bit flip breaks a checksum, the structure, or what carries no pixel."""
    rng = np.random.default_rng(seed)
    good = png(random_rows(rng, 20, 10, 3), (20, 10, 8, 2, 0, 0, 0))
    want = fastpng.decode_ids(good, LIMIT)
    for _ in range(150):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        found = fastpng.decode_ids(bytes(bad), LIMIT)
        assert found is None or np.array_equal(found, want)
    for end in range(len(good) - 12):
        assert fastpng.decode_ids(good[:end], LIMIT) is None


@pytest.mark.parametrize("seed", range(4))
def test_garbled_streams_under_right_checksums_end(seed: int) -> None:
    """The stream itself is hostile: nothing is read or written outside, nothing runs on."""
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 40, 30, 3)
    packed = zlib.compress(rows)
    target = np.zeros(len(rows), dtype=np.uint8)
    for number in range(500):
        bad = bytearray(packed[2:])
        for _ in range(rng.integers(1, 6)):
            bad[rng.integers(min(len(bad), 200) if number % 2 else len(bad))] = rng.integers(256)
        source = np.frombuffer(bytes(bad), dtype=np.uint8)
        done = inflate(source, target)
        assert -1 <= done <= len(target)
        try:
            want = zlib.decompressobj(-15).decompress(bytes(bad))
        except zlib.error:
            continue
        if len(want) == len(target) == done:
            assert target.tobytes() == want


def test_unusual_files_are_left_to_pillow(tmp_path: Path) -> None:
    rows = bytes([0, 1, 2, 3])
    head = (1, 1, 8, 2, 0, 0, 0)
    assert fastpng.decode_ids(png(rows, head, extra=chunk(b"tRNS", bytes(6))), LIMIT) is None
    assert fastpng.decode_ids(png(rows, (1, 1, 8, 2, 0, 0, 1)), LIMIT) is None  # interlaced
    assert fastpng.decode_ids(png(bytes(7), (1, 1, 16, 2, 0, 0, 0)), LIMIT) is None
    assert fastpng.decode_ids(png(bytes([9, 1, 2, 3]), head), LIMIT) is None  # filter 9
    assert fastpng.decode_ids(png(rows, head), 0) is None  # more pixels than allowed
    assert fastpng.decode_ids(png(rows + rows, head), LIMIT) is None  # more data than pixels
    assert fastpng.decode_labels(png(rows, head), LIMIT) is None
    path = tmp_path / "rgba.png"
    Image.fromarray(np.full((2, 2, 4), 7, np.uint8)).save(path)
    assert read_panoptic_png(path, fast=True).tolist() == [[7 + 7 * 256 + 7 * 65536] * 2] * 2
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    for fast in (False, True):
        with pytest.raises(UserError, match=r"gone\.png does not exist"):
            read_panoptic_png(tmp_path / "gone.png", fast=fast)
        with pytest.raises(UserError, match="must be an RGB PNG"):
            read_panoptic_png(path, fast=fast)


def test_without_numba_pillow_decodes(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encode_map(ids_to_rgb(np.array([[3, 70000]], np.int32))))
    code = (
        "import sys; sys.modules['numba'] = None; import numpy as np; "
        "from u2seg.io.png import read_panoptic_png; "
        "from u2seg.evaluation.overlap import count_overlaps; "
        f"ids = read_panoptic_png({str(path)!r}, fast=True); "
        "print(ids.tolist(), count_overlaps(ids, ids, fast=True).truth.tolist()); "
        "assert 'u2seg.io.fastpng' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[[3, 70000]] [3, 70000]\n", "")


def test_size_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encode_map(np.zeros((3, 5), np.uint8)))
    assert png_size(path) == (3, 5)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=r"x\.png: it does not begin as a PNG"):
        png_size(path)
    with pytest.raises(UserError, match="does not exist"):
        png_size(tmp_path / "y.png")


@pytest.mark.shared
@needs_shared("golden", "pq")
@pytest.mark.parametrize("folder", ["coco_gt", "coco_pred", "sample_gt", "edge/gt"])
def test_real_panoptic_maps(folder: str) -> None:
    paths = sorted((SHARED / "golden" / "pq" / folder).glob("*.png"))[:25]
    assert paths
    for path in paths:
        ids = fastpng.decode_ids(path.read_bytes(), 50_000_000)
        np.testing.assert_array_equal(ids, read_panoptic_png(path))
