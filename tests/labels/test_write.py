"""Files of exported labels: formats, determinism, and the check that reads them back."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from u2seg.config.schema import PanopticSettings
from u2seg.errors import StageError, UserError
from u2seg.io.atomic import json_bytes
from u2seg.io.png import (
    read_panoptic_png,
    write_label_png,
    write_panoptic_png,
)
from u2seg.labels.check import check_labels
from u2seg.labels.write import (
    LabelRecord,
    export_image,
    merge_parts,
    numbered,
    read_part,
    stuff_target,
    write_part,
)
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask, decode_mask
from u2seg.structures.panoptic import PanopticLabel

SPACE = LabelSpace(num_things=3, num_stuff=2)
IMAGES = [
    {"id": 1, "file_name": "a/p.jpg", "height": 4, "width": 6, "sha256": "00"},
    {"id": 2, "file_name": "b/p.jpg", "height": 4, "width": 6, "sha256": "01"},
    {"id": 5, "file_name": "Ünï 山.png", "height": 4, "width": 6, "sha256": "02"},
]


def _label(things: int) -> PanopticLabel:
    stuff = np.zeros((4, 6), dtype=np.uint8)
    stuff[:, 3:], stuff[3, 5] = 1, 255
    masks = []
    for index in range(things):
        mask = np.zeros((4, 6), dtype=bool)
        mask[: 2 - index, : 3 + index] = True
        masks.append(InstanceMask.from_array(mask, 0.5))
    return merge_panoptic(masks, list(range(things)), stuff, SPACE, PanopticSettings())


def _records(folder: Path) -> list[LabelRecord]:
    return [export_image(folder, row, _label(n), SPACE) for n, row in enumerate(IMAGES)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    merge_parts([_records(tmp_path)], tmp_path, IMAGES, SPACE)
    return tmp_path


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_stuff_target_by_hand() -> None:
    # One thing on the top left 2 x 3; stuff 0 left, stuff 1 right, one void pixel.
    expected = [[0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 2], [1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 255]]
    assert stuff_target(_label(1), SPACE).tolist() == expected


def test_instances_open_in_pycocotools(folder: Path, capsys: pytest.CaptureFixture) -> None:
    coco = COCO(str(folder / "instances.json"))
    assert sorted(coco.getImgIds()) == [1, 2, 5]
    assert sorted(coco.getCatIds()) == [1, 2, 3]
    # Ids run over the data set in the order of the images: none, one, two.
    assert [a["image_id"] for a in coco.loadAnns([1, 2, 3])] == [2, 5, 5]
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        assert annotation["area"] == mask.sum()
        np.testing.assert_array_equal(mask, decode_mask(annotation["segmentation"]))


def test_panoptic_json_by_hand(folder: Path) -> None:
    content = _json(folder / "panoptic.json")
    assert content["categories"] == SPACE.categories()
    assert content["images"][0] == {"id": 1, "file_name": "a/p.jpg", "height": 4, "width": 6}
    row = content["annotations"][1]
    assert (row["image_id"], row["file_name"]) == (2, "b/p.png")
    thing, left, right = row["segments_info"]
    assert (thing["id"], thing["category_id"], thing["isthing"], thing["area"]) == (1, 1, 1, 6)
    assert thing["bbox"] == [0.0, 0.0, 3.0, 2.0]
    assert (left["category_id"], left["isthing"], left["area"]) == (4, 0, 6)
    assert (right["category_id"], right["area"]) == (5, 11)


def test_files_do_not_depend_on_the_split(folder: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    records = _records(other)
    parts = iter([records[:1], [], records[1:]])
    counts = merge_parts(parts, other, IMAGES, SPACE)
    assert counts == {"images": 3, "instances": 3, "segments": 9}
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (other / path.relative_to(folder)).read_bytes()


def test_streamed_json_is_canonical(folder: Path) -> None:
    for name in ("panoptic.json", "instances.json"):
        assert (folder / name).read_bytes() == json_bytes(_json(folder / name))


def test_memory_does_not_grow_with_the_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("u2seg.labels.write.PIECE", 4096)
    records = _records(tmp_path)

    class Images:
        """Records that are made when they are asked for."""

        def __init__(self, count: int) -> None:
            self.count = count

        def __iter__(self) -> Iterator[dict[str, Any]]:
            for i in range(self.count):
                yield {**IMAGES[i % 3], "id": i, "file_name": f"{i}.jpg"}

    def peak(count: int) -> int:
        def part(start: int) -> list[LabelRecord]:
            return [replace(records[i % 3], image_id=i) for i in range(start, start + 20)]

        tracemalloc.start()
        parts = (part(start) for start in range(0, count, 20))
        assert merge_parts(parts, tmp_path / "out", Images(count), SPACE)["images"] == count
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(3_000)  # whatever is made once, such as the interpreter's table of strings
    # 3,000 records take 3 MB; what may grow is a digest of each name, twice while it is sorted.
    assert peak(3_000) < peak(300) + 200_000
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ([0, 1], "end after 2 of 3 images"),
        ([0, 2, 1], "image 5 where images.json has 2"),
        ([0, 1, 2, 2], "image 5 where images.json has no more images"),
        ([0, 0, 1, 2], "image 1 where images.json has 2"),
    ],
)
def test_wrong_parts_are_refused_and_nothing_is_written(
    tmp_path: Path, pick: list[int], message: str
) -> None:
    records = _records(tmp_path)
    with pytest.raises(StageError, match=message):
        merge_parts([[records[i] for i in pick]], tmp_path, IMAGES, SPACE)
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".*"))


def test_images_that_would_share_a_png_are_refused(tmp_path: Path) -> None:
    images = [{**IMAGES[0], "id": i, "file_name": name} for i, name in ((1, "p.jpg"), (2, "p.png"))]
    with pytest.raises(UserError, match=r"p\.jpg and p\.png would share"):
        merge_parts([], tmp_path, images, SPACE)


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves its root"):
        export_image(tmp_path / "x", {**IMAGES[0], "file_name": "../../p.jpg"}, _label(1), SPACE)
    assert not (tmp_path / "p.png").exists()


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/p\.jpg is \(4, 6\), images\.json says \(6, 4\)"):
        export_image(tmp_path, {**IMAGES[0], "height": 6, "width": 4}, _label(1), SPACE)


@pytest.mark.parametrize("damage", [{"area": 0}, {"bbox": (0.0, 0.0, 0.0, 1.0)}])
def test_empty_segments_are_never_written(tmp_path: Path, damage: dict[str, Any]) -> None:
    label = _label(1)
    segments = (replace(label.segments[0], **damage), *label.segments[1:])
    with pytest.raises(ValueError, match=r"segment 1 of a/p\.jpg is empty"):
        export_image(tmp_path, IMAGES[0], PanopticLabel(label.ids, segments), SPACE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rule", ["scored", "released"])
def test_random_labels_pass_what_panopticapi_asks(tmp_path: Path, rule: str) -> None:
    # What pq_compute and its format checks rely on, written anew from the format's description.
    rng = np.random.default_rng(5)
    images = [
        {"id": 3 * i + 1, "file_name": f"{i}.jpg", "height": 24, "width": 31} for i in range(30)
    ]
    records = []
    for image in images:
        masks = []
        for _ in range(rng.integers(0, 6)):
            mask = np.zeros((24, 31), dtype=bool)
            y, x = rng.integers(0, 24), rng.integers(0, 31)
            mask[y : y + rng.integers(0, 14), x : x + rng.integers(0, 14)] = True
            masks.append(InstanceMask.from_array(mask, float(rng.random())))
        stuff = rng.choice([0, 1, 255], (24, 31), p=[0.5, 0.4, 0.1]).astype(np.uint8)
        clusters = rng.integers(0, 3, len(masks)).tolist()
        label = merge_panoptic(masks, clusters, stuff, SPACE, PanopticSettings(rule=rule))
        records.append(export_image(tmp_path, image, label, SPACE))
    merge_parts([records], tmp_path, images, SPACE)
    content = _json(tmp_path / "panoptic.json")
    categories = {c["id"]: c for c in content["categories"]}
    for image, row in zip(content["images"], content["annotations"], strict=True):
        with Image.open(tmp_path / "panoptic" / row["file_name"]) as png:
            assert (png.mode, png.size) == ("RGB", (image["width"], image["height"]))
            rgb = np.asarray(png).astype(np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
        counted = dict(zip(*(v.tolist() for v in np.unique(ids, return_counts=True)), strict=True))
        counted.pop(0, None)
        assert counted == {s["id"]: s["area"] for s in row["segments_info"]}
        assert all(s["category_id"] in categories for s in row["segments_info"])
    assert check_labels(tmp_path)["images"] == 30


def test_a_sound_folder_passes_the_check(folder: Path) -> None:
    assert check_labels(folder) == {"images": 3, "instances": 3, "segments": 9}


def _edit(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = _json(folder / name)
        change(content)
        (folder / name).write_bytes(json_bytes(content))

    return damage


def _segment(**values: Any) -> Callable[[Path], None]:
    return _edit("panoptic.json", lambda c: c["annotations"][1]["segments_info"][0].update(values))


def _extra_id(folder: Path) -> None:
    ids = read_panoptic_png(folder / "panoptic" / "b" / "p.png")
    ids[0, 0] = 77
    write_panoptic_png(folder / "panoptic" / "b" / "p.png", ids)


def _other_size(folder: Path) -> None:
    write_panoptic_png(folder / "panoptic" / "b" / "p.png", np.ones((2, 2), dtype=np.int32))


def _other_stuff(folder: Path) -> None:
    write_label_png(folder / "stuff" / "b" / "p.png", np.zeros((4, 6), dtype=np.uint8))


def _no_png(folder: Path) -> None:
    (folder / "panoptic" / "b" / "p.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_segment(area=5), r"b/p\.png: segment 1 has area 5, its pixels say 6"),
        (_segment(bbox=[0, 0, 3, 3]), r"segment 1 has bbox \[0, 0, 3, 3\]"),
        (_segment(area=0), r"segment 1 has area 0, its pixels say 6"),
        (_segment(bbox=[]), r"segment 1 has bbox \[\]"),
        (_segment(iscrowd=1), "segment 1 has iscrowd 1, its pixels say 0"),
        (_segment(id=2), "the id is outside 1..16777215 or used twice in its image"),
        (_segment(category_id=4), "segment 1 has isthing 1, its pixels say 0"),
        (_segment(category_id=6), "'category_id' is 6"),
        (_segment(id=9), r"PNG ids \[1, 9\] are only in"),
        (_extra_id, r"PNG ids \[77\] are only in"),
        (_other_size, r"PNG is \(2, 2\), the image \(4, 6\)"),
        (_other_stuff, "the stuff PNG does not follow"),
        (_no_png, r"p\.png does not exist"),
        (
            _edit("panoptic.json", lambda c: c["annotations"][1].update(file_name="a/q.png")),
            r"the PNG of image b/p\.jpg must be b/p\.png",
        ),
        (
            _edit("panoptic.json", lambda c: c["annotations"].pop()),
            "1 images have no annotation, the first is 5",
        ),
        (
            _edit("instances.json", lambda c: c["annotations"].pop()),
            "2 thing segments, but 1 in instances.json",
        ),
        (
            _edit("instances.json", lambda c: c["annotations"][0].update(category_id=2)),
            "instance 1 is not segment 1",
        ),
        (
            _edit("instances.json", lambda c: c["categories"].pop()),
            "the categories of instances.json",
        ),
        (
            _edit("labelspace.json", lambda c: c.update(num_stuff=1, stuff_names=["s"])),
            "the categories of panoptic.json",
        ),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message):
        check_labels(folder)


ODD_NAME = "Ünï \udcff.png"
"""A file name that is no UTF-8."""
ENCODED = [
    LabelRecord(3, 0, b'{"file_name":"a.png","image_id":3,"segments_info":[]}', ()),
    LabelRecord(
        7,
        2,
        b'{"file_name":"'
        + ODD_NAME.encode("utf-8", "surrogateescape")
        + b'","segments_info":[1,2]}',
        (b'{"category_id":0,"id":0,"image_id":7}', b'{"area":0,"id":0,"score":0.0}'),
    ),
]


def test_records_come_back(tmp_path: Path) -> None:
    for records in (ENCODED, ENCODED[:1], []):
        write_part(tmp_path / "x.json", records)
        assert read_part(tmp_path / "x.json") == records


def test_a_part_is_json(tmp_path: Path) -> None:
    write_part(tmp_path / "x.json", ENCODED[:1] * 2)
    label = {"file_name": "a.png", "image_id": 3, "segments_info": []}
    assert json.loads((tmp_path / "x.json").read_text()) == [[3, 0, 0], label] * 2


def test_only_the_id_is_replaced() -> None:
    assert numbered(ENCODED[1].instances[0], 5) == b'{"category_id":0,"id":5,"image_id":7}'
    text = b'{"area":0,"id":0,"x":"\\"id\\":0,","y":{"id":0,"z":1}}'
    assert numbered(text, 12) == b'{"area":0,"id":12,"x":"\\"id\\":0,","y":{"id":0,"z":1}}'


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-3],
        lambda content: content[:60],
        lambda content: content.replace(b"[7,2,2]", b"[7,2,3]"),
        lambda content: content.replace(b"[7,2,2]", b"[7,2,1]"),
        lambda content: content.replace(b"[7,2,2]", b"[7,2]"),
        lambda content: content.replace(b'"id":0,"score"', b'"score"'),
        lambda content: json.dumps([{"image_id": 1, "panoptic": {}, "instances": []}]).encode(),
    ],
)
def test_damaged_parts_are_named(tmp_path: Path, damage: object) -> None:
    write_part(tmp_path / "x.json", ENCODED)
    content = (tmp_path / "x.json").read_bytes()
    (tmp_path / "x.json").write_bytes(damage(content))  # type: ignore[operator]
    with pytest.raises(StageError, match=r"x\.json cannot be used .* run the panoptic stage again"):
        read_part(tmp_path / "x.json")
    with pytest.raises(StageError, match=r"none\.json cannot be used"):
        read_part(tmp_path / "none.json")
