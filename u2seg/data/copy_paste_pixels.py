"""Paste one object into one training image, and whether its parts still tell the same story.

Plain arrays, all work inside small windows.

Images are (3, H, W) uint8 in any channel order, masks (H, W) bool, boxes (x0, y0, x1, y1) in
whole pixels with x1 and y1 exclusive; y down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.training import CopyPasteSettings

Sample = dict[str, Any]
Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
VOID = 255
NOWHERE: Box = (0, 0, 0, 0)


@dataclass(frozen=True)
class Donor:
    """An object cut out of its image.

    Args:
        image: (3, h, w) uint8, the pixels of its box.
        mask: (h, w) bool, tight: every side of the box touches it.
        cluster: Class 0..K-1.
        side: Shorter side of the image it comes from, in pixels.
    """

    image: npt.NDArray[np.uint8]
    mask: Mask
    cluster: int
    side: int


def tight_box(mask: Mask) -> Box:
    """Return the box of a mask, (0, 0, 0, 0) if it is empty.

    Examples:
        >>> tight_box(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool))
        (1, 1, 3, 2)
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return NOWHERE
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cut_donor(image: npt.NDArray[np.uint8], mask: Mask, within: Box, cluster: int) -> Donor | None:
    """Return a copy of an object's pixels; None if its mask is empty.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W) bool.
        within: A box that holds the whole mask.
        cluster: Class of the object.
    """
    left, top, right, bottom = within
    x0, y0, x1, y1 = tight_box(mask[top:bottom, left:right])
    if x1 == 0:
        return None
    rows, columns = slice(top + y0, top + y1), slice(left + x0, left + x1)
    return Donor(
        image[:, rows, columns].copy(), mask[rows, columns].copy(), cluster, min(image.shape[1:])
    )


def scale_donor(donor: Donor, factor: float) -> Donor | None:
    """Return the object resized (bilinear, mask at half coverage); None if nothing is left.

    Examples:
        >>> one = Donor(np.full((3, 2, 2), 9, np.uint8), np.ones((2, 2), bool), 0, 4)
        >>> scale_donor(one, 2.0).mask.shape
        (4, 4)
    """
    height, width = donor.mask.shape
    size = max(1, round(height * factor)), max(1, round(width * factor))
    if size == (height, width):
        return donor
    import torch
    from torch.nn.functional import interpolate

    layers = np.concatenate([donor.image, donor.mask[None].astype(np.uint8) * 255])
    # In whole numbers: the same whatever the number of threads.
    resized = interpolate(
        torch.from_numpy(layers)[None], size, mode="bilinear", antialias=True, align_corners=False
    )[0].numpy()
    mask = resized[3] >= 128
    x0, y0, x1, y1 = tight_box(mask)
    if x1 == 0:
        return None
    return Donor(resized[:3, y0:y1, x0:x1], mask[y0:y1, x0:x1], donor.cluster, donor.side)


def fade_weights(mask: Mask, width: int) -> npt.NDArray[np.uint8]:
    """Return how many steps inside its mask a pixel lies, at most ``width`` + 1; 0 outside.

    Steps are counted along rows and columns; beyond the array is outside.

    Examples:
        >>> fade_weights(np.ones((3, 5), bool), 2).tolist()
        [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]
    """
    weights = mask.astype(np.uint8)
    framed = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), dtype=bool)
    inside = framed[1:-1, 1:-1]
    inside[:] = mask
    for _ in range(width):
        across = framed[1:-1, :-2] & framed[1:-1, 2:]
        across &= framed[:-2, 1:-1]
        across &= framed[2:, 1:-1]
        inside &= across
        weights += inside
    return weights


@dataclass
class Canvas:
    """An image that objects are pasted into, with its labels; all arrays are changed in place.

    Args:
        image: (3, H, W) uint8.
        masks: (n + room, H, W) bool; rows from n on are empty and get the pasted objects.
        boxes: Box of each of the n objects, at least as large as its mask.
        stuff: (H, W) integers, 0 any thing, 1..S stuff, 255 void; None without semantic labels.
        ignored: (H, W) bool, regions without known labels (crowds); None = there are none.
        rules: Thresholds.

    ``alive`` says which rows still count; rows that were covered too much are empty.
    """

    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    boxes: list[Box]
    stuff: npt.NDArray[np.integer] | None
    ignored: Mask | None
    rules: CopyPasteSettings
    alive: list[bool] = field(init=False)
    _known: int = field(init=False)
    _whole: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.alive = [True] * len(self.boxes)
        self._known = len(self.boxes)

    def paste(self, donor: Donor, top: int, left: int) -> bool:
        """Paste an object with the corner of its box at (left, top), which may be outside."""
        rows, columns, part = self._visible(donor, top, left)
        shown = int(np.count_nonzero(part))
        least = self.rules.min_visible * np.count_nonzero(donor.mask)
        if shown < max(self.rules.min_area, least):
            return False
        touched = self._touched(rows, columns, part)
        # What was pasted before must stay: its pixels are in the image already.
        guarded = 0 if self.rules.covered == "refuse" else self._known
        if any(gone and row >= guarded for row, gone in touched):
            return False
        for row, gone in touched:
            self.masks[row, rows, columns] &= ~part
            self._settle(row, gone)
        self._blend(donor, (rows, columns, part), (rows.start - top, columns.start - left))
        if self.stuff is not None:
            self.stuff[rows, columns][part] = 0
        self._append(rows, columns, part, shown)
        return True

    def _visible(self, donor: Donor, top: int, left: int) -> tuple[slice, slice, Mask]:
        """Return the window and which of its pixels would show the object."""
        rows = _inside(top, donor.mask.shape[0], self.image.shape[1])
        columns = _inside(left, donor.mask.shape[1], self.image.shape[2])
        part = donor.mask[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ].copy()
        if self.stuff is not None:
            part &= self.stuff[rows, columns] != VOID
        if self.ignored is not None:
            part &= ~self.ignored[rows, columns]
        return rows, columns, part

    def _touched(self, rows: slice, columns: slice, part: Mask) -> list[tuple[int, bool]]:
        """Return (row, whether too little of it would remain) of the objects beneath."""
        touched = []
        for row, (x0, y0, x1, y1) in enumerate(self.boxes):
            apart = x1 <= columns.start or columns.stop <= x0 or y1 <= rows.start or rows.stop <= y0
            if apart or not self.alive[row]:
                continue
            covered = int(np.count_nonzero(self.masks[row, rows, columns] & part))
            if covered:
                now = int(np.count_nonzero(self.masks[row, y0:y1, x0:x1]))
                whole = self._whole.setdefault(row, now)
                remains = now - covered
                gone = remains == 0 or remains < self.rules.min_visible * whole
                touched.append((row, gone))
        return touched

    def _settle(self, row: int, gone: bool) -> None:
        """Tighten the box of a cut object, or take the object out."""
        x0, y0, x1, y1 = self.boxes[row]
        window = self.masks[row, y0:y1, x0:x1]
        if not gone:
            a, b, c, d = tight_box(window)
            self.boxes[row] = (x0 + a, y0 + b, x0 + c, y0 + d)
            return
        self.alive[row] = False
        rest = window.copy()
        window[:] = False
        if self.stuff is not None:
            # Where objects overlap, another one may explain these pixels.
            rest &= ~self.masks[: len(self.boxes), y0:y1, x0:x1].any(axis=0)
            self.stuff[y0:y1, x0:x1][rest] = VOID

    def _blend(
        self, donor: Donor, window: tuple[slice, slice, Mask], corner: tuple[int, int]
    ) -> None:
        rows, columns, part = window
        inside = (
            slice(corner[0], corner[0] + part.shape[0]),
            slice(corner[1], corner[1] + part.shape[1]),
        )
        pixels = donor.image[(slice(None), *inside)]
        target = self.image[:, rows, columns]
        if not self.rules.blend:
            np.copyto(target, pixels, where=part)
            return
        weights = fade_weights(donor.mask, self.rules.blend)
        full = int(weights.max())  # a thin object is opaque along its middle, however narrow
        weights = weights[inside]
        y, x = np.nonzero(part & (weights < full))
        weight = weights[y, x].astype(np.uint16)
        mixed = target[:, y, x] * (full - weight) + pixels[:, y, x] * weight
        np.copyto(target, pixels, where=part)
        target[:, y, x] = (mixed + full // 2) // full

    def _append(self, rows: slice, columns: slice, part: Mask, shown: int) -> None:
        row = len(self.boxes)
        self.masks[row, rows, columns] = part
        x0, y0, x1, y1 = tight_box(part)
        left, top = columns.start, rows.start
        self.boxes.append((left + x0, top + y0, left + x1, top + y1))
        self.alive.append(True)
        self._whole[row] = shown


def _inside(start: int, length: int, limit: int) -> slice:
    """Return the part of start..start + length that lies in 0..limit, maybe empty."""
    first = min(max(start, 0), limit)
    return slice(first, max(first, min(start + length, limit)))


def panoptic_ids(sample: Sample) -> npt.NDArray[np.int32]:
    """Return the (h, w) int32 panoptic map of a sample with n instances and maybe ``sem_seg``.

    0 void; k + 1 instance k (of overlapping ones the last); n + c stuff c, 1..S. A pixel of "any
    thing" that no instance explains is void.
    """
    masks = sample["instances"].gt_masks.tensor.numpy()
    ids = np.zeros(sample["image"].shape[1:], dtype=np.int32)
    if "sem_seg" in sample:
        stuff = sample["sem_seg"].numpy()
        ids = np.where((stuff > 0) & (stuff != VOID), stuff + len(masks), 0).astype(np.int32)
    for row, mask in enumerate(masks):
        ids[mask] = row + 1
    return ids


def disagreements(sample: Sample) -> list[str]:
    """Return in words what does not fit together in a sample; empty if all does.

    Checked: masks are disjoint and not empty, boxes are tight, there is a class per mask, and
    ``sem_seg`` is 0 exactly where an instance (or a crowd, ``ignored``) is. Labels of this
    package keep all of it; ground truth of other sources may have overlapping objects.
    """
    instances = sample["instances"]
    masks = instances.gt_masks.tensor.numpy()
    found = []
    if len(instances.gt_classes) != len(masks):
        found.append(f"{len(masks)} masks have {len(instances.gt_classes)} classes")
    cover = np.zeros(sample["image"].shape[1:], dtype=np.int32)
    for row, (mask, box) in enumerate(zip(masks, instances.gt_boxes.tensor.tolist())):
        cover += mask
        if not mask.any():
            found.append(f"instance {row} has no pixel")
        elif tight_box(mask) != tuple(box):
            found.append(f"the box of instance {row} is {box}, its mask has {tight_box(mask)}")
    overlap = int(np.count_nonzero(cover > 1))
    if overlap:
        found.append(f"{overlap} pixels belong to several instances")
    if "sem_seg" in sample:
        thing = sample["sem_seg"].numpy() == 0
        known = ~sample["ignored"].numpy() if "ignored" in sample else True
        bare, hidden = int((thing & (cover == 0) & known).sum()), int((~thing & (cover > 0)).sum())
        if bare:
            found.append(f"{bare} pixels are 'any thing' without an instance")
        if hidden:
            found.append(f"{hidden} pixels of instances are stuff or void in the stuff map")
    return found
