"""Readers of label folders: values, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.label_folder import SPACE, make_labels
from u2seg.data.mapper import read_photograph
from u2seg.data.pseudo import XYWH_ABS, open_pseudo_labels, read_pseudo_panoptic
from u2seg.errors import StageError, UserError
from u2seg.io.atomic import sha256_file, write_json
from u2seg.io.png import read_label_png
from u2seg.structures.masks import decode_mask


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return make_labels(tmp_path)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_records_hold_what_the_files_say(labels: Path) -> None:
    records = read_pseudo_panoptic(labels)
    assert [r["stem"] for r in records] == ["a/0", "b/1", "2", "3"]
    first = records[0]
    assert (first["image_id"], first["height"], first["width"]) == (1, 64, 64)
    assert Path(first["file_name"]) == labels.parent / "photos" / "a" / "0.png"
    assert [s["category_id"] for s in first["segments_info"]] == [4, 5, 1]
    (thing,) = first["annotations"]
    assert thing["bbox"] == [24.0, 24.0, 16.0, 16.0]
    assert thing["category_id"] == 0
    assert thing["iscrowd"] == 0
    expected = np.zeros((64, 64), dtype=bool)
    expected[24:40, 24:40] = True
    assert np.array_equal(decode_mask(thing["segmentation"]), expected)
    assert records[1]["annotations"][0]["category_id"] == 1
    stuff = read_label_png(first["sem_seg_file_name"])
    assert (stuff[0, 0], stuff[63, 0], stuff[30, 30]) == (1, 2, 0)


def test_images_without_things_are_kept(labels: Path) -> None:
    assert read_pseudo_panoptic(labels)[3]["annotations"] == []


def test_same_name_in_two_folders(tmp_path: Path) -> None:
    records = read_pseudo_panoptic(make_labels(tmp_path, ("a/x.png", "b/x.png")))
    assert len({r["sem_seg_file_name"] for r in records}) == 2
    assert len({r["pan_seg_file_name"] for r in records}) == 2


def test_label_space_of_the_folder(labels: Path) -> None:
    assert open_pseudo_labels(labels).space == SPACE


def test_moved_photographs(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"set U2SEG.DATA.IMAGES"):
        open_pseudo_labels(labels)
    records = read_pseudo_panoptic(labels, tmp_path / "elsewhere")
    assert "elsewhere" in records[0]["file_name"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("../../secret.png", "leaves its root"), ("/etc/passwd", "leaves its root")],
)
def test_file_names_stay_inside_the_image_root(labels: Path, name: str, message: str) -> None:
    edit(labels / "panoptic" / "panoptic.json", lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(UserError, match=message):
        read_pseudo_panoptic(labels)


def test_png_names_stay_inside_their_folder(labels: Path) -> None:
    path = labels / "panoptic" / "panoptic.json"
    edit(path, lambda c: c["annotations"][0].update(file_name="../stuff/2.png"))
    with pytest.raises(UserError, match="leaves its root"):
        read_pseudo_panoptic(labels)


def test_unfinished_folder_names_the_command(labels: Path) -> None:
    (labels / "panoptic" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"u2seg label .* --resume"):
        open_pseudo_labels(labels)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"U2SEG\.DATA\.LABELS"):
        open_pseudo_labels(tmp_path / "nowhere")


def test_missing_photograph_and_map(labels: Path) -> None:
    (labels / "panoptic" / "stuff" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png, which does not exist. Make the labels again"):
        read_pseudo_panoptic(labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 4}, "no known category"),
        ({"category_id": 0}, "no known category"),
        ({"image_id": 99}, "no known image"),
        ({"bbox": [0, 0, -1, 3]}, "sides >= 0"),
        ({"segmentation": {"size": [2, 2], "counts": "22"}}, "RLE size"),
    ],
)
def test_bad_instances_are_named(labels: Path, change: dict[str, Any], message: str) -> None:
    path = labels / "panoptic" / "instances.json"
    edit(path, lambda c: c["annotations"][0].update(change))
    with pytest.raises(UserError, match=message) as caught:
        read_pseudo_panoptic(labels)
    assert "instances.json" in str(caught.value)


def test_things_of_an_image_that_panoptic_json_lacks(labels: Path) -> None:
    edit(labels / "panoptic" / "panoptic.json", lambda c: c["annotations"].pop(0))
    with pytest.raises(UserError, match="things in image 1"):
        read_pseudo_panoptic(labels)


@pytest.mark.d2
def test_box_mode_is_the_hosts() -> None:
    from u2seg.compat import prepare_host

    prepare_host()
    from detectron2.structures import BoxMode

    assert BoxMode.XYWH_ABS == XYWH_ABS


@pytest.mark.parametrize("name", ["labelspace.json", "instances.json", "panoptic.json"])
def test_files_changed_after_the_manifest_are_refused(labels: Path, name: str) -> None:
    folder = labels / "panoptic"
    digests = {path.name: sha256_file(path) for path in folder.glob("*.json")}
    write_json(folder / "manifest.json", {"files": digests})
    assert open_pseudo_labels(labels).space == SPACE
    (folder / name).write_text((folder / name).read_text() + " ")
    with pytest.raises(UserError, match=rf"{name} was changed after .*u2seg label --resume"):
        open_pseudo_labels(labels)


def test_a_label_file_that_is_missing_is_named(labels: Path) -> None:
    (labels / "panoptic" / "instances.json").unlink()
    with pytest.raises(UserError, match=r"instances.json is missing. Make the labels again"):
        open_pseudo_labels(labels)


def test_photographs_that_were_replaced_since_labelling_are_noticed(
    labels: Path, tmp_path: Path
) -> None:
    """Of the same size, with the labels of other pictures."""
    photos = tmp_path / "photos"
    digests = {p.relative_to(photos).as_posix(): sha256_file(p) for p in photos.rglob("*.png")}

    def know(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["sha256"] = digests[image["file_name"]]

    edit(labels / "images.json", know)
    for record in read_pseudo_panoptic(labels):
        assert read_photograph(record).shape == (64, 64, 3)
    (photos / "2.png").write_bytes((photos / "3.png").read_bytes())
    for number, record in enumerate(read_pseudo_panoptic(labels)):
        if number == 2:
            told = r"photos/2\.png: the photograph changed since it was labelled.*put the labelled"
            with pytest.raises(StageError, match=told):
                read_photograph(record)
        else:
            read_photograph(record)
