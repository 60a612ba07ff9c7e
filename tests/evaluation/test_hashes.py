"""Every file that an evaluation reads has its hash in the record."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.evaluation import formats
from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.evaluation.label_files import CLUSTERS, SPACE, write_labels
from u2seg.config.evaluation import EvalSettings
from u2seg.evaluation import GroundTruth, evaluate_folder
from u2seg.evaluation.truth import splits as hashes
from u2seg.evaluation.truth.base import Truth, paired_by_stem
from u2seg.evaluation.truth.coco import read_truth
from u2seg.evaluation.truth.formats import open_truth
from u2seg.evaluation.truth.predictions import read_predictions
from u2seg.evaluation.truth.splits import file_sha256, input_hashes, maps_sha256
from u2seg.io.atomic import sha256_file


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, GroundTruth]:
    folder = write_predictions(tmp_path / "p", relabelled(CLUSTERS), SPACE)
    return folder, write_truth(tmp_path)


def found_in(folder: Path, truth: Truth) -> dict[str, str]:
    return input_hashes(truth, read_predictions(folder, truth))


def test_hash_of_many_files_by_hand(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
    want = hashlib.sha256(f"{two}  a.png\n{one}  b.png\n".encode()).hexdigest()
    assert maps_sha256({"b.png": tmp_path / "one", "a.png": tmp_path / "two"}) == want


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
