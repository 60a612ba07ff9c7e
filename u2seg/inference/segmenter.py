"""A trained model as an object: ``Segmenter.from_config(path).predict(image)``."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from u2seg.config.load import settings_from_cfg
from u2seg.errors import UserError
from u2seg.host.setup import build_cfg, build_stock_cfg, complete_cfg, label_space
from u2seg.io.atomic import sha256_bytes, sha256_file
from u2seg.io.images import BadImageError, read_image
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import encode_mask
from u2seg.structures.panoptic import PanopticLabel
from u2seg.structures.segmentation import Segmentation, panoptic_of
from u2seg.visualization.compose import write_picture
from u2seg.visualization.draw import draw_panoptic

Rgb = npt.NDArray[np.uint8]
Image = Rgb | Path | str


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Prediction(Segmentation):
    """What a model says of a photograph, with the photograph.

    ``panoptic`` and ``space`` are always there; ``instances`` and ``stuff`` if the model knows
    them. A notebook shows it as a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
    """

    image: Rgb
    panoptic: PanopticLabel
    space: LabelSpace

    def draw(self, image: Rgb | None = None) -> Rgb:
        """Return the photograph with the panoptic segmentation on top, a new (H, W, 3) array.

        Args:
            image: Another picture of the same size to draw on.

        Raises:
            UserError: if the sizes differ.
        """
        return draw_panoptic(self.image if image is None else image, self.panoptic, self.space)

    def save(self, path: Path | str, name: str = "image") -> Path:
        """Write a picture, or a result folder in standard formats; return its path.

        Args:
            path: ``out.png`` (or another ending of a picture), or a folder for ``panoptic.json``,
                ``instances.json`` and their PNGs.
            name: What the photograph is called in a folder.

        Raises:
            UserError: if it cannot be written, or the folder holds files of others.
        """
        path = Path(path)
        if path.suffix:
            write_picture(path, self.draw())
            return path
        from u2seg.inference.writer import PredictionWriter, check_own

        check_own(path)
        writer = PredictionWriter(path, self.space)
        writer.add(1, f"{name}.png", self)
        writer.finish()
        return path

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Return COCO results, one record per instance; segments where there are no instances."""
        if self.instances is not None:
            return [m.to_result(image_id, (m.cluster or 0) + 1) for m in self.instances]
        return [
            {
                "image_id": image_id,
                "category_id": segment.category_id,
                "segmentation": encode_mask(self.panoptic.ids == segment.id),
                "score": segment.score,
                "bbox": list(segment.bbox),
                "area": segment.area,
            }
            for segment in self.panoptic.segments
        ]

    def _repr_png_(self) -> bytes:
        from PIL import Image as Pillow

        buffer = io.BytesIO()
        Pillow.fromarray(self.draw()).save(buffer, "PNG")
        return buffer.getvalue()


class Segmenter:
    """A model with its config, ready to predict; loaded when it is first asked.

    Args:
        cfg: From ``u2seg.host.setup.build_cfg``.
        weights: Its checkpoint, or the model itself with its weights.
        space: Names of its clusters; None = their numbers.
    """

    def __init__(self, cfg: Any, weights: Any, space: LabelSpace | None = None) -> None:
        self.cfg = cfg
        self._weights = weights
        self.space: LabelSpace = space or label_space(settings_from_cfg(cfg))

    def __repr__(self) -> str:
        model = self.cfg.MODEL
        numbers = f"{self.space.num_things} things, {self.space.num_stuff} stuff"
        return f"Segmenter({model.META_ARCHITECTURE} on {model.DEVICE}, {numbers})"

    @classmethod
    def from_config(
        cls,
        path: Path | str,
        weights: Path | str = "",
        overrides: Sequence[str] = (),
        confidence: float = 0.5,
        mapping: Path | str = "",
        *,
        device: str = "",
        lazy: bool = False,
    ) -> Segmenter:
        """Build the model of a config file and load its weights.

        Args:
            path: YAML settings, the file the model was trained with.
            weights: Checkpoint; empty = ``MODEL.WEIGHTS`` of the settings.
            overrides: ``["INPUT.MIN_SIZE_TEST", "800", ...]``.
            confidence: Things with a lower score are left out, 0..1.
            mapping: ``mapping.json`` of an evaluation of the model: clusters are called as the
                classes they stand for there; empty = by their numbers.
            device: ``auto``, ``cpu``, ``cuda`` ...; empty = ``MODEL.DEVICE`` of the settings.
            lazy: Load the weights at the first prediction.

        Raises:
            UserError: for a bad setting, or weights or a mapping that are missing, unsafe or of
                another model.
        """
        words = [*overrides, *_thresholds(confidence), *_device(device)]
        cfg = build_cfg(path, words)
        return cls._of(cfg, str(weights or cfg.MODEL.WEIGHTS), mapping, str(path), lazy=lazy)

    @classmethod
    def from_stock(
        cls, path: Path | str, weights: Path | str, confidence: float, device: str = "auto"
    ) -> Segmenter:
        """Return a model of Detectron2's zoo or of CutLER, loaded when it is first asked."""
        cfg = build_stock_cfg(path, [*_thresholds(confidence), *_device(device)])
        return cls(cfg, str(weights), LabelSpace(max(cfg.MODEL.ROI_HEADS.NUM_CLASSES, 1), 0))

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
        return cls._of(cfg, str(cfg.MODEL.WEIGHTS), mapping, "the config")

    @classmethod
    def _of(
        cls, cfg: Any, weights: str, mapping: Path | str, source: str, *, lazy: bool = False
    ) -> Segmenter:
        if not weights:
            raise UserError(f"{source} names no weights: give a trained checkpoint (MODEL.WEIGHTS)")
        space = label_space(settings_from_cfg(cfg))
        if mapping:
            # Not above: labelling loads this module for its detectors, and nothing that scores.
            from u2seg.evaluation.protocols.mapping import with_class_names

            space = with_class_names(space, Path(mapping))
        segmenter = cls(cfg, weights, space)
        if not lazy:
            _ = segmenter.model
        return segmenter

    @functools.cached_property
    def model(self) -> Any:
        """The model in evaluation mode, on ``MODEL.DEVICE``."""
        return (
            load_model(self.cfg, self._weights)
            if isinstance(self._weights, str)
            else (self._weights)
        )

    def fingerprint(self) -> dict[str, str]:
        """Return digests of the settings that decide a prediction, and of the weights."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = ""
        told = "".join(node.dump() for node in (cfg.MODEL, cfg.INPUT, cfg.TEST))
        return {"config": sha256_bytes(told.encode()), "weights": sha256_file(Path(self._weights))}

    @overload
    def predict(self, images: Image, prompts: Any = None, batch_size: int = 1) -> Prediction: ...
    @overload
    def predict(
        self, images: list[Image], prompts: Any = None, batch_size: int = 1
    ) -> list[Prediction]: ...
    def predict(
        self, images: Image | list[Image], prompts: Any = None, batch_size: int = 1
    ) -> Prediction | list[Prediction]:
        """Return the segmentation of an image, or of each of several, at their own sizes.

        Args:
            images: (H, W, 3) uint8 RGB, or the path of an image file (turned upright as its EXIF
                says); or a list of them.
            prompts: Of a promptable model: what to segment; of a list of images one for each.
            batch_size: Images that pass through the model at once.

        Raises:
            UserError: if an array has another shape or type, a file cannot be decoded, or the
                model takes no prompts.
        """
        one = not isinstance(images, list | tuple)
        several: Any = [images] if one else images
        pixels = [self._pixels(image) for image in several]
        hints = None if prompts is None else [prompts] if one else list(prompts)
        found: list[Prediction] = []
        for start in range(0, len(pixels), batch_size):
            part = slice(start, start + batch_size)
            said = self.segment(pixels[part], hints and hints[part])
            pairs = zip(said, pixels[part], strict=True)
            found += [self._prediction(segmentation, image) for segmentation, image in pairs]
        return found[0] if one else found

    def segment(self, images: Sequence[Rgb], prompts: Any = None) -> list[Segmentation]:
        """Return what the model itself says of (H, W, 3) uint8 RGB images, in one batch."""
        if prompts is not None and "prompts" not in getattr(self.model, "tasks", ()):
            raise UserError(f"{self.cfg.MODEL.META_ARCHITECTURE} takes no prompts")
        samples = [image_sample(self.cfg, image) for image in images]
        with inference_mode(self.model):
            return list(self.model.predict(samples, prompts))

    def __call__(self, image: Rgb) -> Segmentation:
        """Return what the model itself says of one image."""
        return self.segment([image])[0]

    def _pixels(self, image: Any) -> Rgb:
        if isinstance(image, Path | str):
            try:
                image = read_image(image, self.cfg.U2SEG.IMAGES.MAX_PIXELS, sound=True)
            except BadImageError as error:
                raise UserError(f"{image}: {error}") from error
        check_pixels(image, "RGB")
        return image  # type: ignore[no-any-return]

    def _prediction(self, said: Segmentation, image: Rgb) -> Prediction:
        return Prediction(
            size=said.size,
            instances=said.instances,
            stuff=said.stuff,
            confidence=said.confidence,
            panoptic=panoptic_of(said, self.space),
            space=self.space,
            image=image,
        )


@contextmanager
def inference_mode(model: Any) -> Iterator[None]:
    """Switch a model to inference without gradients and back."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def load_model(cfg: Any, weights: str) -> Any:
    """Return the model of ``cfg`` with weights loaded, ready for inference."""
    from u2seg.modeling.checkpoint import load_weights
    from u2seg.modeling.student import build_student

    model = build_student(cfg)
    load_weights(model, weights, strict=True)
    model.eval()
    return model


def image_sample(cfg: Any, image: Rgb) -> dict[str, Any]:
    """Return a model's input for one (H, W, 3) uint8 RGB image, as ``cfg.INPUT`` says."""
    import torch
    from detectron2.data import transforms

    from u2seg.data.mapper import build_augmentations

    channels = image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image
    resized = transforms.AugInput(np.ascontiguousarray(channels))
    transforms.AugmentationList(build_augmentations(cfg, False))(resized)
    tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
    return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}


def check_pixels(image: Any, order: str) -> None:
    """Raise UserError unless an image is an (H, W, 3) uint8 array."""
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"expected an image (H, W, 3) uint8 {order} or a path, got {type(image).__name__}: "
            "of a PIL image pass numpy.asarray(image.convert('RGB'))"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(
            f"expected an image (H, W, 3) uint8 {order}, got {image.shape} {image.dtype}"
        )


def _thresholds(confidence: float) -> list[str]:
    if not 0 <= confidence <= 1:
        raise UserError(f"the confidence threshold is {confidence}, expected 0..1")
    keys = "ROI_HEADS.SCORE_THRESH_TEST", "PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"
    return [word for key in keys for word in (f"MODEL.{key}", str(float(confidence)))]


def _device(device: str) -> list[str]:
    return ["MODEL.DEVICE", device] if device else []


class VisualizationDemo:
    """The class of Detectron2's ``demo/predictor.py``, for photographs: ``run_on_image``.

    Args:
        cfg: From Detectron2's ``get_cfg``, merged with a config file; see ``complete_cfg``.
    """

    def __init__(self, cfg: Any) -> None:
        self.segmenter = Segmenter.from_cfg(cfg)

    def run_on_image(self, image: Rgb) -> tuple[dict[str, Any], VisualizedOutput]:
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
        from u2seg.modeling.outputs import segmentation_of_outputs

        check_pixels(image, "BGR")
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        segmenter = self.segmenter
        with inference_mode(segmenter.model):
            outputs = segmenter.model([image_sample(segmenter.cfg, rgb)])[0]
        said = segmentation_of_outputs(outputs, segmenter.space)
        drawn = draw_panoptic(rgb, panoptic_of(said, segmenter.space), segmenter.space)
        return outputs, VisualizedOutput(drawn)


class VisualizedOutput:
    """A picture, (H, W, 3) uint8 RGB, with the methods of Detectron2's ``VisImage``."""

    def __init__(self, pixels: Rgb) -> None:
        self._pixels = pixels

    def get_image(self) -> Rgb:
        """Return the (H, W, 3) uint8 RGB pixels."""
        return self._pixels

    def save(self, filepath: Path | str) -> None:
        """Write the picture in the format of its ending; UserError if that cannot be done."""
        write_picture(Path(filepath), self._pixels)
