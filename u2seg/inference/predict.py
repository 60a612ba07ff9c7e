"""Run a model over records or single images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.yacs_bridge import settings_from_cfg
from u2seg.data.resize import build_augmentations
from u2seg.errors import StageError
from u2seg.host.setup import label_space
from u2seg.inference.prediction import Prediction, prediction_from_outputs
from u2seg.inference.writer import PredictionWriter
from u2seg.io.names import distinct_stems

PNG = "png_stem"
"""Key of a record: name of the files of its prediction, without suffix."""


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
    """Return the model of ``cfg`` with weights loaded, ready for inference.

    Raises:
        UserError: if the file is missing, unsafe or of another architecture or class number.
    """
    from detectron2.modeling import build_model

    from u2seg.modeling.checkpoint import load_weights

    model = build_model(cfg)
    load_weights(model, weights, strict=True)
    model.eval()
    return model


def predict_image(cfg: Any, model: Any, image: npt.NDArray[np.uint8]) -> Prediction:
    """Return the prediction for one image at its own size.

    Args:
        cfg: Its ``INPUT`` says how to resize and in which channel order the model reads.
        model: A panoptic model of ``cfg``.
        image: (H, W, 3) uint8 RGB.
    """
    outputs = image_outputs(cfg, model, image)
    return prediction_from_outputs(outputs, label_space(settings_from_cfg(cfg)))


def image_outputs(cfg: Any, model: Any, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return what any Detectron2 model of ``cfg`` puts out for one (H, W, 3) uint8 RGB image."""
    import torch
    from detectron2.data import transforms

    augmentations = transforms.AugmentationList(build_augmentations(cfg, False))
    channels = image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image
    resized = transforms.AugInput(np.ascontiguousarray(channels))
    augmentations(resized)
    tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
    sample = {"image": tensor, "height": image.shape[0], "width": image.shape[1]}
    with inference_mode(model):
        outputs: dict[str, Any] = model([sample])[0]
    return outputs


def predict_records(
    cfg: Any, model: Any, records: Sequence[dict[str, Any]], writer: PredictionWriter
) -> None:
    """Predict every record of a data set and write the result folder.

    In a distributed run each process predicts its share and the first writes the JSON files.

    Args:
        cfg: The model's config.
        model: A panoptic model of ``cfg``.
        records: As the readers of ``u2seg.data`` return.
        writer: Where the predictions go; finished on return.

    Raises:
        StageError: if a photograph cannot be decoded.
        UserError: if a file cannot be written.
    """
    from detectron2.data import build_detection_test_loader
    from detectron2.utils import comm

    from u2seg.data.mapper import PanopticMapper, without_worker_traceback

    stems = distinct_stems(_file_name(record) for record in records)
    loader = build_detection_test_loader(
        [{**record, PNG: stem} for record, stem in zip(records, stems, strict=True)],
        mapper=PanopticMapper.from_cfg(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    try:
        _predict_all(model, loader, writer)
    except StageError as error:
        raise without_worker_traceback(error) from error
    parts = comm.gather(writer.parts)
    if comm.is_main_process():
        writer.finish(parts)
    comm.synchronize()


def _predict_all(model: Any, loader: Any, writer: PredictionWriter) -> None:
    from detectron2.utils import comm

    from u2seg.io.progress import Bar

    quiet = not comm.is_main_process()
    with inference_mode(model):
        for samples in Bar(loader, desc="predict", unit="image", disable=quiet):
            for sample, outputs in zip(samples, model(samples), strict=True):
                prediction = prediction_from_outputs(outputs, writer.space)
                writer.add(sample["image_id"], _file_name(sample), prediction, sample[PNG])


def _file_name(record: dict[str, Any]) -> str:
    return str(record["stem"] + PurePath(record["file_name"]).suffix)
