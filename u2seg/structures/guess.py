"""What a trained model says of a photograph, before anything is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from u2seg.structures.masks import InstanceMask


@dataclass(frozen=True)
class Guess:
    """What a model says of one photograph.

    Args:
        masks: Predicted things of size (H, W), with scores.
        clusters: Their cluster ids, 0..K-1.
        stuff: (H, W) uint8, the likeliest stuff cluster 0..S-1; 255 where "any thing" is likelier.
        sure: (H, W) float32, probability of that class, 0..1; -1 where the model knows no stuff.
    """

    masks: Sequence[InstanceMask]
    clusters: Sequence[int]
    stuff: npt.NDArray[np.uint8]
    sure: npt.NDArray[np.float32]
