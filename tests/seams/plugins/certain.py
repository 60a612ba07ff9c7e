"""A relabel rule: the model's stuff where it is certain, the label so far elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from u2seg.config.schema import RoundSettings
from u2seg.panoptic.relabel import RELABEL_RULES
from u2seg.structures.segmentation import Segmentation


@RELABEL_RULES.register("certain")
def certain(
    previous: Segmentation | None,
    prediction: Segmentation,
    settings: RoundSettings,
    number: int,
    rng: np.random.Generator,
) -> Segmentation:
    """Return the new label."""
    if previous is None or previous.stuff is None:
        return prediction
    assert prediction.stuff is not None and prediction.confidence is not None
    sure = prediction.confidence >= settings.stuff_score
    stuff = np.where(sure, prediction.stuff, previous.stuff).astype(np.uint8)
    return replace(previous, stuff=stuff, panoptic=None)
