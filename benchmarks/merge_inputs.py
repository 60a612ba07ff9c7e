"""Synthetic labels to merge and to join: blobs on a patchwork of stuff, and part files of many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from u2seg.config.schema import PanopticSettings
from u2seg.labels.write import LabelRecord, label_record, write_part
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask

SPACE = LabelSpace(num_things=800, num_stuff=27)
"""The published numbers of clusters."""
NUMBER = 1
OLD_NAME = b'"file_name":"00000/000000001.png"'
"""Id and name under which an image of the pool is encoded."""
STUFF_SEEN = 6
"""Stuff clusters of one image."""


@dataclass(frozen=True)
class MergeSizes:
    """How large the measured problems are; tests take small ones.

    Args:
        height, width: Of an image, pixels.
        things: Masks of an image: as many as MaskCut cuts.
        pool: Different images; a longer run repeats them under other names and ids.
        shard: Images of a part file, the default of ``RUN.SHARD_SIZE``.
        images: Images of the run that is joined again and again.
        full_images: Images of the run that is joined once.
    """

    height: int = 480
    width: int = 640
    things: int = 3
    pool: int = 16
    shard: int = 64
    images: int = 33_334
    full_images: int = 1_030_000


@dataclass(frozen=True)
class Unmerged:
    """What the merge of one image gets: n masks, n cluster ids, (H, W) uint8 stuff clusters."""

    masks: list[InstanceMask]
    clusters: list[int]
    stuff: npt.NDArray[np.uint8]


def unmerged(sizes: MergeSizes, number: int = 0) -> Unmerged:
    """Return seeded blobs, which overlap now and then, on a patchwork of stuff."""
    rng = np.random.default_rng(number)
    shape = (sizes.height, sizes.width)

    def smooth(width: float) -> npt.NDArray[np.float64]:
        field: npt.NDArray[np.float64] = gaussian_filter(rng.standard_normal(shape), width)
        return field

    patches = np.stack([smooth(sizes.height / 24) for _ in range(STUFF_SEEN)])
    masks = []
    for _ in range(sizes.things):
        field = smooth(sizes.height / 12)
        masks.append(InstanceMask.from_array(field > 1.2 * field.std(), float(rng.random())))
    chosen = rng.choice(SPACE.num_stuff, STUFF_SEEN, replace=False).astype(np.uint8)
    clusters = rng.integers(0, SPACE.num_things, sizes.things).tolist()
    return Unmerged(masks, clusters, chosen[patches.argmax(axis=0)])


def image_record(number: int, sizes: MergeSizes) -> dict[str, Any]:
    """Return the record of image ``number``, 1.., as ``images.json`` has it."""
    return {
        "id": number,
        "file_name": f"{number // 1000:05d}/{number:09d}.jpg",
        "height": sizes.height,
        "width": sizes.width,
    }


@dataclass(frozen=True)
class ImageRecords:
    """The records of images 1..count, made anew each time they are gone through."""

    count: int
    sizes: MergeSizes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (image_record(number, self.sizes) for number in range(1, self.count + 1))


def write_parts(folder: Path, sizes: MergeSizes, count: int) -> int:
    """Write the part files of ``count`` images; return the number of instances in them."""
    rules = PanopticSettings()
    pool = []
    for number in range(min(sizes.pool, count)):
        raw = unmerged(sizes, number)
        label = merge_panoptic(raw.masks, raw.clusters, raw.stuff, SPACE, rules)
        pool.append(label_record(image_record(NUMBER, sizes), label))
    instances = 0
    for part, start in enumerate(range(1, count + 1, sizes.shard)):
        records = []
        for number in range(start, min(start + sizes.shard, count + 1)):
            records.append(_renamed(pool[number % len(pool)], image_record(number, sizes)))
            instances += len(records[-1].instances)
        write_part(part_path(folder, part), records)
    return instances


def part_path(folder: Path, index: int) -> Path:
    """Return where part ``index`` lies."""
    return folder / f"part-{index:05d}.json"


def _renamed(record: LabelRecord, image: dict[str, Any]) -> LabelRecord:
    name, number = image["file_name"].replace(".jpg", ".png").encode(), image["id"]
    ids = b'"image_id":%d,' % NUMBER, b'"image_id":%d,' % number
    panoptic = record.panoptic.replace(OLD_NAME, b'"file_name":"%s"' % name, 1)
    instances = tuple(row.replace(*ids, 1) for row in record.instances)
    return LabelRecord(number, record.segments, panoptic.replace(*ids, 1), instances)
