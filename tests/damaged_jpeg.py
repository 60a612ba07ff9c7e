"""A photograph with damage that Pillow does not notice."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def write_damaged_jpeg(path: Path) -> None:
    """Write a JPEG of 64 x 64 pixels with eight other bytes in the midst of its Huffman codes."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="JPEG")
    content = bytearray(file.getvalue())
    content[1500:1508] = b"\x55" * 8
    path.write_bytes(content)
