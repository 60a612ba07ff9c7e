"""Outputs of a model -> plain values -> files and pictures, by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.inference.segmenter import Prediction
from u2seg.inference.writer import PredictionWriter
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import decode_mask
from u2seg.structures.segmentation import Segmentation, panoptic_label

SPACE = LabelSpace(num_things=3, num_stuff=2)


def outputs() -> dict[str, object]:
    import torch
    from detectron2.structures import Boxes, Instances

    instances = Instances((2, 3))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 1.0, 2.0], [0.5, 0.0, 3.0, 1.0]]))
    instances.scores = torch.tensor([0.25, 0.75])
    instances.pred_classes = torch.tensor([0, 2])
    instances.pred_masks = torch.tensor(
        [[[1, 0, 0], [1, 0, 0]], [[0, 1, 1], [0, 0, 0]]], dtype=torch.bool
    )
    ids = torch.tensor([[0, 1, 1], [2, 2, 2]], dtype=torch.int32)
    infos = [
        {"id": 1, "isthing": True, "category_id": 2, "score": 0.75},
        {"id": 2, "isthing": False, "category_id": 1, "score": 0.5},
        {"id": 9, "isthing": False, "category_id": 2, "score": 0.5},
    ]
    logits = torch.zeros((3, 2, 3))
    logits[0, 0], logits[1, 1, :2], logits[2, 1, 2] = 1.0, 1.0, 1.0
    return {"instances": instances, "panoptic_seg": (ids, infos), "sem_seg": logits}


@pytest.fixture
def prediction() -> Segmentation:
    prepare_host()
    from u2seg.modeling.outputs import segmentation_of_outputs

    return segmentation_of_outputs(outputs(), SPACE)


@pytest.mark.d2
def test_ids_scores_areas_and_boxes(prediction: Segmentation) -> None:
    assert [m.cluster for m in prediction.instances] == [2, 0]
    assert [m.score for m in prediction.instances] == [0.75, 0.25]
    assert [m.bbox for m in prediction.instances] == [(0.5, 0.0, 2.5, 1.0), (0.0, 0.0, 1.0, 2.0)]
    assert [m.area for m in prediction.instances] == [2, 2]
    first, second = prediction.panoptic.segments
    assert (first.category_id, first.isthing, first.area, first.score) == (3, True, 2, 0.75)
    assert first.bbox == (1.0, 0.0, 2.0, 1.0)
    assert (second.category_id, second.isthing, second.area) == (4, False, 3)
    assert prediction.stuff.tolist() == [[0, 0, 0], [1, 1, 2]]
    np.testing.assert_allclose(prediction.confidence, np.e / (np.e + 2), rtol=1e-6)


@pytest.mark.d2
def test_what_a_model_does_not_know_is_none(tmp_path: Path) -> None:
    prepare_host()
    from u2seg.modeling.outputs import segmentation_of_outputs

    alone = segmentation_of_outputs({"instances": outputs()["instances"]}, SPACE)
    assert len(alone.instances) == 2
    assert alone.stuff is alone.confidence is alone.panoptic is None
    writer = PredictionWriter(tmp_path, SPACE)
    writer.add(1, "x.png", alone)
    assert read_panoptic_png(tmp_path / "panoptic/x.png").tolist() == [[2, 1, 1], [2, 0, 0]]
    assert read_label_png(tmp_path / "stuff/x.png").tolist() == [[0, 0, 0], [0, 255, 255]]


@pytest.mark.d2
def test_a_prediction_with_its_photograph(prediction: Segmentation, tmp_path: Path) -> None:
    values = {k: getattr(prediction, k) for k in ("size", "instances", "stuff", "panoptic")}
    image = np.full((2, 3, 3), 100, dtype=np.uint8)
    found = Prediction(**values, space=SPACE, image=image)
    assert repr(found) == "Prediction(2 x 3, 2 instances, stuff, 2 segments)"
    assert found.draw().shape == image.shape and (found.draw() != image).any()
    with Image.open(io.BytesIO(found._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), found.draw())
    with Image.open(found.save(tmp_path / "x.png")) as saved:
        assert np.array_equal(np.asarray(saved), found.draw())
    records = found.to_coco(7)
    assert [(r["image_id"], r["category_id"], r["score"]) for r in records] == [
        (7, 3, 0.75), (7, 1, 0.25)
    ]  # fmt: skip
    folder = found.save(tmp_path / "folder")
    assert json.loads((folder / "instances.json").read_text()) == found.to_coco()
    areas = [r["area"] for r in replace(found, instances=None).to_coco()]
    assert areas == [2, 3]


def test_a_class_outside_the_label_space_is_an_error() -> None:
    ids = np.ones((1, 1), dtype=np.int32)
    with pytest.raises(UserError, match=r"thing cluster 3 is outside 0\.\.2"):
        panoptic_label(ids, [{"id": 1, "isthing": True, "category_id": 3}], SPACE)
    with pytest.raises(UserError, match="stuff cluster -1"):
        panoptic_label(ids, [{"id": 1, "isthing": False, "category_id": 0}], SPACE)


@pytest.mark.d2
def test_written_folder(prediction: Segmentation, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    writer = PredictionWriter(folder, SPACE)
    assert not (folder / "metrics.json").exists()
    writer.add(7, "day/x.jpg", prediction)
    writer.add(3, "x.jpg", prediction)
    assert not (folder / "panoptic.json").exists()
    writer.finish()
    panoptic = json.loads((folder / "panoptic.json").read_text())
    assert panoptic["images"] == [
        {"id": 3, "file_name": "x.jpg", "height": 2, "width": 3},
        {"id": 7, "file_name": "day/x.jpg", "height": 2, "width": 3},
    ]
    second = panoptic["annotations"][1]
    assert (second["image_id"], second["file_name"]) == (7, "day/x.png")
    assert second["segments_info"][0] == {
        "id": 1, "category_id": 3, "isthing": 1, "iscrowd": 0, "area": 2,
        "bbox": [1.0, 0.0, 2.0, 1.0], "score": 0.75,
    }  # fmt: skip
    maps = read_panoptic_png(folder / "panoptic" / "day" / "x.png")
    assert maps.tolist() == [[0, 1, 1], [2, 2, 2]]
    stuff = read_label_png(folder / "stuff" / "x.png")
    assert stuff.tolist() == [[0, 0, 0], [1, 1, 2]]
    results = json.loads((folder / "instances.json").read_text())
    kept = [(r["image_id"], r["category_id"], r["score"], r["bbox"]) for r in results[:2]]
    assert kept == [(3, 3, 0.75, [0.5, 0.0, 2.5, 1.0]), (3, 1, 0.25, [0.0, 0.0, 1.0, 2.0])]
    mask = decode_mask(results[0]["segmentation"])
    assert mask.tolist() == [[False, True, True], [False, False, False]]
    assert json.loads((folder / "labelspace.json").read_text())["num_things"] == 3


@pytest.mark.d2
def test_names_stay_inside_the_folder(prediction: Segmentation, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out", SPACE)
    with pytest.raises(UserError, match="leaves its root"):
        writer.add(1, "../x.jpg", prediction)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        PredictionWriter(tmp_path / "file" / "out", SPACE)
