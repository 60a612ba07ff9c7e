"""Semantic-aware copy-paste: objects of one training image pasted into others.

Source: U2Seg (arXiv 2312.17243, section 3.4) names pairs of the same cluster, random size and
place, and alpha blending, and published no code; constants come from CutLER (commit cca0a27) and
CUPS (CVPR 2025), see ``CopyPasteSettings``.
Deviations from CutLER: objects come from all other images of the batch, and with ``memory`` from
earlier batches, not from the batch in reverse order; a size is relative to the receiving image,
as images of a batch differ in scale; ignored regions are never pasted on.

Every image has random numbers of its own, from the seed and its place in the stream of images, so
the result does not depend on the number of loading processes and is the same after a resume.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.training import CopyPasteSettings
from u2seg.data.copy_paste_pixels import Box, Canvas, Donor, cut_donor, scale_donor

logger = logging.getLogger(__name__)
Sample = dict[str, Any]
_STREAM = 0x9A57E
"""Keeps these random numbers apart from others of the same seed."""
_PLACES = 4
"""Places tried for an object before it is given up."""


class CopyPaste:
    """Callable batch -> batch; keeps the objects of ``memory`` earlier batches."""

    def __init__(self, settings: CopyPasteSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self._bank: deque[list[Donor]] = deque(maxlen=settings.memory)

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples with objects pasted between them; the given ones stay as they are.

        Args:
            samples: Of ``PanopticMapper`` in training, with ``draw``: place of the image in the
                stream of training images. ``ignored``, (h, w) bool, is respected if there.

        Returns:
            New dictionaries in the same order. A pasted pixel belongs to the pasted object alone
            and is 0 in ``sem_seg``. Pasted objects come last; ``pasted``, (n,) bool, marks them.
        """
        result = list(samples)
        if self.settings.enabled:
            pool = _Pool(samples, [donor for batch in self._bank for donor in batch])
            result = [self._with_objects(i, sample, pool) for i, sample in enumerate(samples)]
            self.remember(samples)
        return result

    def remember(self, samples: Sequence[Sample]) -> None:
        """Keep the objects of a batch for later ones, as if it had gone through."""
        if self.settings.enabled and self.settings.memory:
            found = [_donor(s, k) for s in samples for k in range(len(s["instances"]))]
            self._bank.append([donor for donor in found if donor is not None])

    def _with_objects(self, number: int, sample: Sample, pool: _Pool) -> Sample:
        import torch

        rng = np.random.default_rng([self.seed, _STREAM, int(sample["draw"])])
        known = len(sample["instances"])
        unchanged = {**sample, "pasted": torch.zeros(known, dtype=torch.bool)}
        if rng.random() >= self.settings.rate:
            return unchanged
        count = int(rng.integers(1, self.settings.max_objects + 1))
        clusters = sample["instances"].gt_classes.numpy()
        chosen = pool.choose(number, clusters, count, self.settings.same_cluster, rng)
        canvas: Canvas | None = None
        classes = clusters.tolist()
        for donor in chosen:
            canvas = canvas or _canvas(sample, count, self.settings)
            if _place(canvas, donor, self.settings.scale, rng):
                classes.append(donor.cluster)
        if canvas is None or len(classes) == known:
            return unchanged
        return _finished(sample, canvas, classes)


class _Pool:
    """All objects that may be pasted: of this batch, cut out when they are needed, and the bank."""

    def __init__(self, samples: Sequence[Sample], bank: Sequence[Donor]) -> None:
        self.samples, self.bank = samples, bank
        here = [(i, k) for i, s in enumerate(samples) for k in range(len(s["instances"]))]
        self.places = here
        owners = [i for i, _ in here] + [-1] * len(bank)
        classes = [int(samples[i]["instances"].gt_classes[k]) for i, k in here]
        self.owners = np.array(owners, dtype=np.int64)
        self.clusters = np.array(classes + [donor.cluster for donor in bank], dtype=np.int64)

    def choose(
        self,
        number: int,
        clusters: npt.NDArray[np.int64],
        count: int,
        same: float,
        rng: np.random.Generator,
    ) -> Iterator[Donor]:
        """Yield up to ``count`` different objects for image ``number``, never its own."""
        free = self.owners != number
        akin = np.isin(self.clusters, clusters)
        for _ in range(count):
            alike = rng.random() < same
            candidates = np.flatnonzero(free & akin if alike else free)
            if not candidates.size:
                continue
            index = int(candidates[rng.integers(candidates.size)])
            free[index] = False
            donor = self._get(index)
            if donor is not None:
                yield donor

    def _get(self, index: int) -> Donor | None:
        if index >= len(self.places):
            return self.bank[index - len(self.places)]
        owner, row = self.places[index]
        return _donor(self.samples[owner], row)


def _donor(sample: Sample, row: int) -> Donor | None:
    instances = sample["instances"]
    mask = instances.gt_masks.tensor[row].numpy()
    (box,) = _whole_boxes(instances, slice(row, row + 1))
    return cut_donor(sample["image"].numpy(), mask, box, int(instances.gt_classes[row]))


def _whole_boxes(instances: Any, rows: slice = slice(None)) -> list[Box]:
    """Return boxes in whole pixels, grown to them and kept inside the frame."""
    height, width = instances.image_size
    boxes = instances.gt_boxes.tensor[rows].numpy()
    low = np.maximum(np.floor(boxes[:, :2]), 0).astype(int)
    high = np.minimum(np.ceil(boxes[:, 2:]), (width, height)).astype(int)
    return [(x0, y0, x1, y1) for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist())]


def _canvas(sample: Sample, room: int, rules: CopyPasteSettings) -> Canvas:
    """Return copies of a sample's arrays, with ``room`` empty masks behind its own."""
    masks = sample["instances"].gt_masks.tensor.numpy()
    wide = np.zeros((len(masks) + room, *sample["image"].shape[1:]), dtype=bool)
    wide[: len(masks)] = masks
    stuff = sample["sem_seg"].numpy().copy() if "sem_seg" in sample else None
    ignored = sample["ignored"].numpy() if "ignored" in sample else None
    image = sample["image"].numpy().copy()
    return Canvas(image, wide, _whole_boxes(sample["instances"]), stuff, ignored, rules)


def _place(
    canvas: Canvas, donor: Donor, scale: tuple[float, float], rng: np.random.Generator
) -> bool:
    """Paste an object at a random size and place; False if no place tried would do."""
    height, width = canvas.image.shape[1:]
    sized = scale_donor(donor, rng.uniform(*scale) * min(height, width) / donor.side)
    if sized is None:
        return False
    slack = height - sized.mask.shape[0], width - sized.mask.shape[1]
    for _ in range(_PLACES):
        # Inside the frame where it fits; what is longer than the frame covers all of it.
        top, left = (int(rng.integers(min(s, 0), max(s, 0) + 1)) for s in slack)
        if canvas.paste(sized, top, left):
            return True
    return False


def _finished(sample: Sample, canvas: Canvas, classes: list[int]) -> Sample:
    import torch
    from detectron2.structures import BitMasks, Boxes, Instances

    rows = [row for row, alive in enumerate(canvas.alive) if alive]
    every = len(rows) == len(canvas.alive)
    masks = canvas.masks[: len(rows)] if every else canvas.masks[rows]
    boxes = np.array([canvas.boxes[row] for row in rows], dtype=np.float32).reshape(-1, 4)
    instances = Instances(sample["instances"].image_size)
    instances.gt_classes = torch.tensor([classes[row] for row in rows], dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    known = len(sample["instances"])
    pasted = torch.tensor([row >= known for row in rows], dtype=torch.bool)
    result = {**sample, "image": torch.from_numpy(canvas.image), "instances": instances}
    if canvas.stuff is not None:
        result["sem_seg"] = torch.from_numpy(canvas.stuff)
    return {**result, "pasted": pasted}
