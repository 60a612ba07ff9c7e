"""To a device and back without waiting for it more than once.

Memory that the system may move cannot be read by a GPU while the host goes on, so what travels
lies in pinned memory there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device; the host does not wait for the copy."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """Tensors on their way to main memory, all in one copy.

    Args:
        tensors: At least one, all on one device.

    Examples:
        >>> moved = Download([torch.tensor([True]), torch.tensor([[0.5, 1.5]])]).wait()
        >>> [part.tolist() for part in moved]
        [[True], [[0.5, 1.5]]]
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._layout = [(part.shape, part.dtype) for part in tensors]
        # The widest first, so that the bytes of each are aligned.
        self._order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
        flat = [tensors[i].contiguous().flatten().view(torch.uint8) for i in self._order]
        packed = torch.cat(flat)
        self._done: Any = None
        if packed.device.type != "cuda":
            self._bytes = packed.cpu()
            return
        self._bytes = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
        self._bytes.copy_(packed, non_blocking=True)
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._done.record(torch.cuda.current_stream(packed.device))

    def wait(self) -> list[Tensor]:
        """Return the tensors in main memory, in the order given; wait until they are there."""
        if self._done is not None:
            self._done.synchronize()
        moved: dict[int, Tensor] = {}
        start = 0
        for i in self._order:
            shape, kind = self._layout[i]
            size = shape.numel() * torch.empty((), dtype=kind).element_size()
            moved[i] = self._bytes[start : start + size].view(kind).view(shape)
            start += size
        return [moved[i] for i in range(len(moved))]
