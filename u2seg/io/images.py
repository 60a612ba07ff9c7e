"""Decode photographs nobody vouched for into upright 8-bit RGB.

Order matters: the header is checked against the pixel limit before any pixel is decoded, so a
decompression bomb costs a few kilobytes. Then: first frame only, wide samples scaled to 8 bits,
palette expanded, transparency composited on white, CMYK converted, EXIF orientation applied.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import stat
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError, features

from u2seg.io import paths

DEFAULT_MAX_PIXELS = 50_000_000
MAX_BYTES = 16
"""Bytes of a pixel in the widest format there is (four 32-bit samples)."""
MAX_OVERHEAD = 1 << 26
"""Bytes a file may have beside its pixels: metadata, thumbnails, colour profiles."""
BACKGROUND = (255, 255, 255)
"""Colour under transparent pixels."""
FLOAT_SLACK = 1e-3
"""By which floats may leave 0..1: rounding of whoever wrote them."""
UPRIGHT = 1
"""EXIF's number of the orientation without a turn."""
HEIF = b"ftyp"
"""Bytes 4..8 of HEIC and AVIF files."""
LYING = (5, 6, 7, 8)
"""EXIF's numbers of orientations that swap height and width."""
_SAME: dict[paths.ImageFile, tuple[int, int, int]] = {}
"""Photographs of known SHA-256 that this process has compared, with their files' times and size."""


class Silence:
    """A block without Python's warnings, while at least one thread is inside.

    ``warnings.catch_warnings`` keeps the filters that are there: of two threads, the one that
    leaves last would bring back those of the other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(kind, error, trace)


_SILENCE = Silence()


class BadImageError(Exception):
    """One image cannot be used; the message is the reason, without the file name."""


def read_image(
    place: Path | str | paths.ImageFile,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    *,
    sound: bool = False,
) -> npt.NDArray[np.uint8]:
    """Return an image as upright RGB.

    Args:
        place: JPEG, PNG, WebP, BMP, TIFF, GIF (first frame) or anything else Pillow reads.
        max_pixels: Refuse images that declare more pixels than this.
        sound: Refuse damaged JPEGs that Pillow would decode; JPEGs are decoded twice then.

    Returns:
        As ``decode_image``.

    Raises:
        BadImageError: as ``read_content`` and ``decode_image``, and ``check_jpeg`` if ``sound``.
    """
    content = read_content(place, max_pixels)
    image = decode_image(content, max_pixels)
    if sound:
        check_jpeg(content)
    return image


def read_content(
    place: Path | str | paths.ImageFile, max_pixels: int = DEFAULT_MAX_PIXELS
) -> bytes:
    """Return the bytes of an image file, or of an image in a tar shard.

    Args:
        place: Where it lies.
        max_pixels: Files with more than ``MAX_BYTES`` bytes for each of them are not read.

    Raises:
        BadImageError: if it is missing, empty, not a regular file, unreadable, cut short, too
            large, or not the photograph that was labelled.
    """
    if not isinstance(place, paths.ImageFile):
        place = paths.ImageFile(Path(place))
    try:
        # A pipe would block the open itself, hence the look before it.
        if not stat.S_ISREG(os.stat(place.path).st_mode):
            raise BadImageError("not a regular file")
        with open(place.path, "rb") as file:
            found = os.fstat(file.fileno())
            size = place.size
            if size is None:
                size = found.st_size - place.offset
            if size <= 0:
                raise BadImageError("file is empty (0 bytes)")
            if size > MAX_BYTES * max_pixels + MAX_OVERHEAD:
                raise _too_large(f"{size} bytes", max_pixels)
            file.seek(place.offset)
            content = file.read(size)
    except FileNotFoundError as error:
        raise BadImageError("no such file") from error
    except (OSError, ValueError) as error:
        raise BadImageError(f"cannot be read: {getattr(error, 'strerror', error)}") from error
    if len(content) < size:
        raise BadImageError(f"cut short: {len(content)} of {size} bytes are there")
    if place.sha256:
        _check_same(place, content, (found.st_mtime_ns, found.st_ctime_ns, found.st_size))
    return content


def _check_same(place: paths.ImageFile, content: bytes, state: tuple[int, int, int]) -> None:
    """Raise BadImageError if a photograph is not the labelled one; looks once at each state."""
    if _SAME.get(place) == state:
        return
    if hashlib.sha256(content).hexdigest() != place.sha256:
        raise BadImageError("the photograph changed since it was labelled (its SHA-256 is another)")
    _SAME[place] = state


def decode_image(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return the image that an image file holds as upright RGB.

    Args:
        content: The whole file.
        max_pixels: Refuse images that declare more pixels than this.

    Returns:
        (H, W, 3) uint8, RGB, EXIF orientation applied; transparent parts are composited on
        white; wide samples are scaled (``_eight_bits``).

    Raises:
        BadImageError: if it is not an image, truncated, corrupt as far as the decoder notices,
            or too large.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        # Another library may have set this global; it would turn half a photo into grey.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    allow_pixels(max_pixels)
    if content[4:8] == HEIF:
        reads_heic()
    try:
        # Pillow's own bomb warning duplicates our limit; EXIF and palette notes are noise.
        with _SILENCE, Image.open(io.BytesIO(content)) as image:
            return _decode(image, content, max_pixels)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        # Raised before there is an image to ask; Pillow's text has the pixels, and a limit of
        # its own that is not the setting.
        pixels = re.search(r"\d+ pixels", str(error))
        raise _too_large(pixels[0] if pixels else "the image", max_pixels) from error
    except UnidentifiedImageError as error:
        if content[4:8] == HEIF and not reads_heic():
            raise BadImageError("HEIC is read where pillow-heif is installed") from error
        raise BadImageError("not an image, or a format that cannot be read") from error
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError) as error:
        raise BadImageError(f"corrupt or truncated: {error}") from error
    except (MemoryError, OverflowError, TypeError, ZeroDivisionError) as error:
        raise BadImageError(f"cannot be decoded: {type(error).__name__}: {error}") from error


@functools.cache
def reads_heic() -> bool:
    """Return whether HEIC is read here; Pillow gets its reader if pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def readable_here(ending: str) -> bool:
    """Return whether a library that reads files with this ending may be missing, and is not."""
    if ending in (".heic", ".heif"):
        return reads_heic()
    return ending != ".avif" or bool(features.check("avif"))


def declared_size(source: Path | IO[bytes]) -> tuple[tuple[int, int], int]:
    """Return (H, W) of an upright image and its EXIF orientation, from the header alone.

    Raises:
        BadImageError: if it is missing, or no image by its header.
    """
    reads_heic()  # tells Pillow how, if it can be done here
    try:
        with _SILENCE, Image.open(source) as image:
            size = image.height, image.width
            # Pillow would decode all of a PNG to look for an EXIF part behind the pixels.
            known = image.format != "PNG" or "exif" in image.info
            turn = (
                int(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)) if known else UPRIGHT
            )
    except FileNotFoundError as error:
        raise BadImageError("no such file") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"too large: {error}") from error
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError) as error:
        raise BadImageError("not an image, or a format that cannot be read") from error
    return (size[::-1] if turn in LYING else size), turn


def size_problem(found: tuple[int, ...], expected: tuple[int, ...], turn: int) -> str:
    """Return what is wrong with a photograph whose size is not that of its labels or truth.

    Args:
        found: (H, W) of the upright photograph.
        expected: (H, W) that was expected.
        turn: Its EXIF orientation.

    Examples:
        >>> size_problem((4, 3), (4, 2), 1)
        'is 4x3 pixels (height x width), its label says 4x2: the photograph changed since'
    """
    told = f"is {found[0]}x{found[1]} pixels (height x width), its label says "
    told += f"{expected[0]}x{expected[1]}: "
    if turn in LYING and found == expected[::-1]:
        return told + (
            f"its EXIF orientation {turn} turns it upright, and the label is of the pixels as the "
            "file has them. Turn the label, or remove the orientation from the file"
        )
    return told + "the photograph changed since"


def allow_pixels(max_pixels: int) -> None:
    """Raise Pillow's own limit if a larger one is asked for; it warns and refuses above it."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _too_large(found: str, max_pixels: int) -> BadImageError:
    return BadImageError(
        f"too large: {found}, U2SEG.IMAGES.MAX_PIXELS is {max_pixels}; raise it to allow this"
    )


def _decode(image: Image.Image, content: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImageError(f"has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise _too_large(f"{width}x{height} = {width * height} pixels", max_pixels)
    if (pixels := _usual_jpeg(image, content)) is not None:
        return pixels
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    rgb = _to_rgb(image)
    return np.ascontiguousarray(rgb, dtype=np.uint8)


def _usual_jpeg(image: Image.Image, content: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the pixels of an upright, sound colour JPEG; None if it is anything else.

    They are Pillow's, as both use libjpeg-turbo; but Pillow copies them three times on their way
    into an array, each time into fresh memory, which costs more than to decode them.

    Args:
        image: The opened file; not loaded here.
        content: The file.
    """
    if image.format != "JPEG" or image.mode != "RGB" or not features.check("libjpeg_turbo"):
        return None
    if image.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT:
        return None
    # As large as the header said: a file that says something else later finds no room.
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    try:
        found: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            content, colorspace="RGB", buffer=pixels, strict=True
        )
    except ValueError:
        return None  # Pillow mends what can be mended, or says what is wrong
    return found if found.shape == pixels.shape else None


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(np.asarray(image, dtype=np.float64), image.mode == "F")
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layered = image.convert("RGBA")
        canvas = Image.new("RGBA", layered.size, (*BACKGROUND, 255))
        return np.asarray(Image.alpha_composite(canvas, layered).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bits(grey: npt.NDArray[np.float64], floats: bool) -> npt.NDArray[np.uint8]:
    """Return wide samples as 0..255; BadImageError if nothing says what their white is.

    Floats in 0..1 are shares of white. Of integers none is below 0: 12 bits if all are below
    4096, as cameras store them in 16 bits or more, else 16 bits; below 256 they are refused.

    Examples:
        >>> _eight_bits(np.array([0.0, 0.5, 1.0]), True).tolist()
        [0, 128, 255]
        >>> _eight_bits(np.array([0.0, 2048.0, 4095.0]), False).tolist()
        [0, 128, 255]
        >>> _eight_bits(np.array([0.0, 257.0, 20000.0, 65535.0]), False).tolist()
        [0, 1, 78, 255]
    """
    low, high = grey.min(), grey.max()
    white = 1.0 if floats else 4095.0 if high < 4096 else 65535.0
    if not floats and 0 <= low < high < 256:
        raise BadImageError(
            f"8-bit samples in wider ones: found {low:g}..{high:g}; save it with 8 bits"
        )
    slack = FLOAT_SLACK if floats else 0.0
    if not (low >= -slack and high <= white + slack):
        kind = "float" if floats else "signed or 32-bit"
        raise BadImageError(
            f"{kind} samples do not say their range: found {low:g}..{high:g}, expected "
            f"0..{white:g}; save it with 8 or 16 bits"
        )
    return np.rint(grey.clip(0, white) * (255 / white)).astype(np.uint8)


def check_jpeg(content: bytes) -> None:
    """Raise BadImageError if a JPEG's entropy-coded data is damaged.

    Pillow decodes such files without a word, the rest of the picture being garbage;
    libjpeg-turbo's warnings are errors here, but for those on what no pixel depends on: zeros
    before the end mark, scan parameters that a sequential JPEG does not use, JFIF's version, all
    seen in the files of cameras. Files that are no JPEG, or CMYK, pass.

    Args:
        content: Any whole file.
    """
    if not content.startswith(b"\xff\xd8"):
        return
    try:
        _decode_strictly(content)
    except ValueError as error:
        try:
            _decode_strictly(_without_padding(_usual_headers(content)))
        except ValueError:
            raise BadImageError(f"damaged JPEG: {error}") from error


def _decode_strictly(content: bytes) -> None:
    _, _, space, _ = simplejpeg.decode_jpeg_header(content)
    if space in ("RGB", "YCbCr", "Gray", "GRAY"):
        simplejpeg.decode_jpeg(content, colorspace="GRAY", fastdct=True, strict=True)


def _usual_headers(content: bytes) -> bytes:
    """Return a JPEG whose version of JFIF and, if sequential, parameters of scans are the usual."""
    data, place, sequential = bytearray(content), 2, False
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 4:
        marker = data[place + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # no segments
            place += 1
            continue
        body, end = place + 4, place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE0 and data[body : body + 5] == b"JFIF\0":
            data[body + 5 : body + 6] = b"\x01"
        sequential |= marker in (0xC0, 0xC1)
        if marker == 0xDA and sequential and body < end <= len(data):
            data[end - 3 : end] = b"\x00\x3f\x00"
        place = end
    return bytes(data)


def _without_padding(content: bytes) -> bytes:
    """Return a JPEG without zeros before its end mark, but for the one that belongs to a 0xFF."""
    head, mark, _ = content.rpartition(b"\xff\xd9")
    bare = head.rstrip(b"\x00")
    return bare + b"\x00" * bare.endswith(b"\xff") + mark


FILTERS = {kind.name.lower(): kind for kind in Image.Resampling}
"""Name of a resampling filter, such as ``lanczos`` -> Pillow's."""


def resize_image(
    image: npt.NDArray[np.uint8], size: tuple[int, int], resample: Image.Resampling
) -> npt.NDArray[np.uint8]:
    """Return ``image`` (H, W, 3) uint8 resized to ``size`` = (height, width)."""
    height, width = size
    resized = Image.fromarray(image).resize((width, height), resample)
    return np.asarray(resized)
