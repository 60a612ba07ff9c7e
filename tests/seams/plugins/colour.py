"""A descriptor of masks: their mean colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.clusters.describe import DESCRIPTORS
from u2seg.structures.features import ImageInputs


@dataclass(frozen=True)
class ColourSettings:
    """Settings of it.

    Args:
        scale: Of the grey levels.
    """

    scale: float = 255.0


@DESCRIPTORS.register("colour", settings=ColourSettings, needs=("pixels",))
def colour(
    inputs: ImageInputs,
    masks: Sequence[npt.NDArray[np.bool_]],
    settings: ColourSettings,
    embed: Any,
) -> npt.NDArray[np.float32]:
    """Return (n, 3) float32."""
    rows = [inputs.pixels[mask].mean(axis=0) / settings.scale for mask in masks]
    return np.array(rows, dtype=np.float32).reshape(-1, 3)
