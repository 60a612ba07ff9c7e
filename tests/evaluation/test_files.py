"""Whatever does not fit together is refused, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation import formats
from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import GroundTruth, evaluate_folder
from u2seg.evaluation import collect as collecting
from u2seg.evaluation.metrics.overlap import Overlap
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import TASKS, Truth, settled_areas
from u2seg.evaluation.truth.classes import ClassSet, SetClass, with_classes
from u2seg.evaluation.truth.formats import open_truth
from u2seg.io.png import write_label_png, write_panoptic_png
from u2seg.structures.labels import LabelSpace

SPACE = LabelSpace(num_things=3, num_stuff=2)


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    return write_truth(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_predictions(tmp_path / "p", relabelled({1: 3, 2: 1, 3: 5, 4: 4}), SPACE)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


GHOST = {"id": 999, "category_id": 1, "area": 3, "bbox": [0, 0, 1, 3], "isthing": 1}
OTHER_SPACE = json.dumps(LabelSpace(num_things=2, num_stuff=3).to_json())


def of_panoptic(change: Callable[[Any], Any]) -> Callable[[Path, GroundTruth], None]:
    return lambda folder, truth: edit(folder / "panoptic.json", change)


def of_truth(change: Callable[[Any], Any]) -> Callable[[Path, GroundTruth], None]:
    return lambda folder, truth: edit(truth.panoptic_json, change)


def first_segment(**values: Any) -> Callable[[Any], Any]:
    """Change the first segment, a cat of 4 pixels, of the first true image."""
    return lambda c: c["annotations"][0]["segments_info"][0].update(**values)


def without_second(folder: Path, truth: GroundTruth) -> None:
    for path in (truth.panoptic_json, folder / "panoptic.json"):
        edit(path, lambda c: c["annotations"].pop())


UNSEEN = {"id": 500, "category_id": 1, "area": 5, "iscrowd": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            of_truth(lambda c: c["annotations"].pop()),
            r"panoptic\.json speaks of image id 22, which .*truth",
        ),
        (
            of_panoptic(lambda c: c["annotations"][1]["segments_info"].pop(0)),
            r"second\.png holds segment id 101, which .*image 22",
        ),
        (
            of_truth(lambda c: c["annotations"][0]["segments_info"].pop()),
            r"first\.png holds segment id 14, which .*truth\.json",
        ),
        (
            of_panoptic(lambda c: c["annotations"][0]["segments_info"].append(GHOST)),
            "segment id 999 of image 21 has no pixel",
        ),
        (
            lambda folder, truth: edit(
                folder / "instances.json", lambda c: c[0].update(category_id=4)
            ),
            r"instances\.json: results\[0\].* no known category",
        ),
        (
            lambda folder, truth: (folder / "labelspace.json").write_text(OTHER_SPACE),
            r"labelspace\.json has 2 things and 3 stuff, .* 3 and 2",
        ),
        (
            lambda folder, truth: write_label_png(
                folder / "stuff/second.png", np.full((4, 6), 3, np.uint8)
            ),
            r"second\.png holds the value 3, but there are 2 stuff",
        ),
        (
            of_panoptic(lambda c: c["annotations"][1].update(file_name="../../x.png")),
            "leaves its root",
        ),
        (lambda folder, truth: (folder / "panoptic.json").unlink(), "holds no panoptic.json"),
        (lambda folder, truth: (folder / "instances.json").unlink(), "instances.json"),
        (of_truth(lambda c: c.update(annotations=[])), "annotates no image"),
        (
            of_truth(lambda c: [a.update(segments_info=[]) for a in c["annotations"]]),
            "none of its 2 annotated images has a segment",
        ),
        (
            of_truth(lambda c: c["annotations"][0]["segments_info"].append(UNSEEN)),
            "segment id 500 of image 21 has the area 5, but 0 pixels",
        ),
        (of_truth(first_segment(area=0)), "has the area 0, expected"),
        (of_truth(first_segment(area=25)), "has the area 25, expected"),
        (of_truth(first_segment(area=0.5)), "'area' is 0.5, exp"),
        (of_truth(first_segment(iscrowd="0")), "'iscrowd' is '0', expected 0 or 1"),
        (of_truth(lambda c: c["categories"][2].update(id=0)), r"categories\[2\].*'id' is 0, exp"),
        (
            lambda folder, truth: edit(folder / "instances.json", lambda c: c[0].update(score=7)),
            "'score' is 7, expected 0..1",
        ),
        (without_second, r"instances\.json speaks of image id 22"),
        (lambda folder, truth: shutil.rmtree(truth.panoptic_pngs), "truth, does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(
    change: Callable[[Path, GroundTruth], None], message: str, folder: Path, truth: GroundTruth
) -> None:
    change(folder, truth)
    with pytest.raises(UserError, match=message):
        evaluate_folder(folder, truth, EvalSettings())
    assert not (folder / "metrics.json").exists() and not (folder / "mapping.json").exists()


def test_declared_size_that_differs_from_the_truth(folder: Path, truth: GroundTruth) -> None:
    write_panoptic_png(folder / "panoptic" / "second.png", np.zeros((5, 6), np.int32))
    edit(folder / "panoptic.json", lambda c: c["images"][1].update(height=5))
    edit(folder / "panoptic.json", lambda c: c["annotations"][1].update(segments_info=[]))
    edit(folder / "instances.json", lambda c: [c.pop() for _ in range(2)])
    with pytest.raises(UserError, match=r"second\.png is 6 x 5 pixels, the true map has 6 x 4"):
        evaluate_folder(folder, truth, EvalSettings())


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The long pass may not begin."""

    def read(*_: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(collecting, "image_table", read)


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize("side", ["truth", "panoptic", "stuff"])
def test_sizes_and_missing_maps_are_seen_before_the_pass(
    folder: Path, truth: GroundTruth, side: str
) -> None:
    path = (truth.panoptic_pngs if side == "truth" else folder / side) / "second.png"
    write_label_png(path, np.zeros((6, 4), np.uint8))
    with pytest.raises(UserError, match=r"second\.png is 4 x 6 pixels, .* 6 x 4 \(width x hei"):
        evaluate_folder(folder, truth, EvalSettings())
    path.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"second\.png: it does not begin as a PNG file"):
        evaluate_folder(folder, truth, EvalSettings())
    path.unlink()
    with pytest.raises(UserError, match=r"second\.png does not exist"):
        evaluate_folder(folder, truth, EvalSettings())


@pytest.mark.usefixtures("no_pixels")
def test_what_json_files_tell_is_seen_before_the_pass(folder: Path, truth: GroundTruth) -> None:
    with pytest.raises(UserError, match=r"'identity'.*category 3"):
        evaluate_folder(folder, truth, EvalSettings(matching="identity"))
    edit(truth.panoptic_json, lambda c: c["annotations"][1]["segments_info"][0].update(area=0))
    with pytest.raises(UserError, match=r"truth\.json: segment id 1 of image 22 has the area 0"):
        evaluate_folder(folder, truth, EvalSettings())
    edit(
        truth.panoptic_json, lambda c: c["annotations"][1]["segments_info"][0].update(category_id=9)
    )
    with pytest.raises(UserError, match="'category_id' is 9, which is no known category"):
        evaluate_folder(folder, truth, EvalSettings())
    edit(truth.panoptic_json, lambda c: c["annotations"].pop())
    with pytest.raises(UserError, match=r"speaks of image id 22, which .* does not annotate"):
        evaluate_folder(folder, truth, EvalSettings())


def opened(truth: GroundTruth, way: str) -> GroundTruth | Truth:
    """As train_net gives its truth, or as u2seg evaluate opens it."""
    if way == "paths":
        return truth
    return open_truth("coco-panoptic", [truth.panoptic_json, truth.panoptic_pngs])


@pytest.mark.parametrize("way", ["paths", "opened"])
@pytest.mark.parametrize("area", [3, 5])
def test_true_areas_are_the_pixels_of_the_map(
    folder: Path, truth: GroundTruth, way: str, area: int
) -> None:
    edit(truth.panoptic_json, first_segment(area=area))
    message = f"segment id 11 of image 21 has the area {area}, but 4 pixels in .*a/first.png"
    with pytest.raises(UserError, match=message):
        evaluate_folder(folder, opened(truth, way), EvalSettings(bootstrap=0))
    assert not (folder / "metrics.json").exists()
    edit(truth.panoptic_json, first_segment(area=4))
    metrics = evaluate_folder(folder, opened(truth, way), EvalSettings(bootstrap=0))
    assert metrics["panoptic"]["all"]["PQ"] == 100.0


@pytest.mark.parametrize(("area", "kept"), [(200, True), (202, True), (198, True), (203, False)])
def test_an_area_that_a_tool_rounded_is_the_number_of_pixels(
    truth: GroundTruth, area: int, kept: bool
) -> None:
    overlap = Overlap(np.array([7, 7]), np.array([0, 1]), np.array([50, 150]))
    segments = {7: TruthSegment(1, area)}
    if kept:
        assert settled_areas(opened(truth, "opened"), 21, segments, overlap) == {
            7: TruthSegment(1, 200)
        }
    else:
        with pytest.raises(UserError, match="segment id 7 of image 21 has the area 203, but 200"):
            settled_areas(opened(truth, "opened"), 21, segments, overlap)


def test_merged_stuff_has_the_area_of_both(folder: Path, truth: GroundTruth) -> None:
    """Grass and sky of the first image become one class: one segment of 9 + 6 pixels."""
    classes = (SetClass(1, "animal", True, (1, 2)), SetClass(2, "outside", False, (3, 4)))
    names = {1: "cat", 2: "dog", 3: "grass", 4: "sky"}
    merged = ClassSet("two", "two classes", TASKS, names, classes)
    view = with_classes(opened(truth, "opened"), merged, merge_stuff=True)
    evaluate_folder(folder, view, EvalSettings(bootstrap=0))
    grass = 2
    edit(
        truth.panoptic_json,
        lambda c: c["annotations"][0]["segments_info"][grass].update(area=1),
    )
    with pytest.raises(UserError, match=r"segment id 13 of image 21 has the area"):
        evaluate_folder(
            folder, with_classes(opened(truth, "opened"), merged, merge_stuff=True), EvalSettings()
        )


def test_instances_without_a_panoptic_annotation_still_count(
    folder: Path, truth: GroundTruth
) -> None:
    """The second image is empty to PQ, but its two cats vote and are found."""
    edit(folder / "panoptic.json", lambda c: c["annotations"].pop())
    metrics = evaluate_folder(folder, truth, EvalSettings(bootstrap=0))
    assert metrics["protocol"]["images_without_prediction"] == 1
    assert metrics["panoptic"]["per_class"]["cat"]["fn"] == 2
    assert metrics["instances"]["segm"]["AP"] == pytest.approx(100.0)
    content = json.loads((folder / "mapping.json").read_text())
    assert content["things"]["3"]["votes"] == 3


def test_folders_of_maps_that_are_void_everywhere_are_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes, maps = formats.camvid(tmp_path)
    for path in maps.glob("*.png"):
        formats.grey(path, [[11, 11], [11, 11]])
    folder = write_predictions(tmp_path / "p", {}, SPACE)
    metrics = evaluate_folder(
        folder, open_truth("camvid", [classes, maps]), EvalSettings(bootstrap=0)
    )
    assert metrics["semantic"]["mIoU"] is None
    assert "none of the 2 scored images of" in caplog.text
    assert "2 of 2 images have no panoptic prediction" in caplog.text


@pytest.mark.shared
@needs_shared("golden", "pq", "edge")
def test_panopticapis_case_of_two_areas_is_refused_by_the_command(tmp_path: Path) -> None:
    """``count_matches`` goes by the JSON as panopticapi does; an evaluation does not go on."""
    golden = SHARED / "golden" / "pq" / "edge"
    content = json.loads((golden / "gt.json").read_text())
    predicted = json.loads((golden / "pred.json").read_text())
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "panoptic.json").write_text(json.dumps({**content, **predicted}))
    (folder / "panoptic").symlink_to(golden / "pred")
    (folder / "instances.json").write_text("[]")
    with pytest.raises(UserError, match=r"gt\.json: segment id \d+ of image \d+ has the area"):
        evaluate_folder(folder, GroundTruth(golden / "gt.json", golden / "gt"), EvalSettings())
