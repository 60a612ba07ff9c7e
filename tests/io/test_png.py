"""Label PNGs."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import UserError
from u2seg.io import png
from u2seg.io.png import (
    read_label_png,
    read_panoptic_png,
    write_label_png,
    write_panoptic_png,
)


def test_label_maps_round_trip_with_every_value(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_label_png(tmp_path / "a" / "x.png", labels)
    np.testing.assert_array_equal(read_label_png(tmp_path / "a" / "x.png"), labels)
    with Image.open(tmp_path / "a" / "x.png") as image:
        assert image.mode == "L"


def test_panoptic_ids_round_trip(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 256], [65536, 2**24 - 1, 77]], dtype=np.int32)
    write_panoptic_png(tmp_path / "x.png", ids)
    np.testing.assert_array_equal(read_panoptic_png(tmp_path / "x.png"), ids)
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "RGB"
        assert image.getpixel((2, 0)) == (0, 1, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (37, 53), (3, 4, 3), (1, 1, 3)])
def test_other_readers_see_the_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with Image.open(io.BytesIO(png.encode_map(pixels))) as image:
        image.verify()  # checksums of the chunks
    with Image.open(io.BytesIO(png.encode_map(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.size == (shape[1], shape[0])


def test_large_regions_take_few_bytes() -> None:
    pixels = np.zeros((480, 640, 3), dtype=np.uint8)
    pixels[100:300, 200:400] = 7
    plain = io.BytesIO()
    Image.fromarray(pixels).save(plain, format="PNG")
    assert len(png.encode_map(pixels)) < 1.5 * len(plain.getvalue()) < 3000


def test_a_palette_index_is_the_label(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png")
    assert read_label_png(tmp_path / "x.png").tolist() == [[0, 1]]


def test_missing_damaged_and_huge_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no\.png does not exist"):
        read_label_png(tmp_path / "no.png")
    write_label_png(tmp_path / "x.png", np.zeros((64, 64), dtype=np.uint8))
    content = (tmp_path / "x.png").read_bytes()
    (tmp_path / "short.png").write_bytes(content[:50])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("short.png", "text.png"):
        with pytest.raises(UserError, match=f"cannot read the PNG .*{name}"):
            read_label_png(tmp_path / name)
    with pytest.raises(UserError, match="declares 64x64 pixels: too many"):
        read_label_png(tmp_path / "x.png", max_pixels=4095)
    assert read_label_png(tmp_path / "x.png", max_pixels=4096).shape == (64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own, of a larger allowance
    monkeypatch.setattr(png, "allow_pixels", lambda _: None)
    with pytest.raises(UserError, match=r"cannot read the PNG .*x\.png"):
        read_label_png(tmp_path / "x.png")


def test_opencv_and_pillow_read_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (31, 17)).astype(np.int32)
    path = tmp_path / "x.png"
    write_panoptic_png(path, ids)
    np.testing.assert_array_equal(read_panoptic_png(path), ids)
    monkeypatch.setitem(sys.modules, "cv2", None)
    np.testing.assert_array_equal(read_panoptic_png(path), ids)


def test_damage_never_gives_wrong_pixels(tmp_path: Path) -> None:
    """Every bit flip breaks a checksum, the structure, or what carries no pixel."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, (20, 10)).astype(np.int32)
    path = tmp_path / "x.png"
    write_panoptic_png(path, ids)
    good = path.read_bytes()
    for number in range(150):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(bad) if number % 2 else good[: rng.integers(len(good) - 12)])
        try:
            found = read_panoptic_png(path)
        except UserError:
            continue
        np.testing.assert_array_equal(found, ids)


def test_size_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png.encode_map(np.zeros((3, 5), np.uint8)))
    assert png.png_size(path) == (3, 5)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=r"x\.png: it does not begin as a PNG"):
        png.png_size(path)
    with pytest.raises(UserError, match="does not exist"):
        png.png_size(tmp_path / "y.png")


@pytest.mark.parametrize(
    ("read", "mode", "message"),
    [
        (read_label_png, "RGB", "8-bit greyscale PNG, its mode is RGB"),
        (read_label_png, "I;16", "its mode is I;16"),
        (read_panoptic_png, "L", "RGB PNG of panoptic ids, its mode is L"),
        (read_panoptic_png, "P", "its mode is P"),
    ],
)
def test_other_modes_are_refused(tmp_path: Path, read: object, mode: str, message: str) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x.png")  # type: ignore[operator]


def test_ids_may_have_an_opaque_layer(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 1), (7, 1, 0, 255)).save(tmp_path / "x.png")
    assert read_panoptic_png(tmp_path / "x.png").tolist() == [[7 + 256] * 3]
