"""A truth through a class set, and on STEGO's crop; predictions cropped alike."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.evaluation import formats
from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from u2seg.errors import UserError
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import (
    INSTANCES,
    SEMANTIC,
    TASKS,
    TrueImage,
    Truth,
    crop_map,
    crop_truth,
)
from u2seg.evaluation.truth.classes import class_sets, with_classes
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.formats import open_truth
from u2seg.evaluation.truth.predictions import cropped, read_predictions
from u2seg.structures.labels import LabelSpace

IDS = np.array([[5, 5, 6, 6, 0], [7, 7, 8, 8, 9]], dtype=np.int32)


SEGMENTS = {
    5: TruthSegment(17, 2),  # cat
    6: TruthSegment(148, 2),  # river
    7: TruthSegment(155, 2),  # sea
    8: TruthSegment(1, 2, crowd=True),  # people
    9: TruthSegment(187, 1),  # sky
}


@dataclass(frozen=True, kw_only=True)
class Small(Truth):
    """A truth of one image."""

    image: TrueImage

    def _maps(self, number: int) -> tuple[Path, ...]:
        return (Path("b.png"),)

    def _read(self, number: int, size: tuple[int, int]) -> TrueImage:
        return self.image


def small(instances: list[dict[str, Any]] | None = None) -> Small:
    names = {1: "person", 17: "cat", 148: "river", 155: "sea", 187: "sky-other-merged"}
    return Small(
        source=Path("small.json"),
        names=names,
        things=(1, 17),
        stuff=(148, 155, 187),
        stems={3: "a/b"},
        sizes={3: (2, 5)},
        image=TrueImage(IDS, SEGMENTS, instances),
    )


def test_categories_change_and_segments_stay() -> None:
    view = with_classes(small(), class_sets()["coco-95"])
    image = view.read(3)
    assert np.array_equal(image.ids, IDS)
    assert {i: s.category for i, s in image.segments.items()} == {
        5: 17, 6: 210, 7: 210, 8: 1, 9: 214,
    }  # fmt: skip
    assert image.segments[8] == TruthSegment(1, 2, crowd=True)
    assert view.names[210] == "water" and view.stems == {3: "a/b"} and view.sizes == {3: (2, 5)}
    assert view.tasks == TASKS and view.path(3) == Path("b.png")
    assert pickle.loads(pickle.dumps(view)).names == view.names


def test_merged_stuff_is_one_segment_and_things_stay_apart() -> None:
    image = with_classes(small(), class_sets()["coco-95"], merge_stuff=True).read(3)
    assert image.ids.tolist() == [[5, 5, 6, 6, 0], [6, 6, 8, 8, 9]]
    assert image.segments[6] == TruthSegment(210, 4)
    assert list(image.segments) == [5, 6, 8, 9]


def test_what_no_class_collects_is_void() -> None:
    image = with_classes(small(), class_sets()["coco-80"]).read(3)
    assert image.ids.tolist() == [[5, 5, 0, 0, 0], [0, 0, 8, 8, 0]]
    assert set(image.segments) == {5, 8}


def test_instances_follow_and_stuff_among_them_is_dropped() -> None:
    records = [{"image_id": 3, "category_id": c, "score": n} for n, c in enumerate((17, 155, 1))]
    image = with_classes(small(records), class_sets()["uvo"]).read(3)
    assert image.instances == [
        {"image_id": 3, "category_id": 1, "score": 0},
        {"image_id": 3, "category_id": 1, "score": 2},
    ]


def test_tasks_that_do_not_meet_are_refused() -> None:
    only = replace(small(), own_tasks=frozenset({INSTANCES}))
    with pytest.raises(
        UserError, match=r"small.json answers instances, .* coco-16 is for semantic"
    ):
        with_classes(only, class_sets()["coco-16"])


def test_a_thing_that_is_stuff_in_the_truth_is_refused() -> None:
    wrong = replace(small(), things=(1,), stuff=(17, 148, 155, 187))
    with pytest.raises(UserError, match=r"class 17 \(cat\) is among the stuff.*mend 'isthing'"):
        with_classes(wrong, class_sets()["coco-95"])
    assert with_classes(wrong, class_sets()["cocostuff-27"]).tasks == {SEMANTIC}


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
