"""What a mask proposer is, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import DetectorSettings, MaskCutSettings
from u2seg.errors import UserError
from u2seg.masks.maskcut import PatchMask, maskcut
from u2seg.registry import Registry
from u2seg.structures.features import ImageInputs
from u2seg.structures.masks import InstanceMask

MASK_PROPOSERS = Registry("mask proposer", locations=("u2seg.masks.tokencut",), section="MASKS")
MODEL = "model"
"""Need of a proposer that asks a trained model: ``inputs.model`` is called."""


class MaskProposer(Protocol):
    """Finds object masks in one image. Members of ``MASK_PROPOSERS``.

    A member says what it needs: ``pixels``, facets of the patch features, or ``model``.
    """

    def __call__(self, inputs: ImageInputs, settings: Any) -> Sequence[PatchMask | InstanceMask]:
        """Return masks, best first; possibly none.

        Args:
            inputs: What it needs.
            settings: Its own, of the dataclass it was registered with.

        Returns:
            Masks of patches, which are selected and refined; or masks at the size of the image,
            which are taken as they are and may be a hierarchy (``parent``, ``level`` ...).
        """
        ...


class Model(Protocol):
    """A trained model that masks are asked of.

    Label generation knows no such model: whoever starts it hands one over.
    """

    def __call__(self, image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
        """Return masks at the size of the (H, W, 3) uint8 RGB photograph, best first."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Return digests of everything that decides the masks, for the run's plan."""
        ...


@MASK_PROPOSERS.register("maskcut", settings=MaskCutSettings, needs=("key",))
def cut_masks(inputs: ImageInputs, settings: MaskCutSettings) -> list[PatchMask]:
    """Return the masks of MaskCut."""
    return maskcut(inputs.facets["key"], settings, inputs.name)


@MASK_PROPOSERS.register("cutler", settings=DetectorSettings, needs=("pixels", MODEL))
def predicted_masks(inputs: ImageInputs, settings: DetectorSettings) -> list[InstanceMask]:
    """Return what a trained model predicts; its thresholds are applied by the model."""
    found: list[InstanceMask] = inputs.model(inputs.pixels)
    return found


def check_model(proposer: str, model: Model | None) -> None:
    """Raise UserError if a proposer needs a model and there is none."""
    if MODEL in MASK_PROPOSERS.needs(proposer) and model is None:
        raise UserError(
            f"U2SEG.MASKS.PROPOSER {proposer} needs a trained model: label with u2seg label or "
            "u2seg.label, which load the one of U2SEG.MASKS.CUTLER.CONFIG, or give "
            "generate_labels(..., detector=...)"
        )
