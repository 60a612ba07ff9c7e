"""A relabel rule with settings of its own: the model's word for a share of the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from u2seg.panoptic.relabel import RELABEL_RULES
from u2seg.structures.segmentation import Segmentation


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
