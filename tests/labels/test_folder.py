"""Readers of label folders: values, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.factories import BASE_CONFIG, SPACE, data_words, make_labels, scene
from u2seg.cli import main
from u2seg.data.mapper import read_photograph
from u2seg.errors import StageError, UserError
from u2seg.inference.writer import PredictionWriter
from u2seg.io.atomic import sha256_file, write_json
from u2seg.io.png import read_label_png
from u2seg.labels import LabelFolder
from u2seg.labels.check import check_labels
from u2seg.labels.folder import XYWH_ABS
from u2seg.labels.write import export_image, merge_parts
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask, decode_mask
from u2seg.structures.segmentation import Segmentation, panoptic_of


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return make_labels(tmp_path)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_records_hold_what_the_files_say(labels: Path) -> None:
    records = LabelFolder.open(labels).records()
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
    assert records[3]["annotations"] == [], "images without things are kept"
    stuff = read_label_png(first["sem_seg_file_name"])
    assert (stuff[0, 0], stuff[63, 0], stuff[30, 30]) == (1, 2, 0)


def test_same_name_in_two_folders(tmp_path: Path) -> None:
    records = LabelFolder.open(make_labels(tmp_path, ("a/x.png", "b/x.png"))).records()
    assert len({r["sem_seg_file_name"] for r in records}) == 2
    assert len({r["pan_seg_file_name"] for r in records}) == 2


def test_moved_photographs(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"set U2SEG.DATA.IMAGES"):
        LabelFolder.open(labels)
    records = LabelFolder.open(labels, tmp_path / "elsewhere").records()
    assert "elsewhere" in records[0]["file_name"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("../../secret.png", "leaves its root"), ("/etc/passwd", "leaves its root")],
)
def test_file_names_stay_inside_the_image_root(labels: Path, name: str, message: str) -> None:
    edit(labels / "panoptic" / "panoptic.json", lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(UserError, match=message):
        LabelFolder.open(labels).records()


def test_png_names_stay_inside_their_folder(labels: Path) -> None:
    path = labels / "panoptic" / "panoptic.json"
    edit(path, lambda c: c["annotations"][0].update(file_name="../stuff/2.png"))
    with pytest.raises(UserError, match="leaves its root"):
        LabelFolder.open(labels).records()


def test_unfinished_folder_names_the_command(labels: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; make it .* U2SEG\.DATA\.LABELS"):
        LabelFolder.open(labels / "nowhere")
    (labels / "panoptic" / "instances.json").unlink()
    with pytest.raises(UserError, match=r"instances.json is missing. Make the labels again"):
        LabelFolder.open(labels)
    (labels / "panoptic" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"u2seg label .* --resume"):
        LabelFolder.open(labels)


def test_missing_photograph_and_map(labels: Path) -> None:
    (labels / "panoptic" / "stuff" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png, which does not exist. Make the labels again"):
        LabelFolder.open(labels).records()


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
        LabelFolder.open(labels).records()
    assert "instances.json" in str(caught.value)


def test_things_of_an_image_that_panoptic_json_lacks(labels: Path) -> None:
    edit(labels / "panoptic" / "panoptic.json", lambda c: c["annotations"].pop(0))
    with pytest.raises(UserError, match="things in image 1"):
        LabelFolder.open(labels).records()


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
    assert LabelFolder.open(labels).space == SPACE
    (folder / name).write_text((folder / name).read_text() + " ")
    with pytest.raises(UserError, match=rf"{name} was changed after .*u2seg label --resume"):
        LabelFolder.open(labels)


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
    for record in LabelFolder.open(labels).records():
        assert read_photograph(record).shape == (64, 64, 3)
    (photos / "2.png").write_bytes((photos / "3.png").read_bytes())
    for number, record in enumerate(LabelFolder.open(labels).records()):
        if number == 2:
            told = r"photos/2\.png: the photograph changed since it was labelled.*put the labelled"
            with pytest.raises(StageError, match=told):
                read_photograph(record)
        else:
            read_photograph(record)


def test_a_segmentation_holds_all_that_the_files_say(labels: Path) -> None:
    folder = LabelFolder.open(labels)
    found = folder.segmentation(folder.images[0])
    label = scene(0)[1]
    assert found.space == SPACE
    assert found.panoptic is not None
    assert np.array_equal(found.panoptic.ids, label.ids)
    assert found.panoptic.segments == label.segments
    assert found.stuff is not None
    assert found.stuff[0, 0] == 1
    assert found.instances is not None
    assert [(m.cluster, m.area) for m in found.instances] == [(0, 256)]


def test_a_folder_is_parsed_once_and_again_when_it_changed(labels: Path) -> None:
    first = LabelFolder.open(labels)
    assert LabelFolder.open(labels) is first
    assert sorted(first.instances) == [1, 2, 3]
    edit(labels / "panoptic" / "instances.json", lambda c: c["annotations"].pop(0))
    assert sorted(LabelFolder.open(labels).instances) == [2, 3]


def test_results_open_like_labels(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, SPACE)
    masks = tuple(InstanceMask.from_array(np.eye(4, dtype=bool), s, cluster=2) for s in (0.9, 0.4))
    said = Segmentation((4, 4), masks, np.full((4, 4), 2, np.uint8))
    writer.add(7, "a/x.jpg", said)
    writer.finish()
    folder = LabelFolder.open(tmp_path)
    found = folder.segmentation(folder.images[0])
    assert (folder.is_results, folder.space, found.instances) == (True, SPACE, masks)
    assert found.panoptic is not None
    assert [s.category_id for s in found.panoptic.segments] == [3, 5]
    assert len(folder.digest()) == 64
    with pytest.raises(UserError, match=r"does not say where its photographs lie\. Set U2SEG"):
        folder.records()


@pytest.mark.parametrize("space", [LabelSpace(0, 2), LabelSpace(3, 0)])
def test_stuff_alone_and_things_alone(tmp_path: Path, space: LabelSpace) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 2)).save(tmp_path / "photos/a.jpg")
    record = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 4}
    info = {"image_root": str(tmp_path / "photos")}
    write_json(tmp_path / "images.json", {"info": info, "images": [record]})
    mask = InstanceMask.from_array(np.array([[1, 1, 0, 0]] * 2, dtype=bool), cluster=1)
    stuff = np.ones((2, 4), dtype=np.uint8)
    known = Segmentation((2, 4), (mask,)) if space.num_things else Segmentation((2, 4), (), stuff)
    target = tmp_path / "panoptic"
    part = export_image(target, record, panoptic_of(known, space), space)
    merge_parts([[part]], target, [record], space)
    write_json(target / "manifest.json", {})
    (row,) = LabelFolder.open(tmp_path).records()
    assert [a["category_id"] for a in row["annotations"]] == ([1] if space.num_things else [])
    assert check_labels(target)["images"] == 1
    if not space.num_things:  # its stuff maps say everything
        for name in ("instances.json", "panoptic.json"):
            (target / name).unlink()
        (bare,) = LabelFolder.open(tmp_path).records()
        assert bare["sem_seg_file_name"] == row["sem_seg_file_name"]


def test_a_hierarchy_keeps_its_masks_whole(tmp_path: Path) -> None:
    whole = InstanceMask.from_array(np.ones((2, 4), dtype=bool), 0.5, cluster=1)
    other = replace(whole, cluster=0)
    half = InstanceMask.from_array(np.array([[1, 1, 0, 0]] * 2, dtype=bool), 0.9, cluster=2)
    masks = (other, whole, replace(half, parent=1, level=1, granularity=0.5, source="merge"))
    rows = [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 4} for i in (1, 2)]
    target = tmp_path / "panoptic"
    label = panoptic_of(Segmentation((2, 4), (half,)), SPACE)
    merge_parts([[export_image(target, r, label, SPACE, masks) for r in rows]], target, rows, SPACE)
    content = json.loads((target / "instances.json").read_text())
    assert [a.get("parent") for a in content["annotations"]] == [None, None, 2, None, None, 5]
    write_json(target / "manifest.json", {})
    info = {"image_root": str(tmp_path)}
    write_json(tmp_path / "images.json", {"info": info, "images": rows})
    folder = LabelFolder.open(tmp_path)
    assert [folder.masks(image) for image in folder.images] == [masks, masks]
    assert check_labels(target) == {"images": 2, "instances": 6, "segments": 2}


@pytest.fixture
def published(labels: Path, tmp_path: Path) -> Path:
    """The layout of U2Seg: boxes empty and areas 0 of stuff, as its merge leaves them."""
    root, source = tmp_path / "u2seg_annotations", labels / "panoptic"
    content = json.loads((source / "panoptic.json").read_text())
    for label in content["annotations"]:
        for segment in label["segments_info"]:
            if not segment["isthing"]:
                segment.update(bbox=[], area=0)
    write_json(root / "panoptic_annotations/cocotrain_3.json", content)
    write_json(root / "panoptic_annotations/cocoval_3.json", content)
    instances = json.loads((source / "instances.json").read_text())
    write_json(root / "ins_annotations/cocotrain_3.json", instances)
    maps = root / "panoptic_annotations"
    (source / "panoptic").rename(maps / "cocotrain_3")
    (source / "stuff").rename(maps / "panoptic_stuff_cocotrain_3")
    return root


def test_the_published_layout_is_a_label_folder(published: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    with pytest.raises(UserError, match=r"Set U2SEG\.DATA\.IMAGES"):
        LabelFolder.open(published)
    folder = LabelFolder.open(published, photos)
    assert folder.space == SPACE
    label = folder.segmentation(folder.images[0]).panoptic
    assert label is not None
    assert label.segments == scene(0)[1].segments
    first = folder.records()[0]
    assert first["annotations"][0]["bbox"] == [24.0, 24.0, 16.0, 16.0]
    assert read_label_png(first["sem_seg_file_name"])[0, 0] == 1
    one = LabelFolder.open(published / "panoptic_annotations/cocotrain_3.json", photos)
    assert (one.records(), one.digest()) == (folder.records(), folder.digest())
    (published / "ins_annotations/cocotrain_3.json").unlink()
    with pytest.raises(UserError, match=r"ins_annotations/cocotrain_3\.json does not exist"):
        LabelFolder.open(published, photos)


def test_labels_are_exported_in_the_published_layout(labels: Path, tmp_path: Path) -> None:
    assert main(["labels", "check", str(labels)]) == 0
    assert main(["labels", "export", str(labels), "--output", str(tmp_path / "out")]) == 0
    back = LabelFolder.open(tmp_path / "out", tmp_path / "photos")
    own = LabelFolder.open(labels)
    assert back.panoptic_json.name == "cocotrain_3.json"
    for image in own.images:
        mine, theirs = own.segmentation(image), back.segmentation(image)
        assert mine.instances == theirs.instances
        assert np.array_equal(mine.stuff, theirs.stuff)
    assert main(["labels", "export", str(labels), "--output", str(tmp_path / "out")]) == 2
    (labels / "panoptic/stuff/2.png").unlink()
    assert main(["labels", "check", str(labels)]) == 2


@pytest.mark.d2
def test_the_published_layout_is_trained_on(published: Path, tmp_path: Path) -> None:
    from u2seg.engine.run import train_or_evaluate
    from u2seg.host.arguments import train_parser

    words = ["--config-file", str(BASE_CONFIG), *data_words(published, tmp_path / "out")]
    words += ["U2SEG.DATA.IMAGES", str(tmp_path / "photos")]
    train_or_evaluate(train_parser().parse_intermixed_args(words))
    assert (tmp_path / "out/model_final.pth").is_file()
