"""Which images a fit is of, and hashes of what was read."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.evaluation import formats
from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.label_files import CLUSTERS, SPACE, write_labels
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation import GroundTruth, evaluate_folder
from u2seg.evaluation.truth import splits as hashes
from u2seg.evaluation.truth.base import Truth, paired_by_stem
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.formats import open_truth
from u2seg.evaluation.truth.predictions import read_predictions
from u2seg.evaluation.truth.splits import (
    Split,
    describe_fit,
    file_sha256,
    hold_out,
    image_key,
    input_hashes,
    maps_sha256,
)
from u2seg.io.atomic import sha256_file


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, GroundTruth]:
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE)
    return folder, write_truth(tmp_path)


def found_in(folder: Path, truth: Truth) -> dict[str, str]:
    return input_hashes(truth, read_predictions(folder, truth))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is absent")
def test_hash_of_many_files_is_that_of_sha256sum(sides: tuple[Path, GroundTruth]) -> None:
    folder, truth = sides
    listed = subprocess.run(
        ["sha256sum", "a/first.png", "second.png"],
        cwd=folder / "panoptic", capture_output=True, check=True,
    ).stdout  # fmt: skip
    found = found_in(folder, read_truth(truth))
    assert found["predictions/panoptic"] == hashlib.sha256(listed).hexdigest()


def test_every_file_of_an_evaluation_has_a_hash(
    sides: tuple[Path, GroundTruth], tmp_path: Path
) -> None:
    folder, truth = sides
    settings = EvalSettings(bootstrap=0, labels=str(write_labels(tmp_path / "run")))
    found = evaluate_folder(folder, truth, settings)["provenance"]["sha256"]
    assert list(found) == [
        "labels/instances.json", "labels/panoptic", "labels/panoptic.json",
        "predictions/instances.json", "predictions/labelspace.json", "predictions/panoptic",
        "predictions/panoptic.json", "predictions/stuff", "truth", "truth/maps",
    ]  # fmt: skip
    source = tmp_path / "run" / "panoptic" / "instances.json"
    assert found["labels/instances.json"] == sha256_file(source)
    assert found["truth"] == sha256_file(truth.panoptic_json)


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("truth/second.png", "truth/maps"),
        ("p/panoptic/second.png", "predictions/panoptic"),
        ("p/stuff/second.png", "predictions/stuff"),
        ("p/instances.json", "predictions/instances.json"),
        ("truth.json", "truth"),
    ],
)
def test_another_file_is_another_hash_and_no_other_changes(
    sides: tuple[Path, GroundTruth], tmp_path: Path, place: str, key: str
) -> None:
    """JSON and PNG readers pass over what is appended here."""
    folder, truth = sides
    before = found_in(folder, read_truth(truth))
    with (tmp_path / place).open("ab") as file:
        file.write(b"\n")
    after = found_in(folder, read_truth(truth))
    assert {name for name in before if before[name] != after[name]} == {key}
    assert set(after) == set(before)


def test_folders_of_maps_have_hashes_too(tmp_path: Path) -> None:
    """The JSON of CamVid's classes, and VOC's two folders."""
    classes, maps = formats.camvid(tmp_path / "camvid")
    truth = open_truth("camvid", [classes, maps])
    assert truth.lists == (classes,)
    empty = write_predictions(tmp_path / "p", {}, SPACE)
    found = found_in(empty, truth)
    assert "truth" not in found and found["truth/classes.json"] == sha256_file(classes)
    stems = ("0016E5_07959", "0016E5_07961")
    assert found["truth/maps"] == maps_sha256({stem: maps / f"{stem}.png" for stem in stems})
    names, folder = formats.voc(tmp_path / "voc")
    truth = open_truth("voc", [names, folder], "voc-21")
    objects = folder.parent / "SegmentationObject"
    every = {}
    stems = ("2007_000032", "2007_000033")
    for stem in stems:
        every |= {stem: folder / f"{stem}.png", f"1/{stem}": objects / f"{stem}.png"}
    assert found_in(empty, truth)["truth/maps"] == maps_sha256(every)
    moved = paired_by_stem(truth, {7: stems[1], 9: stems[0]}, tmp_path)
    assert found_in(empty, moved)["truth/maps"] == maps_sha256(every)
    instances = formats.coco_instances(tmp_path / "i.json", {1: "person", 2: "bicycle"})
    found = found_in(empty, open_truth("coco-instances", [instances]))
    assert "truth/maps" not in found and found["truth"] == sha256_file(instances)


def test_an_unchanged_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "truth.json"
    path.write_text("{}")
    calls = []

    def counted(found: Path) -> str:
        calls.append(found)
        return sha256_file(found)

    monkeypatch.setattr(hashes, "sha256_file", counted)
    first = file_sha256(path)
    assert file_sha256(path) == first and calls == [path]
    path.write_text("[]")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == hashlib.sha256(b"[]").hexdigest() and len(calls) == 2


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
    copy = write_truth(tmp_path / "b")
    copy.panoptic_json.write_text(copy.panoptic_json.read_text() + "\n")
    found = describe_fit(first, Split.of(read_truth(copy), [21]))
    assert found["same_images_as_scored"] is True and found["same_truth_file"] is False
