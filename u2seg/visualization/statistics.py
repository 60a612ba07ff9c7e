"""Numbers about pseudo-labels; none is a measure of accuracy: no ground truth is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from u2seg.structures.labels import LabelSpace
from u2seg.visualization.sources import LabelRun


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over a labelling run.

    Args:
        masks_per_image: One number per image, images without masks included.
        area_percent: Area of every mask in percent of its image.
        border_contact: Share of masks whose box touches the border of the image, 0..1.
        cluster_sizes: Thing cluster id -> masks in it; clusters without masks are absent.
        stuff_share: Stuff cluster id -> share of all pixels, 0..1; unused ones are absent.
        thing_share: Share of all pixels under things, 0..1.
        void_share: Share of all pixels in no segment, 0..1.
    """

    masks_per_image: list[int] = field(default_factory=list)
    area_percent: list[float] = field(default_factory=list)
    border_contact: float = 0.0
    cluster_sizes: dict[int, int] = field(default_factory=dict)
    stuff_share: dict[int, float] = field(default_factory=dict)
    thing_share: float = 0.0
    void_share: float = 0.0

    @property
    def without_masks(self) -> int:
        """Images that have no mask."""
        return sum(1 for count in self.masks_per_image if count == 0)


def touches_border(box: Sequence[float], height: int, width: int) -> bool:
    """Return whether a COCO box (x, y, width, height) in pixels reaches the image border.

    Examples:
        >>> touches_border((1, 1, 8, 8), 10, 10), touches_border((1, 1, 9, 8), 10, 10)
        (False, True)
    """
    x, y, w, h = box
    return x <= 0 or y <= 0 or x + w >= width or y + h >= height


def label_statistics(run: LabelRun) -> LabelStatistics:
    """Return the statistics of what ``run`` holds."""
    areas, contact, total = [], 0, 0
    masks = run.masks or {}
    by_id = {image.id: image for image in run.images}
    for image_id, records in masks.items():
        image = by_id.get(image_id)
        if image is None:
            continue
        for record in records:
            total += 1
            areas.append(100.0 * float(record["area"]) / max(1, image.height * image.width))
            contact += touches_border(record["bbox"], image.height, image.width)
    sizes = Counter(int(row["category_id"]) - 1 for row in run.instances)
    stuff, things, void = _pixel_shares(run)
    return LabelStatistics(
        masks_per_image=[]
        if run.masks is None
        else [len(masks.get(image.id, ())) for image in run.images],
        area_percent=areas,
        border_contact=contact / total if total else 0.0,
        cluster_sizes=dict(sizes),
        stuff_share=stuff,
        thing_share=things,
        void_share=void,
    )


def _pixel_shares(run: LabelRun) -> tuple[dict[int, float], float, float]:
    folder = run.panoptic
    if folder is None or folder.space is None or not folder.by_file:
        return {}, 0.0, 0.0
    sizes = {image.file_name: image.height * image.width for image in run.images}
    return segment_shares(
        {name: record.segments for name, record in folder.by_file.items()}, sizes, folder.space
    )


def segment_shares(
    segments: Mapping[str, Sequence[Mapping[str, Any]]],
    pixels: Mapping[str, int],
    space: LabelSpace,
) -> tuple[dict[int, float], float, float]:
    """Return (stuff cluster -> share, share of things, share of void) of all pixels.

    Args:
        segments: File name -> ``segments_info`` with ``category_id`` and ``area``.
        pixels: File name -> pixels of the image; images not named here are passed over.
        space: The numbering.

    Examples:
        >>> one = {"a.jpg": [{"category_id": 1, "area": 2}, {"category_id": 3, "area": 5}]}
        >>> segment_shares(one, {"a.jpg": 10}, LabelSpace(1, 2))
        ({1: 0.5}, 0.2, 0.3)
    """
    stuff: Counter[int] = Counter()
    things = total = 0
    for name, rows in segments.items():
        if name not in pixels:
            continue
        total += pixels[name]
        for row in rows:
            category = int(row["category_id"])
            if space.is_thing(category):
                things += int(row["area"])
            else:
                stuff[category - 1 - space.num_things] += int(row["area"])
    if not total:
        return {}, 0.0, 0.0
    void = max(0, total - things - sum(stuff.values()))
    return {k: v / total for k, v in sorted(stuff.items())}, things / total, void / total


def percent(share: float) -> str:
    """Return a share 0..1 in percent, with one decimal where it matters.

    Examples:
        >>> percent(0.6), percent(0.034), percent(0.0001), percent(0.0)
        ('60 %', '3.4 %', '< 0.1 %', '0 %')
    """
    value = 100 * share
    if value == 0 or value >= 10:
        return f"{value:.0f} %"
    return "< 0.1 %" if value < 0.1 else f"{value:.1f} %"
