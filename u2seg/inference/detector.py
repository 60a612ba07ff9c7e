"""Masks that any trained Detectron2 model predicts, as the label stages use them.

The released U2Seg labels of COCO are of this kind: CutLER's detector predicts the masks
(Niu et al., "Unsupervised Universal Image Segmentation", 2024, section 3.2).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.config.schema import DetectorSettings
from u2seg.errors import UserError
from u2seg.inference.segmenter import Segmenter
from u2seg.io.atomic import sha256_bytes, sha256_file
from u2seg.io.yamlfile import load_yaml
from u2seg.structures.masks import InstanceMask, suppress


class Detector:
    """A model with its thresholds; loaded when it is first called.

    Args:
        settings: Config, weights and thresholds.
        device: ``auto``, ``cpu``, ``cuda`` ...; the config's own ``MODEL.DEVICE`` is not used.

    Raises:
        UserError: if there is no Detectron2, or the config or the weights are not given or not
            there.
    """

    def __init__(self, settings: DetectorSettings, device: str = "auto") -> None:
        from u2seg.compat import prepare_host

        self.settings = settings
        self.device = device
        for key in ("config", "weights"):
            value = getattr(settings, key)
            if not value or not Path(value).is_file():
                found = f"{value!r}, which is no file" if value else "empty"
                raise UserError(
                    f"U2SEG.MASKS.CUTLER.{key.upper()} is {found}: U2SEG.MASKS.PROPOSER cutler "
                    "needs the YAML config and the local checkpoint of a trained Detectron2 model"
                )
        prepare_host()

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process prepares its own host and loads its own model.
        return Detector, (self.settings, self.device)

    def fingerprint(self) -> dict[str, str]:
        """Return digests of the merged config and of the weights."""
        config = repr(load_yaml(self.settings.config))
        return {
            "config": sha256_bytes(config.encode()),
            "weights": sha256_file(self.settings.weights),
        }

    @functools.cached_property
    def _segmenter(self) -> Segmenter:
        path, weights = self.settings.config, self.settings.weights
        score = self.settings.score
        if "U2SEG" not in load_yaml(path):
            return Segmenter.from_stock(path, weights, score, self.device)
        return Segmenter.from_config(path, weights, confidence=score, device=self.device)

    def __call__(self, image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
        """Return the predicted masks of one photograph, highest score first."""
        masks = self._segmenter(image).instances
        if masks is None:
            raise UserError(
                f"the model of {self.settings.config} predicts no instance masks: "
                "U2SEG.MASKS.PROPOSER cutler needs one that does (MODEL.MASK_ON True)"
            )
        return good_masks(masks, self.settings)


def good_masks(masks: Sequence[InstanceMask], settings: DetectorSettings) -> list[InstanceMask]:
    """Return the predicted masks that are sure enough and no duplicates.

    Returns:
        Without empty ones, of no cluster, with tight boxes, highest score first.
    """
    chosen = [
        replace(mask, bbox=tuple(coco_mask.toBbox(mask.rle).tolist()), cluster=None)
        for mask in masks
        if mask.score >= settings.score and mask.area
    ]
    return suppress(chosen, settings.nms)
