"""A student without things: a pixel classifier of two layers, trained in its own groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from u2seg.modeling.student import STUDENTS
from u2seg.structures.segmentation import Segmentation


@STUDENTS.register("Pixels")
class Pixels(nn.Module):
    """See the module."""

    tasks = frozenset({"stuff"})

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, cfg.U2SEG.SEMANTICS.NUM_CLASSES + 1, 1)

    def logits(self, sample: dict[str, Any]) -> torch.Tensor:
        """Return (1, S + 1, h, w)."""
        pixels = sample["image"].to(self.head.weight).div(255)[None]
        return self.head(self.body(pixels).relu())

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        """Return the cross-entropy over pixels that are not void."""
        pairs = [(self.logits(s), s["sem_seg"][None].to(self.head.weight.device)) for s in batch]
        each = [functional.cross_entropy(x, y, ignore_index=255) for x, y in pairs]
        return {"loss_pixels": torch.stack(each).mean()}

    def predict(self, images: Any, prompts: Any = None) -> list[Segmentation]:
        """Return stuff and its probability."""
        found = []
        for sample in images:
            size = sample["height"], sample["width"]
            logits = functional.interpolate(self.logits(sample), size, mode="bilinear")
            sure, stuff = logits[0].softmax(0).cpu().max(0)
            found.append(Segmentation(size, None, stuff.numpy().astype(np.uint8), sure.numpy()))
        return found

    def parameter_groups(self, settings: Any) -> list[dict[str, Any]]:
        """Return a slow body and a fast head."""
        slow = {"params": [*self.body.parameters()], "lr": settings.rate / 10}
        return [slow, {"params": [*self.head.parameters()], "lr": settings.rate}]

    def class_layers(self) -> frozenset[str]:
        """Return the head's parameters."""
        return frozenset({"head.weight", "head.bias"})
