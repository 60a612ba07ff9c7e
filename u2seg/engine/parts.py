"""A batch in parts, and how much the losses of a part count.

Most losses are means over the images of a part, or over as many proposals of each. Two are means
over things that some images lack: the mask loss over proposals that match an object, the semantic
loss over labelled pixels. A part without any gives 0, and as a mean of its share of the images it
would weaken the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Batch = Sequence[dict[str, Any]]
VOID = 255
_WEIGHED = ("loss_mask", "loss_sem_seg")


def split(batch: Batch, parts: int) -> list[Batch]:
    """Return a batch in at most ``parts`` parts whose sizes differ by one at most.

    Examples:
        >>> [len(part) for part in split([{}] * 5, 2)], [len(p) for p in split([{}], 2)]
        ([3, 2], [1])
    """
    small, more = divmod(len(batch), parts)
    sizes = [small + (number < more) for number in range(parts)]
    starts = [sum(sizes[:number]) for number in range(parts)]
    return [batch[s : s + size] for s, size in zip(starts, sizes, strict=True) if size]


def loss_shares(parts: Sequence[Batch], device: torch.device) -> list[Mapping[str, float]]:
    """Return for each part which share of the batch's losses its own are, where known.

    The semantic loss has the share of the part's labelled pixels, which is exact. How many
    proposals will match an object is not known before the last part is computed: the mask loss
    has the share of the images with objects.

    Args:
        parts: Of this process; all processes call together, with as many parts.
        device: That the processes exchange tensors on.

    Returns:
        Name of a loss -> its share, 0..1. A loss that is not named has the share of the images.

    Examples:
        >>> labels = torch.tensor([[255, 1], [2, 0]])
        >>> parts = [[{"instances": [], "sem_seg": labels}],
        ...          [{"instances": ["a", "b"], "sem_seg": labels[:1]}]]
        >>> loss_shares(parts, torch.device("cpu"))
        [{'loss_mask': 0.0, 'loss_sem_seg': 0.75}, {'loss_mask': 1.0, 'loss_sem_seg': 0.25}]
    """
    if len(parts) == 1:
        return [{}]
    rows = [[sum(pair) for pair in zip(*map(_counts, part), strict=True)] for part in parts]
    counts = torch.tensor(rows, dtype=torch.float64, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    shares = (counts / counts.sum(0)).tolist()  # NaN where no part has any
    return [
        {name: share for name, share in zip(_WEIGHED, row, strict=True) if share == share}
        for row in shares
    ]


def _counts(sample: Mapping[str, Any]) -> tuple[int, int]:
    """Return whether an image has objects, and how many pixels of its semantic target count."""
    labelled = int((sample["sem_seg"] != VOID).sum()) if "sem_seg" in sample else 0
    return int(len(sample.get("instances", ())) > 0), labelled
