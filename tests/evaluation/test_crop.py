"""STEGO's crop, by hand and against Pillow; truth and predictions cropped alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation import formats
from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from u2seg.errors import UserError
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import SEMANTIC
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.crop import crop_map, crop_truth
from u2seg.evaluation.truth.formats import open_truth
from u2seg.evaluation.truth.predictions import cropped, read_predictions
from u2seg.structures.labels import LabelSpace


def test_crop_by_hand() -> None:
    """4 x 6 at a short side of 2: rows 1, 3; columns 1, 3, 5; of 3 columns the first 2."""
    labels = np.arange(24).reshape(4, 6)
    # centres of 3 columns on 6: 1, 3, 5; (3 - 2) / 2 = 0.5 rounds to 0
    assert crop_map(labels, 2).tolist() == [[7, 9], [19, 21]]
    # 7 columns on 2 rows at side 2: columns stay; (7 - 2) / 2 = 2.5 rounds to 2
    assert crop_map(np.arange(14).reshape(2, 7), 2).tolist() == [[2, 3], [9, 10]]


@pytest.mark.parametrize(
    "shape", [(480, 640), (427, 640), (640, 429), (487, 608), (333, 500), (7, 9)]
)
@pytest.mark.parametrize("side", [320, 64])
def test_crop_is_pillows_nearest_and_torchvisions_centre(shape: tuple[int, int], side: int) -> None:
    labels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    height, width = shape
    wide = height <= width
    size = (int(side * width / height), side) if wide else (side, int(side * height / width))
    resized = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    top, left = (round((s - side) / 2.0) for s in resized.shape)
    expected = resized[top : top + side, left : left + side]
    assert np.array_equal(crop_map(labels, side), expected)


def test_cropped_truth_counts_what_is_left(tmp_path: Path) -> None:
    truth = crop_truth(open_truth("cocostuff", [formats.cocostuff(tmp_path)]), 2)
    image = truth.read(139)
    # 2 x 3 at a short side of 2; (3 - 2) / 2 = 0.5 rounds to 0
    assert image.ids.tolist() == [[106, 106], [1, 155]]
    assert image.segments[106] == TruthSegment(106, 2) and image.segments[155].area == 1
    assert truth.tasks == {SEMANTIC} and truth.sizes[139] == (2, 3)


def test_predictions_are_cropped_as_the_truth(tmp_path: Path) -> None:
    full = read_truth(write_truth(tmp_path))
    folder = write_predictions(
        tmp_path / "p", relabelled({1: 3, 2: 1, 3: 5, 4: 4}), LabelSpace(num_things=3, num_stuff=2)
    )
    whole = read_predictions(folder, full)
    assert cropped(whole, full) is whole
    truth = crop_truth(full, 2)
    square = cropped(whole, truth)
    for image_id in full.stems:
        true, found = truth.read(image_id), square.panoptic.read_ids(image_id)
        assert np.array_equal(found, np.where(true.ids > 0, true.ids + 100, 0))
        square.panoptic.check_ids(image_id, np.unique(found).tolist(), every=True)
        stuff = square.read_stuff(image_id)
        assert np.array_equal(stuff, crop_map(whole.read_stuff(image_id), 2))


def test_only_the_semantic_task_is_cropped(tmp_path: Path) -> None:
    path = formats.coco_instances(tmp_path / "uvo.json", {1: "object"})
    with pytest.raises(
        UserError, match=r"U2SEG.EVAL.CROP is 320, but .*uvo.json answers instances"
    ):
        crop_truth(open_truth("uvo", [path]), 320)
    voc = open_truth("voc", formats.voc(tmp_path), "voc-21")
    assert crop_truth(voc, 320).tasks == {SEMANTIC}
