"""Panoptic labels: an id map and its segments, and the COCO colour code of ids.

Source: COCO panoptic format (id = R + 256 G + 65536 B, 0 = void).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_SEGMENT_ID = 2**24 - 1


def ids_to_rgb(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 RGB code of an (H, W) id map.

    Raises:
        ValueError: if an id is negative or above 2^24 - 1.

    Examples:
        >>> ids_to_rgb(np.array([[0, 257, 65536]], dtype=np.int32)).tolist()
        [[[0, 0, 0], [1, 1, 0], [0, 0, 1]]]
    """
    if ids.size and (ids.min() < 0 or ids.max() > MAX_SEGMENT_ID):
        raise ValueError(f"segment ids must be 0..{MAX_SEGMENT_ID}, got {ids.min()}..{ids.max()}")
    wide = ids.astype(np.uint32)
    return np.stack([wide & 255, (wide >> 8) & 255, wide >> 16], axis=-1).astype(np.uint8)


def rgb_to_ids(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return the (H, W) int32 id map of an (H, W, 3) uint8 RGB code.

    Examples:
        >>> rgb_to_ids(np.array([[[1, 1, 0]]], dtype=np.uint8)).tolist()
        [[257]]
    """
    wide = rgb.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic label.

    Args:
        id: 1..2^24-1, unique within its image.
        category_id: 1..K+S, see ``LabelSpace``.
        isthing: Whether the category is a thing.
        area: Pixels, > 0.
        bbox: (x, y, width, height) in pixels.
        score: Confidence, 1.0 for labels.
    """

    id: int
    category_id: int
    isthing: bool
    area: int
    bbox: tuple[float, float, float, float]
    score: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the COCO ``segments_info`` entry, ``iscrowd`` 0."""
        return {
            "id": self.id,
            "category_id": self.category_id,
            "isthing": int(self.isthing),
            "iscrowd": 0,
            "area": self.area,
            "bbox": list(self.bbox),
            "score": round(self.score, 6),
        }


@dataclass(frozen=True)
class PanopticLabel:
    """An id map and its segments.

    Args:
        ids: (H, W) int32; 0 is void, every other value is the id of exactly one segment.
        segments: In paint order; every one has at least one pixel.
    """

    ids: npt.NDArray[np.int32]
    segments: tuple[Segment, ...]
