"""A segmenter that wants pixels: stuff are quantiles of the grey levels of all photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import SemanticSettings
from u2seg.io.atomic import write_json
from u2seg.io.jsonfile import read_json
from u2seg.semantics import SEMANTIC_SEGMENTERS
from u2seg.structures.features import ImageInputs


@dataclass(frozen=True)
class GreysSettings:
    """Settings of it.

    Args:
        step: Every how many pixels are looked at.
    """

    step: int = 4


@SEMANTIC_SEGMENTERS.register("greys", settings=GreysSettings, needs=("pixels",))
class Greys:
    """See the module."""

    def __init__(self, settings: SemanticSettings, in_dim: int) -> None:
        self.settings = settings
        self.limits: list[float] = []

    def fit(self, source: Any, progress: bool, cache: Any = None) -> dict[str, list[float]]:
        """Find the limits."""
        step = self.settings.of(GreysSettings).step
        greys = [
            source.inputs(i).pixels[::step, ::step].mean(axis=2).ravel() for i in range(len(source))
        ]
        shares = np.arange(1, self.settings.num_classes) / self.settings.num_classes
        self.limits = np.quantile(np.concatenate(greys), shares).tolist()
        return {}

    def predict(
        self, inputs: ImageInputs, mirrored: ImageInputs | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the quantile of every pixel."""
        return np.digitize(inputs.pixels.mean(axis=2), self.limits).astype(np.uint8)

    def save(self, path: Path | str) -> None:
        """Write the limits."""
        write_json(Path(path), self.limits)

    @classmethod
    def load(cls, path: Path | str, settings: SemanticSettings | None = None) -> Greys:
        """Read them."""
        model = cls(settings or SemanticSettings(), 0)
        model.limits = read_json(Path(path))
        return model
