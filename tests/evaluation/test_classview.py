"""A truth through a class set, with and without merging, and STEGO's crop."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from u2seg.errors import UserError
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import INSTANCES, SEMANTIC, TASKS, TrueImage, Truth
from u2seg.evaluation.truth.classes import class_sets, with_classes

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
