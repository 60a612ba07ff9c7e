"""Registering in Detectron2's catalogs; evaluation data with gaps in ids, crowds, parts missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.factories import SPACE, make_labels
from u2seg.compat import prepare_host
from u2seg.data.catalog import panoptic_records, register_coco_panoptic_eval, register_labels
from u2seg.errors import UserError
from u2seg.io.atomic import write_json
from u2seg.io.png import write_panoptic_png
from u2seg.labels import LabelFolder

NAME = "u2seg_test_labels"


@pytest.mark.d2
def test_registering_twice_is_harmless(tmp_path: Path) -> None:
    prepare_host()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    labels = make_labels(tmp_path)
    assert register_labels(NAME, labels) == SPACE
    assert register_labels(NAME, labels) == SPACE
    assert len(DatasetCatalog.get(NAME)) == 4
    assert "instances" not in vars(LabelFolder.open(labels)), "workers would copy it"
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["thing_0", "thing_1", "thing_2"]
    assert metadata.stuff_classes == ["things", "stuff_0", "stuff_1"]


@pytest.mark.d2
def test_another_folder_replaces_the_first(tmp_path: Path) -> None:
    prepare_host()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    register_labels(NAME, make_labels(tmp_path / "one"))
    second = make_labels(tmp_path / "two", ("only.png",))
    register_labels(NAME, second)
    assert [r["stem"] for r in DatasetCatalog.get(NAME)] == ["only"]
    assert MetadataCatalog.get(NAME).panoptic_json == str(second / "panoptic" / "panoptic.json")


@pytest.mark.d2
def test_names_of_the_host_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'coco_2017_train' belongs to Detectron2"):
        register_labels("coco_2017_train", make_labels(tmp_path))


@pytest.mark.d2
def test_labels_serve_as_evaluation_data(tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog

    make_labels(tmp_path)
    register_coco_panoptic_eval(
        "u2seg_test_eval",
        tmp_path,
        "photos",
        "labels/panoptic/panoptic.json",
        "labels/panoptic/panoptic",
    )
    records = DatasetCatalog.get("u2seg_test_eval")
    assert [r["image_id"] for r in records] == [1, 2, 3, 4]
    assert "annotations" not in records[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "val").mkdir()
    Image.new("RGB", (4, 2)).save(tmp_path / "val" / "7.jpg")
    write_panoptic_png(tmp_path / "maps" / "7.png", np.array([[1] * 4, [2] * 4], dtype=np.int32))
    segments = [
        {"id": 1, "category_id": 18, "area": 4, "bbox": [0, 0, 4, 1], "iscrowd": 1},
        {"id": 2, "category_id": 200, "area": 4, "bbox": [0, 1, 4, 1]},
    ]
    content = {
        "images": [
            {"id": 7, "file_name": "7.jpg", "height": 2, "width": 4},
            {"id": 8, "file_name": "8.jpg", "height": 2, "width": 4},
        ],
        "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
        "categories": [
            {"id": 18, "name": "dog", "isthing": 1},
            {"id": 200, "name": "rug", "isthing": 0},
        ],
    }
    write_json(tmp_path / "truth.json", content)
    return tmp_path


def test_ids_with_gaps_and_crowds_are_kept(root: Path) -> None:
    (record,) = panoptic_records(root / "val", root / "truth.json", root / "maps")
    assert (record["image_id"], record["stem"], record["height"], record["width"]) == (7, "7", 2, 4)
    kept = [(s["id"], s["category_id"], s["iscrowd"]) for s in record["segments_info"]]
    assert kept == [(1, 18, 1), (2, 200, 0)]


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        (("nowhere", "truth.json", "maps"), "nowhere"),
        (("val", "none.json", "maps"), "none.json"),
        (("val", "truth.json", "none"), "none"),
    ],
)
def test_missing_parts_are_named(root: Path, parts: tuple[str, str, str], missing: str) -> None:
    with pytest.raises(UserError, match=rf"{missing} does not exist. Set U2SEG.DATA.EVAL_ROOT"):
        register_coco_panoptic_eval(NAME, root, *parts)


def test_missing_map(root: Path) -> None:
    (root / "maps" / "7.png").unlink()
    with pytest.raises(UserError, match=r"7\.png, which does not exist"):
        panoptic_records(root / "val", root / "truth.json", root / "maps")
