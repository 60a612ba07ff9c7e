"""Instance masks as compressed COCO run-length codes.

Boxes are COCO's: (x, y, width, height) in pixels, x to the right, y down, integers as floats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

Rle = dict[str, Any]
"""``{"size": [H, W], "counts": str}``: COCO compressed RLE with text counts."""
_COUNTS = re.compile(r"(?:[P-o]{0,6}[0-O])*")
"""Runs of 5-bit groups: a character from P on announces another group of the same number."""


def encode_mask(mask: npt.NDArray[np.bool_]) -> Rle:
    """Return the compressed RLE of a mask.

    Args:
        mask: (H, W) bool, or anything that compares to zero; empty masks are allowed.

    Returns:
        ``{"size": [H, W], "counts": str}``, JSON-ready.

    Raises:
        ValueError: if ``mask`` is not 2-D.

    Examples:
        >>> encode_mask(np.array([[0, 1], [0, 1]]))
        {'size': [2, 2], 'counts': '22'}
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H, W), got shape {mask.shape}")
    rle = coco_mask.encode(np.asfortranarray(mask != 0).astype(np.uint8, order="F"))
    return {"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode("ascii")}


def rle_runs(counts: str | bytes) -> npt.NDArray[np.int64]:
    """Return the run lengths (background first, column-major) of compressed counts.

    Args:
        counts: As written by ``pycocotools``: numbers in base 32 with a sign bit, from the
            fourth on as differences to the number two before.

    Raises:
        ValueError: if a character or a number is not of this code, or a run is negative.

    Examples:
        >>> rle_runs("22").tolist(), rle_runs("1110").tolist()
        ([2, 2], [1, 1, 1, 1])
    """
    text = counts.decode("latin1") if isinstance(counts, bytes) else counts
    if not _COUNTS.fullmatch(text):
        raise ValueError(f"RLE counts {text[:40]!r} are not COCO's compressed code")
    if not text:
        return np.zeros(0, dtype=np.int64)
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= ((codes[ends] & 16) > 0) * (np.int64(1) << (5 * (ends - starts + 1)))
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    if runs.min() < 0:
        raise ValueError(f"RLE counts {text[:40]!r} hold a negative run")
    return runs


def check_rle(rle: Rle) -> None:
    """Raise ``ValueError`` unless an RLE describes exactly its H x W pixels.

    pycocotools 2.0.11 itself accepts runs that end too early and returns uninitialised memory.

    Examples:
        >>> check_rle({"size": [2, 2], "counts": "2"})
        Traceback (most recent call last):
            ...
        ValueError: RLE runs cover 2 pixels, its size [2, 2] has 4
    """
    height, width = rle["size"]
    covered = int(rle_runs(rle["counts"]).sum())
    if min(height, width) < 1 or covered != height * width:
        raise ValueError(
            f"RLE runs cover {covered} pixels, its size [{height}, {width}] has {height * width}"
        )


def decode_mask(rle: Rle) -> npt.NDArray[np.bool_]:
    """Return the (H, W) bool mask of an RLE (text or bytes counts).

    Raises:
        ValueError: if the runs are malformed or do not cover exactly H x W pixels.

    Examples:
        >>> decode_mask({"size": [2, 2], "counts": "22"}).tolist()
        [[False, True], [False, True]]
    """
    check_rle(rle)
    decoded: npt.NDArray[np.uint8] = coco_mask.decode(rle)
    return decoded.astype(bool)


def mask_box(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return the tight (x, y, width, height) of a mask; four zeros if it is empty.

    Examples:
        >>> mask_box(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool))
        (1.0, 1.0, 2.0, 1.0)
    """
    rows = np.flatnonzero(mask.any(axis=1))
    cols = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return (0.0, 0.0, 0.0, 0.0)
    x, y = int(cols[0]), int(rows[0])
    return (float(x), float(y), float(cols[-1] - x + 1), float(rows[-1] - y + 1))


@dataclass(frozen=True)
class InstanceMask:
    """One object mask at the resolution of its photograph.

    Args:
        rle: Compressed RLE, see ``Rle``.
        score: Confidence of the proposer, higher is better; 1.0 where it has none.
        bbox: (x, y, width, height) in pixels.
        area: Foreground pixels.
        cluster: 0..K-1; None before it is known.
        parent: Index, in the list it is part of, of the mask it is a part of; None = of none.
        level: Steps from the whole, 0 = it is one.
        granularity: How fine it is, 0..1, for prompts; None = unknown.
        source: Who made it, such as the name of a proposer; empty = not said.
    """

    rle: Rle
    score: float
    bbox: tuple[float, float, float, float]
    area: int
    cluster: int | None = None
    parent: int | None = None
    level: int = 0
    granularity: float | None = None
    source: str = ""

    @classmethod
    def from_array(
        cls, mask: npt.NDArray[np.bool_], score: float = 1.0, cluster: int | None = None
    ) -> InstanceMask:
        """Build from an (H, W) bool mask."""
        area = int(np.count_nonzero(mask))
        return cls(encode_mask(mask), float(score), mask_box(mask), area, cluster)

    def to_array(self) -> npt.NDArray[np.bool_]:
        """Return the (H, W) bool mask."""
        return decode_mask(self.rle)

    def to_result(self, image_id: int, category_id: int | None = None) -> dict[str, Any]:
        """Return the COCO results record, with what is known of the hierarchy.

        Args:
            image_id: Id of the image.
            category_id: None = 1 for all, and ``cluster`` in its own key.
        """
        cluster = {} if category_id or self.cluster is None else {"cluster": self.cluster}
        return {
            "image_id": image_id,
            "category_id": category_id or 1,
            "segmentation": self.rle,
            "score": round(self.score, 6),
            "bbox": list(self.bbox),
            "area": self.area,
            **cluster,
            **self.hierarchy(),
        }

    def hierarchy(self) -> dict[str, Any]:
        """Return parent, level, granularity and source, those that are known.

        Examples:
            >>> whole = InstanceMask.from_array(np.ones((1, 1), dtype=bool))
            >>> whole.hierarchy(), replace(whole, parent=0, level=1).hierarchy()
            ({}, {'parent': 0, 'level': 1})
        """
        keys = ("parent", "level", "granularity", "source")
        found = {key: getattr(self, key) for key in keys}
        plain = {"parent": None, "level": 0, "granularity": None, "source": ""}
        return {key: value for key, value in found.items() if value != plain[key]}

    @classmethod
    def from_result(cls, record: dict[str, Any]) -> InstanceMask:
        """Build from a COCO results record with a compressed RLE.

        ``bbox`` and ``area`` may be absent, as in files of other tools; they are computed then.
        """
        rle = record["segmentation"]
        keys = ("cluster", "parent", "level", "granularity", "source")
        known = {key: record[key] for key in keys if record.get(key) is not None}
        if "bbox" not in record or "area" not in record:
            return replace(cls.from_array(decode_mask(rle), record["score"]), **known)
        x, y, width, height = (float(v) for v in record["bbox"])
        return cls(rle, float(record["score"]), (x, y, width, height), int(record["area"]), **known)


def suppress(masks: Sequence[InstanceMask], max_iou: float) -> list[InstanceMask]:
    """Return masks without those that repeat a better one (greedy non-maximum suppression).

    Args:
        masks: Of one photograph; of equal scores the first counts as better.
        max_iou: A mask whose IoU with one already kept is higher is dropped, 0..1.

    Returns:
        The masks kept, highest score first.

    Examples:
        IoU 2 / 3 of the first two, 0 of the third with both:

        >>> rows = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
        >>> found = [InstanceMask.from_array(r[None], s) for r, s in zip(rows, (0.5, 0.9, 0.7))]
        >>> [m.score for m in suppress(found, 0.6)], [m.score for m in suppress(found, 0.7)]
        ([0.9, 0.7], [0.9, 0.7, 0.5])
    """
    if not masks:
        return []
    ranked = sorted(masks, key=lambda mask: -mask.score)
    codes = [mask.rle for mask in ranked]
    overlap = coco_mask.iou(codes, codes, [False] * len(codes))
    kept: list[int] = []
    for i in range(len(ranked)):
        if all(overlap[i, j] <= max_iou for j in kept):
            kept.append(i)
    return [ranked[i] for i in kept]
