"""Masks that any trained Detectron2 model predicts, as the label stages use them.

The released U2Seg labels of COCO are of this kind: CutLER's detector predicts the masks
(Niu et al., "Unsupervised Universal Image Segmentation", 2024, section 3.2).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import MaskSettings
from u2seg.errors import UserError
from u2seg.io.atomic import sha256_bytes, sha256_file
from u2seg.io.yamlfile import load_yaml
from u2seg.structures.masks import InstanceMask, suppress


class Detector:
    """A model with its thresholds; loaded when it is first called.

    Args:
        settings: The ``detector_*`` fields are used.
        device: ``auto``, ``cpu``, ``cuda`` ...; the config's own ``MODEL.DEVICE`` is not used.

    Raises:
        UserError: if there is no Detectron2, or the config or the weights are not given or not
            there.
    """

    def __init__(self, settings: MaskSettings, device: str = "auto") -> None:
        from u2seg.compat import prepare_host

        self.settings = settings
        self.device = device
        for key in ("detector_config", "detector_weights"):
            value = getattr(settings, key)
            if not value or not Path(value).is_file():
                found = f"{value!r}, which is no file" if value else "empty"
                raise UserError(
                    f"U2SEG.MASKS.{key.upper()} is {found}: U2SEG.MASKS.PROPOSER cutler needs the "
                    "YAML config and the local checkpoint of a trained Detectron2 model"
                )
        prepare_host()

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process prepares its own host and loads its own model.
        return Detector, (self.settings, self.device)

    def fingerprint(self) -> dict[str, str]:
        """Return digests of the merged config and of the weights."""
        config = repr(load_yaml(self.settings.detector_config))
        return {
            "config": sha256_bytes(config.encode()),
            "weights": sha256_file(self.settings.detector_weights),
        }

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from u2seg.host.setup import build_cfg, build_stock_cfg
        from u2seg.inference.predict import load_model

        path = self.settings.detector_config
        ours = "U2SEG" in load_yaml(path)
        words = ["MODEL.DEVICE", self.device]
        words += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(self.settings.detector_score)]
        cfg = build_cfg(path, words) if ours else build_stock_cfg(path, words)
        return cfg, load_model(cfg, self.settings.detector_weights)

    def __call__(self, image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
        """Return the predicted masks of one photograph, highest score first.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            UserError: for a config or weights that cannot be used, or a model without masks.
        """
        from u2seg.inference.predict import image_outputs

        cfg, model = self._loaded
        outputs = image_outputs(cfg, model, image)
        instances = outputs.get("instances")
        if instances is None or not instances.has("pred_masks"):
            raise UserError(
                f"the model of {self.settings.detector_config} predicts no instance masks: "
                "U2SEG.MASKS.PROPOSER cutler needs one that does (MODEL.MASK_ON True)"
            )
        return masks_of_instances(instances, self.settings)


def masks_of_instances(instances: Any, settings: MaskSettings) -> list[InstanceMask]:
    """Return the masks of a model's output that are good enough and no duplicates.

    Args:
        instances: Detectron2 ``Instances`` with ``scores`` and ``pred_masks`` (N, H, W) bool.
        settings: ``detector_score`` and ``detector_nms`` are used.

    Returns:
        Masks of any class, highest score first; empty ones are left out.
    """
    scores = instances.scores.cpu().numpy()
    masks = instances.pred_masks.cpu().numpy().astype(bool)
    chosen = np.flatnonzero((scores >= settings.detector_score) & masks.any(axis=(1, 2)))
    found = [InstanceMask.from_array(masks[i], float(scores[i])) for i in chosen]
    return suppress(found, settings.detector_nms)
