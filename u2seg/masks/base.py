"""What a mask proposer is, and the table of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import DetectorSettings, MaskCutSettings
from u2seg.errors import UserError
from u2seg.masks.maskcut import PatchMask, maskcut
from u2seg.registry import Registry
from u2seg.structures.features import PatchFeatures
from u2seg.structures.masks import InstanceMask

MASK_PROPOSERS = Registry("mask proposer", locations=("u2seg.masks.tokencut",), section="MASKS")
DETECTOR = "cutler"
"""The proposer that looks at photographs instead of features: a trained detector."""


class MaskProposer(Protocol):
    """Finds object masks in the patch features of one image. Members of ``MASK_PROPOSERS``."""

    def __call__(self, features: PatchFeatures, settings: Any) -> list[PatchMask]:
        """Return masks at patch resolution, best first; possibly none."""
        ...


class ImageProposer(Protocol):
    """Finds object masks in a photograph: what ``U2SEG.MASKS.PROPOSER cutler`` calls.

    Label generation knows no such model: whoever starts it hands one over.
    """

    def __call__(self, image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
        """Return masks at the size of the (H, W, 3) uint8 RGB photograph, best first."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Return digests of everything that decides the masks, for the run's plan."""
        ...


MASK_PROPOSERS.register("maskcut", settings=MaskCutSettings, needs=("key",))(maskcut)


@MASK_PROPOSERS.register(DETECTOR, settings=DetectorSettings)
def needs_detector(features: PatchFeatures, settings: DetectorSettings) -> list[PatchMask]:
    """Raise UserError: a detector looks at photographs, not at features."""
    raise detector_missing()


def detector_missing() -> UserError:
    """Return the error for masks asked of a detector that nobody handed over."""
    return UserError(
        f"U2SEG.MASKS.PROPOSER {DETECTOR} needs a detector: label with u2seg label, "
        "which loads U2SEG.MASKS.CUTLER.CONFIG, or give generate_labels(..., detector=...)"
    )
