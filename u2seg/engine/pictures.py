"""Pictures of the first training images, as files and in TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances

from u2seg.config.load import settings_from_cfg
from u2seg.data.copy_paste_pixels import disagreements
from u2seg.host.setup import label_space
from u2seg.io.atomic import write_bytes
from u2seg.structures.labels import LabelSpace
from u2seg.visualization.compose import encode_picture
from u2seg.visualization.training import PICTURES, draw_training_batch

logger = logging.getLogger("detectron2.u2seg")
"""Below the host's logger: what is said here reaches its ``log.txt`` too."""


class BatchPictures:
    """Draws the first ``U2SEG.TRAIN.PICTURES`` images of a training.

    A watcher of ``TrainingLoop``. The images are counted from the first iteration of the run, so
    a resumed training draws none anew; of several processes the first one draws its share.
    """

    def __init__(self, cfg: Any) -> None:
        settings = settings_from_cfg(cfg)
        self.count = settings.train.pictures
        self.space = named_space(label_space(settings), cfg.DATASETS.TRAIN)
        self.image_format = str(cfg.INPUT.FORMAT)
        self.folder = Path(cfg.OUTPUT_DIR) / PICTURES

    def __call__(self, iteration: int, batch: Sequence[dict[str, Any]]) -> None:
        """Draw what belongs to the first images; files ``pictures/train_001.jpg`` and on."""
        from detectron2.utils import comm
        from detectron2.utils.events import get_event_storage

        first = iteration * len(batch)
        if first >= self.count or not comm.is_main_process():
            return
        shown = [_with_instances(sample) for sample in batch[: self.count - first]]
        for sample in batch[: len(shown)] if "instances" in batch[0] else ():
            for sentence in disagreements(sample):
                logger.warning("labels of %s: %s", sample.get("file_name"), sentence)
        pictures = draw_training_batch(shown, self.space, self.image_format)
        for number, picture in enumerate(pictures, first + 1):
            name = f"train_{number:03d}"
            write_bytes(self.folder / f"{name}.jpg", encode_picture(picture))
            pixels = np.ascontiguousarray(picture.transpose(2, 0, 1))
            get_event_storage().put_image(f"{PICTURES}/{name}", pixels)


def _with_instances(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a sample of a student without things with no instances, to be drawn."""
    if "instances" in sample:
        return sample
    size = (int(sample["image"].shape[1]), int(sample["image"].shape[2]))
    masks = BitMasks(torch.zeros((0, *size)))
    nothing = Instances(size, gt_classes=torch.zeros(0, dtype=torch.int64), gt_masks=masks)
    return {**sample, "instances": nothing}


def named_space(space: LabelSpace, data_sets: Sequence[str]) -> LabelSpace:
    """Return a label space with the names of a registered data set, if it has as many."""
    from detectron2.data import MetadataCatalog

    for name in data_sets:
        metadata = MetadataCatalog.get(name)
        things = tuple(metadata.get("thing_classes", ()))
        stuff = tuple(metadata.get("stuff_classes", ())[1:])  # the first one is "things"
        if (len(things), len(stuff)) == (space.num_things, space.num_stuff):
            return LabelSpace(space.num_things, space.num_stuff, things, stuff)
    return space
