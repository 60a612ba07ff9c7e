"""Registering in Detectron2's catalogs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import SPACE, make_labels
from u2seg.compat import prepare_host
from u2seg.data.catalog import register_coco_panoptic_eval, register_labels
from u2seg.errors import UserError

pytestmark = pytest.mark.d2
NAME = "u2seg_test_labels"


def test_registering_twice_is_harmless(tmp_path: Path) -> None:
    prepare_host()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    labels = make_labels(tmp_path)
    assert register_labels(NAME, labels) == SPACE
    assert register_labels(NAME, labels) == SPACE
    assert len(DatasetCatalog.get(NAME)) == 4
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["thing_0", "thing_1", "thing_2"]
    assert metadata.stuff_classes == ["things", "stuff_0", "stuff_1"]


def test_another_folder_replaces_the_first(tmp_path: Path) -> None:
    prepare_host()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    register_labels(NAME, make_labels(tmp_path / "one"))
    second = make_labels(tmp_path / "two", ("only.png",))
    register_labels(NAME, second)
    assert [r["stem"] for r in DatasetCatalog.get(NAME)] == ["only"]
    assert MetadataCatalog.get(NAME).panoptic_json == str(second / "panoptic" / "panoptic.json")


def test_names_of_the_host_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'coco_2017_train' belongs to Detectron2"):
        register_labels("coco_2017_train", make_labels(tmp_path))


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
