"""What is known of one image, whoever says it: labels, a model, ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel


@dataclass(frozen=True)
class Segmentation:
    """Instances, stuff and panoptic label of one image; None = not known, not "there is none".

    Args:
        size: (H, W) in pixels.
        instances: Object masks, which may overlap.
        stuff: (H, W) uint8 as on disk: 0 any thing, 1..S stuff, 255 void.
        confidence: (H, W) float32, probability of the class in ``stuff``, 0..1.
        panoptic: Id map and segments, category ids 1..K+S.
        space: Names and colours of the ids.

    Raises:
        ValueError: if a map or a mask has another size, or ``stuff`` is not uint8.

    Examples:
        >>> Segmentation((2, 3), instances=(), stuff=np.zeros((2, 3), np.uint8))
        Segmentation(2 x 3, 0 instances, stuff)
        >>> Segmentation((2, 3), stuff=np.zeros((3, 2), np.uint8))
        Traceback (most recent call last):
            ...
        ValueError: stuff of (3, 2) pixels in an image of (2, 3)
    """

    size: tuple[int, int]
    instances: tuple[InstanceMask, ...] | None = None
    stuff: npt.NDArray[np.uint8] | None = None
    confidence: npt.NDArray[np.float32] | None = None
    panoptic: PanopticLabel | None = None
    space: LabelSpace | None = None

    def __post_init__(self) -> None:
        sizes = {f"mask {i}": m.rle["size"] for i, m in enumerate(self.instances or ())}
        maps: dict[str, npt.NDArray[Any] | None] = {
            "stuff": self.stuff,
            "confidence": self.confidence,
            "panoptic label": self.panoptic.ids if self.panoptic else None,
        }
        sizes |= {name: values.shape for name, values in maps.items() if values is not None}
        for name, size in sizes.items():
            if tuple(size) != tuple(self.size):
                raise ValueError(
                    f"{name} of {tuple(size)} pixels in an image of {tuple(self.size)}"
                )
        if self.stuff is not None and self.stuff.dtype != np.uint8:
            raise ValueError(f"a stuff map is uint8, got {self.stuff.dtype}")

    def __repr__(self) -> str:
        known = [] if self.instances is None else [f"{len(self.instances)} instances"]
        known += ["stuff"] if self.stuff is not None else []
        known += [f"{len(self.panoptic.segments)} segments"] if self.panoptic else []
        told = ", ".join([f"{self.size[0]} x {self.size[1]}", *known])
        return f"{type(self).__name__}({told})"
