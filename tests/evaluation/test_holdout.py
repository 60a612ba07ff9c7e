"""Held-out images are stable, disjoint, and called what they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation import formats
from tests.evaluation.datasets import write_truth
from u2seg.errors import UserError
from u2seg.evaluation.truth.base import Truth
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.formats import open_truth
from u2seg.evaluation.truth.splits import Split, describe_fit, hold_out, image_key


def named(ids: Iterable[int]) -> dict[int, str]:
    return {i: f"photo_{i}" for i in ids}


def test_parts_are_disjoint_complete_and_near_the_share() -> None:
    stems = named(range(1, 4001))
    for share in (0.1, 0.5, 0.8):
        fit, score = hold_out(stems, share)
        assert sorted(fit + score) == list(stems) and not set(fit) & set(score)
        # 4000 draws: four standard deviations are at most 127 images
        assert abs(len(fit) - 4000 * share) < 127


def test_an_image_keeps_its_part_whatever_the_others_are() -> None:
    fit, score = hold_out(named(range(1000)), 0.3)
    assert hold_out(named(reversed(range(1000))), 0.3) == (fit, score)
    fewer, rest = hold_out(named(range(500, 1000)), 0.3)
    assert fewer == [i for i in fit if i >= 500] and rest == [i for i in score if i >= 500]
    # a larger share takes more images and gives none back
    assert set(fit) < set(hold_out(named(range(1000)), 0.6)[0])


def street(root: Path, names: str) -> Truth:
    """Return the truth of a folder of maps: images are numbered in the order of their names."""
    classes = {"classes": [{"id": 0, "name": "Sky"}], "ignore_index": 255}
    for name in names:
        formats.grey(root / "maps" / f"{name}.png", [[0, 0]])
    return open_truth("camvid", [formats.write_json(root / "classes.json", classes), root / "maps"])


def test_the_place_in_a_list_is_no_identity(tmp_path: Path) -> None:
    """c and d are images 1 and 2 of one folder, 3 and 4 of the other."""
    few, many = street(tmp_path / "few", "cdgh"), street(tmp_path / "many", "abcdefgh")
    found = describe_fit(Split.of(few, [1, 2]), Split.of(many, [1, 2, 3, 4]))
    assert found["images_in_both"] == 2 and "2 of which are scored too" in found["in_words"]
    assert describe_fit(Split.of(few, [1, 2]), Split.of(many, [1, 2]))["images_in_both"] == 0
    parts = [hold_out(truth.stems, 0.5) for truth in (few, many)]
    for (fit, score), truth in zip(parts, (few, many), strict=True):
        assert "".join(truth.stems[i] for i in fit if truth.stems[i] in "cdgh") == "cd"
        assert "".join(truth.stems[i] for i in score if truth.stems[i] in "cdgh") == "gh"


@pytest.mark.parametrize(
    ("ids", "share", "fit"), [(range(4), 0.01, 0), ([2], 0.9, 1), ([], 0.5, 0)]
)
def test_an_empty_part_is_refused(ids, share: float, fit: int) -> None:
    count = len(ids)
    said = rf"FIT_SHARE is {share}: of {count} images {fit} would be .* and {count - fit} scored"
    with pytest.raises(UserError, match=said):
        hold_out(named(ids), share)


def test_a_split_is_compared_by_its_images_not_by_a_flag(tmp_path: Path) -> None:
    truth = read_truth(write_truth(tmp_path / "a"))
    both, first = Split.of(truth, [22, 21]), Split.of(truth, [21], share=0.5)
    assert both.images == tuple(sorted([image_key("a/first"), image_key("second")]))
    same = describe_fit(both, Split.of(truth, [21, 22]))
    assert same["same_images_as_scored"] is True and same["images_in_both"] == 2
    assert same["in_words"] == "fitted on the same 2 images that are scored"
    held = describe_fit(first, Split.of(truth, [22]))
    assert held["same_images_as_scored"] is False and held["images_in_both"] == 0
    assert (held["images"], held["fit_share"], held["same_truth_file"]) == (1, 0.5, True)
    assert held["in_words"] == "fitted on 1 image held out of the same truth"
    partly = describe_fit(both, Split.of(truth, [22]))
    assert partly["same_images_as_scored"] is False and partly["images_in_both"] == 1
    assert partly["in_words"].endswith("truth.json, 1 of which are scored too")


def test_the_same_images_in_another_file_are_recognised(tmp_path: Path) -> None:
    truth = read_truth(write_truth(tmp_path / "a"))
    copy = write_truth(tmp_path / "b")
    copy.panoptic_json.write_text(copy.panoptic_json.read_text() + "\n")
    found = describe_fit(Split.of(truth, [21]), Split.of(read_truth(copy), [21]))
    assert found["same_images_as_scored"] is True and found["same_truth_file"] is False


def test_other_images_of_another_file(tmp_path: Path) -> None:
    truth = read_truth(write_truth(tmp_path / "a"))
    scored = Split.of(truth, [21, 22])
    other = replace(scored, source="other.json", sha256="0" * 64, images=("a" * 12, "b" * 12))
    found = describe_fit(other, scored)
    assert found["in_words"] == "fitted on 2 images of other.json, none of which is scored"
    assert found["images_in_both"] == 0 and found["same_truth_file"] is False
    assert describe_fit(None, scored)["in_words"] == "not fitted: ids are classes"
