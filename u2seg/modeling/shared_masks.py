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
from detectron2.structures import BitMasks, Instances

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
        """Return some rows; a single number gives one row."""
        return SharedMasks(self.source, self.rows[item].reshape(-1))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the mask of each row, (H, W), not copied."""
        return (self.source[row] for row in self.rows.tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Return the part of each row's mask in its box, resized: the host's to the last bit.

        Args:
            boxes: (N, 4) x0, y0, x1, y1 in pixels.
            mask_size: M.

        Returns:
            (N, M, M) bool.
        """
        if len(boxes) != len(self):
            raise ValueError(f"{len(boxes)} boxes for {len(self)} masks")
        # One mask in float32 after the other stays in a processor's cache; a GPU is kept waiting
        # by many small steps.
        at_once = 1 if self.device.type == "cpu" else GPU_MASKS
        boxes = boxes.to(self.device)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        result = torch.zeros(
            (len(self), mask_size, mask_size), dtype=torch.bool, device=self.device
        )
        for first in range(0, len(self.source), at_once):
            chosen = torch.nonzero((self.rows >= first) & (self.rows < first + at_once))[:, 0]
            if len(chosen):
                maps = self.source[first : first + at_once].to(torch.float32)[:, None]
                place = (self.rows[chosen] - first).to(boxes.dtype)[:, None]
                cut = align(maps, torch.cat([place, boxes[chosen]], dim=1))
                result[chosen] = cut[:, 0] >= INSIDE
        return result


def with_shared_masks(targets: Sequence[Instances]) -> list[Instances]:
    """Return the targets of a batch with their bit masks as ``SharedMasks``, not copied.

    Polygons stay as they are: they are small.
    """
    result = []
    for target in targets:
        masks = target.gt_masks if target.has("gt_masks") else None
        if isinstance(masks, BitMasks) and not isinstance(masks, SharedMasks):
            target = Instances(target.image_size, **target.get_fields())
            target.gt_masks = SharedMasks(masks.tensor)
        result.append(target)
    return result
