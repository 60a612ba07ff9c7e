"""A plug-in: a student of stuff alone and a relabel rule, as a user would write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from u2seg.modeling.student import STUDENTS
from u2seg.panoptic.relabel import RELABEL_RULES
from u2seg.structures.segmentation import Segmentation


@STUDENTS.register("TwoPixelLayers")
class TwoPixelLayers(nn.Module):
    tasks = frozenset({"stuff"})

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, cfg.U2SEG.SEMANTICS.NUM_CLASSES + 1, 1)

    def logits(self, sample: dict[str, Any]) -> torch.Tensor:
        pixels = sample["image"].to(self.head.weight).div(255)[None]
        return self.head(self.body(pixels).relu())

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        each = [
            functional.cross_entropy(self.logits(s), s["sem_seg"][None], ignore_index=255)
            for s in batch
        ]
        return {"loss_pixels": torch.stack(each).mean()}

    def predict(self, images: Any, prompts: Any = None) -> list[Segmentation]:
        found = []
        for sample in images:
            size = sample["height"], sample["width"]
            logits = functional.interpolate(self.logits(sample), size, mode="bilinear")
            sure, stuff = logits[0].softmax(0).cpu().max(0)
            found.append(Segmentation(size, None, stuff.numpy().astype(np.uint8), sure.numpy()))
        return found

    def parameter_groups(self, settings: Any) -> list[dict[str, Any]]:
        slow = {"params": [*self.body.parameters()], "lr": settings.rate / 10}
        return [slow, {"params": [*self.head.parameters()], "lr": settings.rate}]

    def class_layers(self) -> frozenset[str]:
        return frozenset({"head.weight", "head.bias"})


@dataclass(frozen=True)
class BlendSettings:
    share: float = 0.5


@RELABEL_RULES.register("blend", settings=BlendSettings)
def blend(
    previous: Segmentation | None,
    prediction: Segmentation,
    settings: BlendSettings,
    number: int,
    rng: np.random.Generator,
) -> Segmentation:
    """Take the model's word for a share of the pixels, drawn at random."""
    assert previous is not None and number == 1
    new = rng.random(prediction.size) < settings.share
    return Segmentation(prediction.size, None, np.where(new, prediction.stuff, previous.stuff))
