"""Label folders as predictions: whole ones, stuff alone, things alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.datasets import FILES, SHAPE, truth_maps, write_truth
from tests.evaluation.label_files import write_labels
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder
from u2seg.evaluation.truth.predictions import ResultFolders
from u2seg.io.png import write_label_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask

GRASS, SKY = 3, 4
SETTINGS = EvalSettings(bootstrap=20)


def evaluated(run: Path, tmp_path: Path) -> dict:
    return evaluate_folder(ResultFolders(run, tmp_path / "out"), write_truth(tmp_path), SETTINGS)


def stuff_alone(root: Path) -> Path:
    """Write stuff maps of both images, right where there is stuff and void elsewhere."""
    folder = root / "panoptic"
    for image_id, (ids, segments) in truth_maps().items():
        stuff = np.full(ids.shape, 255, dtype=np.uint8)
        for segment, category in segments.items():
            if category in (GRASS, SKY):
                stuff[ids == segment] = 1 + (category == GRASS)
        write_label_png(folder / "stuff" / FILES[image_id], stuff)
    (folder / "labelspace.json").write_text(json.dumps(LabelSpace(0, 2).to_json()))
    return root


def things_alone(root: Path) -> Path:
    """Write the true things of both images as instances of clusters 1 and 2."""
    folder, images, rows = root / "panoptic", [], []
    for image_id, (ids, segments) in truth_maps().items():
        name = FILES[image_id].replace("png", "jpg")
        size = {"height": SHAPE[0], "width": SHAPE[1]}
        images.append({"id": image_id + 100, "file_name": name, **size})
        for segment, category in segments.items():
            if category not in (GRASS, SKY):
                mask = InstanceMask.from_array(ids == segment, 0.9)
                row = mask.to_result(image_id + 100, category)
                rows.append({**row, "id": len(rows) + 1, "area": mask.area, "iscrowd": 0})
    space = LabelSpace(2, 0)
    content = {"images": images, "categories": space.categories(), "annotations": rows}
    folder.mkdir(parents=True)
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "labelspace.json").write_text(json.dumps(space.to_json()))
    return root


def test_a_label_folder_is_scored_as_predictions(tmp_path: Path) -> None:
    """One image of two is labelled, and rightly; the things of the other are missed."""
    metrics = evaluated(write_labels(tmp_path / "run"), tmp_path)
    assert metrics["protocol"]["images_without_prediction"] == 1
    classes = metrics["panoptic"]["per_class"]
    assert [classes[c]["tp"] for c in ("cat", "dog", "grass", "sky")] == [1, 1, 1, 1]
    assert [classes[c]["fn"] for c in ("cat", "dog", "grass", "sky")] == [2, 0, 1, 0]
    hashes = metrics["provenance"]["sha256"]
    assert {"predictions/panoptic.json", "predictions/instances.json"} <= set(hashes)


def test_stuff_alone_answers_the_semantic_task(tmp_path: Path) -> None:
    """Two of four classes are right, the things are nobody's."""
    metrics = evaluated(stuff_alone(tmp_path / "run"), tmp_path)
    assert metrics["panoptic"] is None and metrics["instances"] is None
    assert metrics["class_agnostic"] is None
    assert metrics["semantic"]["mIoU"] == 50.0
    assert metrics["protocol"]["clusters"]["matched_stuff"] == 2


def test_things_alone_answer_the_instance_task(tmp_path: Path) -> None:
    metrics = evaluated(things_alone(tmp_path / "run"), tmp_path)
    assert metrics["panoptic"] is None and metrics["semantic"] is None
    assert metrics["instances"]["segm"]["AP"] == pytest.approx(100.0)
    assert metrics["class_agnostic"]["box"]["AR100"] == pytest.approx(100.0)


def test_labels_that_do_not_fit_the_truth_are_refused(tmp_path: Path) -> None:
    run = stuff_alone(tmp_path / "run")
    write_label_png(run / "panoptic/stuff" / FILES[21], np.full(SHAPE, 7, dtype=np.uint8))
    with pytest.raises(UserError, match=r"first\.png holds segment id 7, which .*labelspace"):
        evaluated(run, tmp_path)
    write_label_png(run / "panoptic/stuff" / FILES[21], np.zeros((9, 6), dtype=np.uint8))
    with pytest.raises(UserError, match=r"image a/first is \(9, 6\), the true image \(4, 6\)"):
        evaluated(run, tmp_path)
