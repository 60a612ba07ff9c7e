"""Masks as the places where they change: made on a device, read as run-length codes.

A run-length code is made of the places, column by column, at which a mask changes. They are
found on the device and travel as bits; the host looks at the bytes that are not 0, a few hundred
of a mask.

Shapes: M masks, H x W pixels, P = H W.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from u2seg.structures.masks import InstanceMask


def pack_changes(masks: Tensor) -> Tensor:
    """Return where masks change, in column-major order, as bits, the lowest first.

    Args:
        masks: (M, H, W) bool. Before its first pixel a mask is background.

    Returns:
        (M, ceil(P / 8)) uint8.

    Examples:
        Column by column the pixels are 0, 0, 1, 1 and change at place 2:

        >>> pack_changes(torch.tensor([[[False, True], [False, True]]])).tolist()
        [[4]]
    """
    flat = masks.transpose(1, 2).flatten(1)
    changes = flat.clone()
    changes[:, 1:] ^= flat[:, :-1]
    changes = torch.nn.functional.pad(changes, (0, -changes.shape[1] % 8))
    places = torch.arange(8, device=masks.device, dtype=torch.uint8)
    bits = changes.reshape(len(masks), -1, 8).to(torch.uint8) << places
    return bits.sum(dim=2, dtype=torch.uint8)


def read_mask(
    packed: npt.NDArray[np.uint8], size: tuple[int, int], score: float
) -> InstanceMask | None:
    """Return what ``InstanceMask.from_array`` does of a mask; None if it is empty.

    Args:
        packed: (ceil(P / 8),) of ``pack_changes``.
        size: (H, W).
        score: Of the mask.

    Examples:
        >>> mask = read_mask(np.array([4], dtype=np.uint8), (2, 2), 1.0)
        >>> mask.rle, mask.bbox, mask.area
        ({'size': [2, 2], 'counts': '22'}, (1.0, 0.0, 1.0, 2.0), 2)
        >>> read_mask(np.array([0], dtype=np.uint8), (2, 2), 1.0) is None
        True
    """
    filled = np.flatnonzero(packed)
    if len(filled) == 0:
        return None
    row, bit = np.nonzero(np.unpackbits(packed[filled, None], axis=1, bitorder="little"))
    ends = np.append(8 * filled[row] + bit, size[0] * size[1])
    runs = np.diff(ends, prepend=0)
    rle = coco_mask.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    code = {"size": list(size), "counts": rle["counts"].decode("ascii")}
    return InstanceMask(code, float(score), (x, y, width, height), int(runs[1::2].sum()))
