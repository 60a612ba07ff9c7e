"""Photographs nobody vouched for."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from tests.damaged_jpeg import write_damaged_jpeg
from u2seg.io.images import (
    BadImageError,
    Silence,
    _usual_jpeg,
    check_jpeg,
    decode_image,
    read_image,
    resize_image,
)

needs_turbo = pytest.mark.skipif(
    not features.check("libjpeg_turbo"), reason="Pillow decodes with another library"
)
RED, BLUE = (200, 30, 30), (30, 50, 190)


def _save(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    return read_image(path)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", **options)
    return file.getvalue()


def _two_colours() -> Image.Image:
    """Red left half, blue right half, 4 x 2."""
    image = Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (2, 0, 4, 2))
    return image


def test_rgb_is_height_width_rgb(tmp_path: Path) -> None:
    pixels = _save(_two_colours(), tmp_path / "x.png")
    assert pixels.shape == (2, 4, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[1, 3]) == BLUE


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = _two_colours()
    # How a camera stores a picture that has to be shown upright (EXIF 2.3, tag 0x0112).
    moves = {
        1: (), 2: (Image.Transpose.FLIP_LEFT_RIGHT,), 3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,), 5: (Image.Transpose.TRANSPOSE,),
        6: (Image.Transpose.ROTATE_90,), 7: (Image.Transpose.TRANSVERSE,),
        8: (Image.Transpose.ROTATE_270,),
    }  # fmt: skip
    stored = upright
    for move in moves[orientation]:
        stored = stored.transpose(move)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = _save(stored, tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(pixels, np.asarray(upright))


@needs_turbo
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(33, 17), (1, 1), (3, 64)])
def test_a_usual_jpeg_has_pillows_pixels(
    sampling: str, progressive: bool, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    content = jpeg(Image.fromarray(noise), subsampling=sampling, progressive=progressive)
    with Image.open(io.BytesIO(content)) as image:
        fast = _usual_jpeg(image, content)
        np.testing.assert_array_equal(fast, np.asarray(image))
    np.testing.assert_array_equal(decode_image(content), fast)


@needs_turbo
def test_an_unusual_jpeg_is_pillows() -> None:
    """Turned, grey, cut short, or larger than its header was thought to say."""
    exif = Image.Exif()
    exif[0x0112] = 6
    sound = jpeg(Image.effect_noise((64, 64), 90.0).convert("RGB"))
    small = jpeg(_two_colours())
    cases = [
        (jpeg(_two_colours(), exif=exif),) * 2,
        (jpeg(_two_colours().convert("L")),) * 2,
        (sound[:-200],) * 2,
        (small, sound),
        (sound, small),
    ]
    for header, content in cases:
        with Image.open(io.BytesIO(header)) as image:
            assert _usual_jpeg(image, content) is None


@pytest.mark.parametrize(
    ("grey", "expected"),
    [
        (np.array([[0.0, 0.25, 0.5, 1.0]], dtype=np.float32), [0, 64, 128, 255]),
        (np.array([[-1e-6, 0.5, 1.0005]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 257, 2048, 4095]], dtype=np.int32), [0, 16, 128, 255]),
        (np.array([[0, 257, 2048, 4095]], dtype=np.uint16), [0, 16, 128, 255]),
        (np.array([[0, 257, 20000, 65535]], dtype=np.uint16), [0, 1, 78, 255]),
        (np.array([[0, 257, 20000, 65535]], dtype=np.int32), [0, 1, 78, 255]),
    ],
)
def test_wide_samples_are_scaled(
    tmp_path: Path, grey: np.ndarray[Any, Any], expected: list[int]
) -> None:
    assert _save(Image.fromarray(grey), tmp_path / "x.tif")[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "grey", [[[0.0, 51000.0]], [[-0.5, 0.5]], [[0.5, np.nan]], [[-3, 4]], [[0, 65536]]]
)
def test_samples_that_do_not_say_their_range_are_refused(tmp_path: Path, grey: Any) -> None:
    kind = np.float32 if isinstance(grey[0][0], float) else np.int32
    with pytest.raises(BadImageError, match="samples do not say their range"):
        _save(Image.fromarray(np.array(grey, dtype=kind)), tmp_path / "x.tif")


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_eight_bits_in_wider_samples_are_refused_not_black(tmp_path: Path, kind: type) -> None:
    grey = np.array([[0, 100, 255]], dtype=kind)
    with pytest.raises(BadImageError, match=r"8-bit samples in wider ones: found 0\.\.255"):
        _save(Image.fromarray(grey), tmp_path / "x.tif")


def test_heic_is_read_where_its_library_is(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), (200, 30, 30))
    pillow_heif.from_pillow(image).save(tmp_path / "x.heic")
    pixels = read_image(tmp_path / "x.heic")
    assert pixels.shape == (48, 64, 3) and np.abs(pixels[20, 20] - (200.0, 30, 30)).max() < 9
    with pytest.raises(BadImageError, match=r"U2SEG.IMAGES.MAX_PIXELS is 100"):
        read_image(tmp_path / "x.heic", 100)


HARMLESS = {
    "zeros before the end": lambda c: c[:-2] + b"\0\0\0" + c[-2:],
    "scan parameters": lambda c: c.replace(b"\x03\x11\x00\x3f\x00", b"\x03\x11\x00\x00\x00"),
    "version of JFIF": lambda c: c.replace(b"JFIF\0\x01", b"JFIF\0\x07"),
}


@pytest.mark.parametrize("fault", HARMLESS)
def test_harmless_faults_of_cameras_are_read(fault: str) -> None:
    content = jpeg(Image.effect_noise((64, 48), 90.0).convert("RGB"))
    odd = HARMLESS[fault](content)
    assert odd != content
    check_jpeg(odd)
    assert (decode_image(odd) == decode_image(content)).all()
    middle = len(odd) // 2
    with pytest.raises(BadImageError, match="damaged JPEG"):
        check_jpeg(odd[:middle] + b"\xff\x00" * 30 + odd[middle + 60 :])


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    pixels = _save(Image.fromarray(rgba), tmp_path / "x.png")
    # 51 / 255 = 0.2: 0.2 * 0 + 0.8 * 255 = 204
    assert pixels[0].tolist() == [[200, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_palette_transparency_follows_the_same_rule(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    pixels = _save(image, tmp_path / "x.png", transparency=0)
    assert pixels[0].tolist() == [[255, 255, 255], [200, 0, 0]]


def test_grey_and_grey_alpha_and_bilevel(tmp_path: Path) -> None:
    assert _save(Image.new("L", (1, 1), 90), tmp_path / "l.png").tolist() == [[[90] * 3]]
    assert _save(Image.new("LA", (1, 1), (90, 0)), tmp_path / "la.png").tolist() == [[[255] * 3]]
    assert _save(Image.new("1", (1, 1), 1), tmp_path / "b.png").tolist() == [[[255] * 3]]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    pixels = _save(_two_colours().resize((64, 32), 0).convert("CMYK"), tmp_path / "x.jpg")
    assert np.abs(pixels[16, 10].astype(int) - RED).max() < 12


def test_first_frame_only(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), c) for c in (RED, BLUE)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    pixels = read_image(tmp_path / "x.gif")
    assert pixels.shape == (2, 3, 3)
    assert tuple(pixels[0, 0]) == RED


def _bomb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501) * 20_000, 9)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:1500])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "not a regular file"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_text("no picture"), "not an image"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "not an image|corrupt"),
        (_truncated, "truncated"),
        (_bomb, r"too large.*MAX_PIXELS"),
    ],
)
def test_what_cannot_be_used_is_a_reason(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(BadImageError, match=message):
        read_image(path)


def test_the_limit_counts_declared_pixels(tmp_path: Path) -> None:
    _two_colours().save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", max_pixels=8).shape == (2, 4, 3)
    with pytest.raises(
        BadImageError, match=r"4x2 = 8 pixels, U2SEG\.IMAGES\.MAX_PIXELS is 7; raise"
    ):
        read_image(tmp_path / "x.png", max_pixels=7)


def test_the_limit_that_is_named_is_the_setting(tmp_path: Path) -> None:
    """Pillow refuses 20000 x 20000 pixels before we do, with a limit of its own."""
    _bomb(tmp_path / "x.png")
    with pytest.raises(BadImageError) as caught:
        read_image(tmp_path / "x.png", max_pixels=50_000_000)
    assert str(caught.value) == (
        "too large: 400000000 pixels, U2SEG.IMAGES.MAX_PIXELS is 50000000; raise it to allow this"
    )


def test_damage_that_pillow_overlooks_is_refused_where_sound_files_are_asked_for(
    tmp_path: Path,
) -> None:
    write_damaged_jpeg(tmp_path / "x.jpg")
    assert read_image(tmp_path / "x.jpg").shape == (64, 64, 3)
    with pytest.raises(BadImageError, match="damaged JPEG: Corrupt JPEG data"):
        read_image(tmp_path / "x.jpg", sound=True)
    _two_colours().save(tmp_path / "sound.jpg")
    whole = read_image(tmp_path / "sound.jpg")
    assert np.array_equal(read_image(tmp_path / "sound.jpg", sound=True), whole)


def test_a_raised_limit_is_not_undercut_by_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _two_colours().save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)  # Pillow refuses above twice this
    assert read_image(tmp_path / "x.png", max_pixels=8).shape == (2, 4, 3)


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    _bomb(tmp_path / "x.png")
    tracemalloc.start()
    try:
        with pytest.raises(BadImageError, match="too large"):
            read_image(tmp_path / "x.png")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_truncated_files_are_refused_though_pillow_was_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _truncated(tmp_path / "x.jpg")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImageError, match="truncated"):
        read_image(tmp_path / "x.jpg")


def test_resize_is_height_first() -> None:
    image = np.zeros((2, 4, 3), dtype=np.uint8)
    image[:, 2:] = 255
    got = resize_image(image, (4, 2), Image.Resampling.NEAREST)
    assert got.shape == (4, 2, 3)
    assert got[:, :, 0].tolist() == [[0, 255]] * 4


def test_threads_that_leave_in_another_order_leave_the_filters_as_they_were() -> None:
    silence, before = Silence(), list(warnings.filters)
    entered, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]
    errors: list[Exception] = []

    def work(i: int) -> None:
        try:
            with silence:
                entered[i].set()
                leave[i].wait(10)
                warnings.warn("noise", stacklevel=1)  # an error outside: see pyproject.toml
        except UserWarning as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread, inside in zip(threads, entered, strict=True):
        thread.start()
        assert inside.wait(10)
    for thread, go in zip(threads, leave, strict=True):  # the first to enter leaves first
        go.set()
        thread.join(10)
    assert errors == [] and list(warnings.filters) == before
