"""Tables of images made by hand, without pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from u2seg.evaluation.collect import ImageTable, Pairs, StuffPixels
from u2seg.evaluation.metrics.overlap import Overlap
from u2seg.evaluation.metrics.panoptic import TruthSegment

NOTHING = np.zeros(0)


def pairs(rows: Sequence[tuple]) -> Pairs:
    """Return pairs from (detection, instance, cluster, class, score, mask IoU, box IoU, crowd)."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 8
    detection, instance, cluster, true_class = (np.array(c, np.int64) for c in columns[:4])
    score, mask, box = (np.array(c, np.float64) for c in columns[4:7])
    crowd = np.array(columns[7], dtype=bool)
    return Pairs(detection, instance, cluster, true_class, crowd, score, mask, box)


def table(
    image_id: int = 1,
    *,
    instances: Sequence[tuple] = (),
    stuff: Sequence[tuple[int, int, int]] = (),
    segments: Sequence[tuple[int, int, int]] = (),
    truth: dict[int, TruthSegment] | None = None,
    predicted: dict[int, int] | None = None,
) -> ImageTable:
    """Return a table.

    Args:
        image_id: The image.
        instances: Rows of ``pairs``.
        stuff: (cluster, class, pixels) of the stuff map.
        segments: (true segment, predicted segment, pixels).
        truth: True segment -> its class and area.
        predicted: Predicted segment -> cluster.
    """
    cells = [np.array([row[i] for row in stuff], dtype=np.int64) for i in range(3)]
    shared = [np.array([row[i] for row in segments], dtype=np.int64) for i in range(3)]
    return ImageTable(
        image_id=image_id,
        overlap=Overlap(*shared),
        truth=truth or {},
        predicted=predicted or {},
        stuff_pixels=StuffPixels(*cells),
        pairs=pairs(instances),
        detections=NOTHING.astype(np.int64),
        instances=[],
        empty=False,
    )
