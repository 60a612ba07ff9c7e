"""A trained model as an object: ``Segmenter.from_config(path).predict(image)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.yacs_bridge import settings_from_cfg
from u2seg.errors import UserError
from u2seg.evaluation.mapping_file import with_class_names
from u2seg.host.setup import build_cfg, complete_cfg, label_space
from u2seg.inference.predict import image_outputs, load_model, predict_image
from u2seg.inference.prediction import Prediction, prediction_from_outputs
from u2seg.io.images import BadImageError, read_image
from u2seg.structures.labels import LabelSpace
from u2seg.visualization.compose import write_picture


class Segmenter:
    """A model with its config, ready to predict.

    Args:
        cfg: From ``u2seg.host.setup.build_cfg``.
        model: The model of ``cfg`` with its weights.
        space: Names of its clusters; None = their numbers.
    """

    def __init__(self, cfg: Any, model: Any, space: LabelSpace | None = None) -> None:
        self.cfg = cfg
        self.model = model
        self.space: LabelSpace = space or label_space(settings_from_cfg(cfg))

    @classmethod
    def from_config(
        cls,
        path: Path | str,
        weights: Path | str = "",
        overrides: Sequence[str] = (),
        confidence: float = 0.5,
        mapping: Path | str = "",
    ) -> Segmenter:
        """Build the model of a config file and load its weights.

        Args:
            path: YAML settings, the file the model was trained with.
            weights: Checkpoint; empty = ``MODEL.WEIGHTS`` of the settings.
            overrides: ``["MODEL.DEVICE", "cpu", ...]``.
            confidence: Things with a lower score are left out, 0..1.
            mapping: ``mapping.json`` of an evaluation of the model: clusters are called as the
                classes they stand for there; empty = by their numbers.

        Raises:
            UserError: for a bad setting, or weights or a mapping that are missing, unsafe or of
                another model.
        """
        if not 0 <= confidence <= 1:
            raise UserError(f"the confidence threshold is {confidence}, expected 0..1")
        cfg = build_cfg(path, overrides)
        cfg.defrost()
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(confidence)
        cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = float(confidence)
        cfg.freeze()
        return cls._loaded(cfg, str(weights or cfg.MODEL.WEIGHTS), mapping, str(path))

    @classmethod
    def from_cfg(cls, cfg: Any, mapping: Path | str = "") -> Segmenter:
        """Build the model of a Detectron2 config and load ``MODEL.WEIGHTS``.

        Args:
            cfg: From Detectron2's ``get_cfg``, merged with a config file; is not changed. Its
                thresholds hold.
            mapping: As for ``from_config``.

        Raises:
            UserError: as ``complete_cfg`` and ``from_config``.
        """
        cfg = complete_cfg(cfg)
        return cls._loaded(cfg, str(cfg.MODEL.WEIGHTS), mapping, "the config")

    @classmethod
    def _loaded(cls, cfg: Any, weights: str, mapping: Path | str, source: str) -> Segmenter:
        if not weights:
            raise UserError(
                f"{source} names no weights: give a trained checkpoint (--weights FILE, or "
                "MODEL.WEIGHTS FILE)"
            )
        space = label_space(settings_from_cfg(cfg))
        if mapping:
            space = with_class_names(space, Path(mapping))
        return cls(cfg, load_model(cfg, weights), space)

    def predict(self, image: npt.NDArray[np.uint8] | Path | str) -> Prediction:
        """Return the segmentation of one image at its own size.

        Args:
            image: (H, W, 3) uint8 RGB, or the path of an image file (decoded upright).

        Raises:
            UserError: if the array has another shape or type, or the file cannot be decoded.
        """
        if isinstance(image, Path | str):
            try:
                image = read_image(image, self.cfg.U2SEG.IMAGES.MAX_PIXELS, sound=True)
            except BadImageError as error:
                raise UserError(f"{image}: {error}") from error
        _check_pixels(image, "RGB")
        return replace(predict_image(self.cfg, self.model, image), space=self.space)


class VisualizationDemo:
    """The class of Detectron2's ``demo/predictor.py``, for photographs: ``run_on_image``.

    Args:
        cfg: From Detectron2's ``get_cfg``, merged with a config file; see ``complete_cfg``.
    """

    def __init__(self, cfg: Any) -> None:
        self.segmenter = Segmenter.from_cfg(cfg)

    def run_on_image(self, image: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], VisualizedOutput]:
        """Return what the model puts out, and the photograph with its segmentation on top.

        Args:
            image: (H, W, 3) uint8 **BGR**, as ``read_image(path, format="BGR")`` of Detectron2
                and OpenCV return it.

        Returns:
            ``panoptic_seg``, ``instances`` and, with a semantic head, ``sem_seg`` as Detectron2's
            models return them: clusters of things are 0..K-1 there, of stuff 1..S. The picture
            calls them ``thing_0`` ... and ``stuff_0`` ...

        Raises:
            UserError: if the array has another shape or type.
        """
        _check_pixels(image, "BGR")
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        segmenter = self.segmenter
        predictions = image_outputs(segmenter.cfg, segmenter.model, rgb)
        prediction = prediction_from_outputs(predictions, segmenter.space)
        return predictions, VisualizedOutput(prediction.draw(rgb))


class VisualizedOutput:
    """A picture with the methods of Detectron2's ``VisImage``.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self._pixels = pixels

    def get_image(self) -> npt.NDArray[np.uint8]:
        """Return the (H, W, 3) uint8 RGB pixels."""
        return self._pixels

    def save(self, filepath: Path | str) -> None:
        """Write the picture in the format of its ending; UserError if that cannot be done."""
        write_picture(Path(filepath), self._pixels)


def _check_pixels(image: Any, order: str) -> None:
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"expected an image (H, W, 3) uint8 {order} or a path, got {type(image).__name__}: "
            "of a PIL image pass numpy.asarray(image.convert('RGB'))"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(
            f"expected an image (H, W, 3) uint8 {order}, got {image.shape} {image.dtype}"
        )
