"""Bit masks that are kept once, however many rows refer to them.

In training every sampled proposal gets the mask of its object. The host's ``BitMasks`` copies it:
512 proposals at 800 x 1333 pixels are 0.5 GB of an image with perhaps 20 objects, and the
targets of the mask head are cut from copies in float32, four times as large.

Shapes: G masks of one image, N rows, H x W pixels of the image, M x M of a target (28 x 28).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes, Instances

INSIDE = 0.5
"""Share of a target's pixel from which it belongs to the mask, as in the host."""

GPU_MASKS = 32
"""Masks in float32 at a time on a GPU: 136 MB at 800 x 1333."""


class SharedMasks(BitMasks):  # type: ignore[misc]
    """``BitMasks`` whose rows are numbers of masks: selecting rows copies no pixel.

    It stands in wherever the host takes ``BitMasks``. ``tensor``, (N, H, W), is made when it is
    asked for, and then at the size of the host's.

    Args:
        source: (G, H, W) bool; kept, not copied.
        rows: (N,) int64, 0..G-1, on the device of ``source``; None = every mask once.

    Examples:
        >>> masks = SharedMasks(torch.eye(2, dtype=torch.bool)[:, None])
        >>> three = masks[torch.tensor([1, 1, 0])]
        >>> three.tensor[:, 0].int().tolist()
        [[0, 1], [0, 1], [1, 0]]
        >>> three.source is masks.source
        True
    """

    def __init__(self, source: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        # the host's constructor would set ``tensor``
        whole = BitMasks(source)
        self.source: torch.Tensor = whole.tensor
        self.image_size = whole.image_size
        if rows is None:
            rows = torch.arange(len(self.source), device=self.source.device)
        self.rows = rows

    @property
    def tensor(self) -> torch.Tensor:
        """The masks of all rows, (N, H, W) bool: a copy."""
        return self.source[self.rows]

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.source.device

    def to(self, *args: Any, **kwargs: Any) -> SharedMasks:
        """Return the masks on another device."""
        moved = BitMasks(self.source).to(*args, **kwargs).tensor
        return SharedMasks(moved, self.rows.to(moved.device))

    def __getitem__(self, item: Any) -> SharedMasks:
        """Return some rows; a single number gives one row.

        Raises:
            IndexError: if there is no such row.
        """
        return SharedMasks(self.source, self.rows[item].reshape(-1))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the mask of each row, (H, W), not copied."""
        return (self.source[row] for row in self.rows.tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)}, masks={len(self.source)})"

    def nonempty(self) -> torch.Tensor:
        """Return which masks have a pixel, (N,) bool."""
        found: torch.Tensor = BitMasks(self.source).nonempty()
        return found[self.rows]

    def get_bounding_boxes(self) -> Boxes:
        """Return the tight boxes, (x0, y0, x1, y1); all 0 for an empty mask."""
        boxes = BitMasks(self.source).get_bounding_boxes()
        return boxes[self.rows.to(boxes.device)]

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Return the part of each row's mask in its box, resized: the host's to the last bit.

        Args:
            boxes: (N, 4) x0, y0, x1, y1 in pixels.
            mask_size: M.

        Returns:
            (N, M, M) bool.

        Raises:
            ValueError: if there are not as many boxes as rows.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(boxes)} boxes for {len(self)} masks")
        # One mask in float32 after the other stays in a processor's cache; a GPU is kept waiting
        # by many small steps.
        at_once = 1 if self.device.type == "cpu" else GPU_MASKS
        return crop_rows(self.source, self.rows, boxes.to(self.device), mask_size, at_once)

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> SharedMasks:
        """Return all rows of several; masks that they share stay shared."""
        sources: list[torch.Tensor] = []
        rows = []
        for masks in map(_shared, bitmasks_list):
            place = [source is masks.source for source in sources]
            if not any(place):
                sources.append(masks.source)
                place.append(True)
            before = sum(len(source) for source in sources[: place.index(True)])
            rows.append(masks.rows + before)
        source = sources[0] if len(sources) == 1 else torch.cat(sources)
        return SharedMasks(source, torch.cat(rows))


def _shared(masks: BitMasks) -> SharedMasks:
    return masks if isinstance(masks, SharedMasks) else SharedMasks(masks.tensor)


def crop_rows(
    source: torch.Tensor, rows: torch.Tensor, boxes: torch.Tensor, size: int, at_once: int
) -> torch.Tensor:
    """Return the part of each row's mask in its box, (N, size, size) bool.

    Args:
        source: (G, H, W) bool.
        rows: (N,) int64, 0..G-1.
        boxes: (N, 4) x0, y0, x1, y1 in pixels.
        size: Side of the result.
        at_once: How many masks are in float32 at a time.

    Examples:
        The left half of a mask, and its middle: of each pixel half or more must be inside.

        >>> mask = torch.tensor([[[1, 1, 0, 0]] * 4], dtype=torch.bool)
        >>> boxes = torch.tensor([[0.0, 0, 2, 2], [1.0, 0, 3, 2]])
        >>> crop_rows(mask, torch.tensor([0, 0]), boxes, 2, 1).int().tolist()
        [[[1, 1], [1, 1]], [[1, 0], [1, 0]]]
    """
    align = ROIAlign((size, size), 1.0, 0, aligned=True)
    result = torch.zeros((len(rows), size, size), dtype=torch.bool, device=source.device)
    for first in range(0, len(source), at_once):
        chosen = torch.nonzero((rows >= first) & (rows < first + at_once))[:, 0]
        if not len(chosen):
            continue
        maps = source[first : first + at_once].to(torch.float32)[:, None]
        place = (rows[chosen] - first).to(boxes.dtype)[:, None]
        cut = align(maps, torch.cat([place, boxes[chosen]], dim=1))
        result[chosen] = cut[:, 0] >= INSIDE
    return result


def with_shared_masks(targets: Sequence[Instances]) -> list[Instances]:
    """Return the targets of a batch with their bit masks as ``SharedMasks``, not copied.

    Polygons stay as they are: they are small.
    """
    return [_with_shared_masks(target) for target in targets]


def _with_shared_masks(target: Instances) -> Instances:
    if not target.has("gt_masks") or not isinstance(target.gt_masks, BitMasks):
        return target
    result = Instances(target.image_size, **target.get_fields())
    result.gt_masks = _shared(target.gt_masks)
    return result
