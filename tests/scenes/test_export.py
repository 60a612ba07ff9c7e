"""The written data set: COCO-valid, consistent, the same bytes for the same seed."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scenes import SceneSettings, write_scenes

from u2seg.errors import UserError
from u2seg.io.png import read_panoptic_png
from u2seg.structures.masks import mask_box


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    counts = write_scenes(root, SceneSettings(train=3, val=2, size=64, seed=4))
    assert counts["images"] == 5 and counts["things"] >= 5 and counts["stuff"] >= 5
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout(scenes: Path) -> None:
    pictures = {"train": ("000001", "000002", "000003"), "val": ("000004", "000005")}
    expected = set()
    for split, stems in pictures.items():
        expected |= {f"annotations/{kind}_{split}.json" for kind in ("panoptic", "instances")}
        expected |= {f"images/{split}/{s}.png" for s in stems}
        expected |= {f"annotations/panoptic_{split}/{s}.png" for s in stems}
    assert set(contents(scenes)) == expected


@pytest.mark.parametrize("split", ["train", "val"])
def test_panoptic_truth_equals_recomputation(scenes: Path, split: str) -> None:
    truth = json.loads((scenes / f"annotations/panoptic_{split}.json").read_text())
    assert [c["id"] for c in truth["categories"]] == list(range(1, 10))
    assert [c["isthing"] for c in truth["categories"]] == [1] * 5 + [0] * 4
    images = {image["id"]: image for image in truth["images"]}
    for annotation in truth["annotations"]:
        image = images[annotation["image_id"]]
        ids = read_panoptic_png(
            scenes / "annotations" / f"panoptic_{split}" / annotation["file_name"]
        )
        with Image.open(scenes / "images" / split / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == ids.shape[::-1]
        assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids))
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            assert segment["area"] == np.count_nonzero(mask)
            assert segment["bbox"] == list(mask_box(mask))


def test_instances_load_in_pycocotools_and_equal_the_panoptic_things(scenes: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(scenes / "annotations/instances_train.json"))
    truth = json.loads((scenes / "annotations/panoptic_train.json").read_text())
    for annotation in truth["annotations"]:
        ids = read_panoptic_png(scenes / "annotations/panoptic_train" / annotation["file_name"])
        things = [s for s in annotation["segments_info"] if s["isthing"]]
        instances = coco.loadAnns(coco.getAnnIds(imgIds=[annotation["image_id"]]))
        assert len(instances) == len(things)
        for segment, instance in zip(things, instances, strict=True):
            assert instance["category_id"] == segment["category_id"]
            np.testing.assert_array_equal(coco.annToMask(instance), ids == segment["id"])
            assert instance["area"] == segment["area"] and instance["bbox"] == segment["bbox"]


def test_same_seed_same_bytes_and_more_scenes_do_not_change_the_first(
    scenes: Path, tmp_path: Path
) -> None:
    write_scenes(tmp_path / "a", SceneSettings(train=3, val=2, size=64, seed=4))
    assert contents(tmp_path / "a") == contents(scenes)
    write_scenes(tmp_path / "b", SceneSettings(train=2, val=1, size=64, seed=4))
    first = "images/train/000001.png"
    assert (tmp_path / "b" / first).read_bytes() == (scenes / first).read_bytes()
    val = (tmp_path / "b/images/val/000003.png").read_bytes()
    assert val == (scenes / "images/val/000004.png").read_bytes()
    write_scenes(tmp_path / "c", SceneSettings(train=1, val=0, size=64, seed=5))
    assert (tmp_path / "c" / first).read_bytes() != (scenes / first).read_bytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": -1}, "--train -1 --val 50: both must be >= 0"),
        ({"train": 0, "val": 0}, "one must be > 0"),
        ({"size": 31}, "--size is 31, expected 32..2048"),
        ({"size": 2049}, "--size is 2049"),
        ({"seed": -1}, "--seed is -1, expected >= 0"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SceneSettings(**values)


def test_unwritable_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        write_scenes(tmp_path / "file", SceneSettings(train=1, val=0, size=32))
