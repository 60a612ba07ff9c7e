"""The label stages as a whole: files, resume, refusals, determinism."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import u2seg.io.atomic
from tests.pipeline.conftest import tree
from u2seg.config.schema import Settings
from u2seg.errors import StageError, UserError
from u2seg.io.jsonfile import read_json
from u2seg.io.lock import only_run
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.labels import LabelFolder
from u2seg.labels.check import check_labels
from u2seg.pipeline import generate_labels
from u2seg.pipeline.runner import estimate
from u2seg.pipeline.workspace import Workspace, shard_assignments


@pytest.fixture(scope="module")
def run(photos: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_labels(settings, photos, tmp_path_factory.mktemp("run"), progress=False)


def changed(settings: Settings, section: str, **values: object) -> Settings:
    part = dataclasses.replace(getattr(settings, section), **values)
    return dataclasses.replace(settings, **{section: part})


def test_a_run_leaves_every_file_of_the_format(run: Path, photos: Path) -> None:
    records = read_json(run / "images.json")["images"]
    assert [r["file_name"] for r in records] == [
        "deep/er/scene 1.png", "deep/er/scene 3.png", "scene 0.png", "scene 2.png", "scene 4.png",
    ]  # fmt: skip
    assert all(r["height"] == r["width"] == 96 and len(r["sha256"]) == 64 for r in records)
    assert (run / "skipped.jsonl").read_text() == ""
    assert np.load(run / "clusters/centroids.npy").shape[0] == 3
    for record in records:
        stem = record["file_name"].removesuffix(".png")
        stuff = read_label_png(run / f"semantics/{stem}.png")
        assert stuff.shape == (96, 96) and stuff.max() < 3
        assert read_panoptic_png(run / f"panoptic/panoptic/{stem}.png").shape == (96, 96)
        assert set(np.unique(read_label_png(run / f"panoptic/stuff/{stem}.png"))) <= {
            0,
            1,
            2,
            3,
            255,
        }
    counts = check_labels(run / "panoptic")
    assert counts["images"] == 5
    space = read_json(run / "panoptic/labelspace.json")
    assert (space["num_things"], space["num_stuff"]) == (3, 3)
    manifest = read_json(run / "manifest.json")
    assert (
        manifest["counts"]["masks.masks"]
        == read_json(run / "masks/manifest.json")["counts"]["masks"]
    )
    assert set(read_json(run / "timings.json")) == {
        "images", "masks", "clusters", "semantics", "panoptic",
    }  # fmt: skip


def test_things_lie_where_masks_were_found(run: Path) -> None:
    """Every instance of the export is a visible part of a mask of the same image."""
    from u2seg.structures.masks import decode_mask

    masks: dict[int, list[np.ndarray]] = {}
    for part in sorted((run / "masks").glob("part-*.json")):
        for result in read_json(part):
            masks.setdefault(result["image_id"], []).append(decode_mask(result["segmentation"]))
    instances = read_json(run / "panoptic/instances.json")["annotations"]
    assert instances
    for instance in instances:
        visible = decode_mask(instance["segmentation"])
        assert any(not (visible & ~mask).any() for mask in masks[instance["image_id"]])


def test_again_is_a_no_op_and_elsewhere_the_same_bytes(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    before = tree(run)
    generate_labels(settings, photos, run, progress=False)
    assert tree(run) == before
    generate_labels(settings, photos, tmp_path / "other", progress=False)
    assert tree(tmp_path / "other") == before


class Killer:
    """Lets ``after`` files be written, then stops the process's work at the next."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, source: str, target: str) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.real(source, target)

    real = staticmethod(u2seg.io.atomic.os.replace)


@pytest.mark.slow
def test_interrupted_anywhere_and_resumed_gives_the_same_bytes(
    run: Path,
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = tree(run)
    output = tmp_path / "run"
    stops = 0
    for after in range(1, 60, 4):  # each attempt gets a little further, at a new place
        monkeypatch.setattr(u2seg.io.atomic.os, "replace", Killer(after))
        try:
            generate_labels(settings, photos, output, progress=False)
        except KeyboardInterrupt:
            stops += 1
            continue
        finally:
            monkeypatch.undo()
        break
    assert stops > 3
    generate_labels(settings, photos, output, progress=False)
    assert tree(output) == expected


def test_changed_settings_are_refused_and_overwrite_makes_anew(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(run, output)
    other = changed(settings, "clusters", num_clusters=2)
    told = (
        r"clusters was made with other settings \(of U2SEG.FEATURES, U2SEG.CLUSTERS\) than .*--over"
    )
    with pytest.raises(UserError, match=told):
        generate_labels(other, photos, output, progress=False)
    stuff = (output / "semantics/manifest.json").read_bytes()
    stages = ["clusters", "panoptic"]
    generate_labels(other, photos, output, stages=stages, overwrite=True, progress=False)
    assert np.load(output / "clusters/centroids.npy").shape[0] == 2
    assert (output / "semantics/manifest.json").read_bytes() == stuff  # does not depend on K
    assert read_json(output / "panoptic/labelspace.json")["num_things"] == 2


def test_changed_photographs_are_refused(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    shutil.copytree(run, tmp_path / "run")
    Image.new("RGB", (40, 40)).save(folder / "new.png")
    with pytest.raises(UserError, match=r"other photographs \(files were added"):
        generate_labels(settings, folder, tmp_path / "run", progress=False)


def test_stages_can_run_one_by_one(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"needs stage masks.*--stages masks"):
        generate_labels(settings, photos, tmp_path, stages=["clusters"], progress=False)
    for stage in ("semantics", "masks", "clusters", "panoptic"):
        generate_labels(settings, photos, tmp_path, stages=[stage], progress=False)
    assert tree(tmp_path) == tree(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ["maskz"]}, "unknown stage.*known are masks, clusters, semantics, panoptic"),
        ({"images": Path("/no/such/folder")}, "does not exist"),
        ({"output": Path("/proc/nowhere")}, "cannot write"),
    ],
)
def test_wrong_arguments_say_what_to_do(
    photos: Path, settings: Settings, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    arguments = {"images": photos, "output": tmp_path, "stages": ["masks"], **change}
    with pytest.raises(UserError, match=message):
        generate_labels(settings, progress=False, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("features", {"name": "dino"}, "unknown feature extractor 'dino'"),
        ("masks", {"proposer": "maskcutt"}, "unknown mask proposer"),
        ("masks", {"refiner": "crf"}, "unknown mask refiner"),
        ("semantics", {"method": "stegoo"}, "unknown semantic segmenter"),
        ("clusters", {"centroids": "/no/such.npy"}, r"/no/such\.npy does not exist"),
    ],
)
def test_unknown_names_are_refused_before_any_work(
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    section: str,
    values: dict[str, object],
    message: str,
) -> None:
    wrong = changed(settings, section, **values)
    with pytest.raises(UserError, match=message):
        generate_labels(wrong, photos, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_too_many_clusters_names_both_numbers(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    many = changed(settings, "clusters", num_clusters=500)
    with pytest.raises(UserError, match=r"500.*masks") as error:
        generate_labels(many, photos, tmp_path, progress=False)
    masks = read_json(tmp_path / "masks/manifest.json")["counts"]["masks"]
    assert str(masks) in str(error.value)


def test_two_runs_cannot_share_a_folder(photos: Path, settings: Settings, tmp_path: Path) -> None:
    with only_run(tmp_path / ".lock"), pytest.raises(UserError, match="in use by another run"):
        generate_labels(settings, photos, tmp_path, progress=False)


def test_dry_run_takes_few_images_and_estimates(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    many = changed(settings, "clusters", num_clusters=500)  # few masks: K shrinks in a dry run
    generate_labels(many, photos, tmp_path, limit=2, progress=False)
    names = [r["file_name"] for r in read_json(tmp_path / "images.json")["images"]]
    assert names == ["deep/er/scene 1.png", "scene 0.png"]
    told = estimate(tmp_path)
    assert "hours for 5" in told and "disk" in told and "memory" in told


@pytest.fixture
def spoiled(photos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "spoiled"
    shutil.copytree(photos, folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not really")
    (folder / "scene 0.jpg").write_bytes((folder / "scene 0.png").read_bytes())
    (folder / "notes.txt").write_text("not an image by its name: not even tried")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_bad_images_are_listed_and_the_rest_is_labelled(
    spoiled: Path, settings: Settings, tmp_path: Path
) -> None:
    generate_labels(settings, spoiled, tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run/skipped.jsonl").read_text().splitlines()]
    assert {line["file_name"] for line in lines} == {"broken.jpg"}
    assert len(read_json(tmp_path / "run/images.json")["images"]) == 6
    # Photographs whose names differ by the ending alone have label files of their own.
    for folder in ("semantics", "panoptic/panoptic", "panoptic/stuff"):
        found = {path.stem for path in (tmp_path / "run" / folder).glob("*.png")}
        assert {"scene 0", "scene 0_png"} <= found
    check_labels(tmp_path / "run/panoptic")
    records = {Path(r["file_name"]).name: r for r in LabelFolder.open(tmp_path / "run").records()}
    assert Path(records["scene 0.png"]["pan_seg_file_name"]).name == "scene 0_png.png"
    assert Path(records["scene 0.png"]["sem_seg_file_name"]).name == "scene 0_png.png"
    strict = changed(settings, "run", max_bad=0.1)
    with pytest.raises(StageError, match="1 of 7 images"):
        generate_labels(strict, spoiled, tmp_path / "strict", progress=False)


def test_nothing_readable_is_an_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="no image found"):
        generate_labels(settings, tmp_path / "in", tmp_path / "out", progress=False)
    (tmp_path / "in/a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 images"):
        generate_labels(settings, tmp_path / "in", tmp_path / "out", progress=False)


def test_saved_centroids_label_new_images(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    saved = changed(settings, "clusters", centroids=str(run / "clusters/centroids.npy"))
    stages = ["masks", "clusters"]
    generate_labels(saved, photos, tmp_path, stages=stages, progress=False)
    ours, theirs = Workspace(tmp_path), Workspace(run)
    for shard in range(len(list((run / "masks").glob("part-*.json")))):
        assert shard_assignments(ours, shard) == shard_assignments(theirs, shard)


def test_uniform_images_keep_their_stuff(settings: Settings, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    Image.new("RGB", (50, 30), (9, 99, 9)).save(folder / "uniform.png")
    # Without position, a uniform image has nothing to cut.
    settings = changed(settings, "features", position_scale=1000.0)
    generate_labels(settings, folder, tmp_path / "run", progress=False)
    panoptic = read_json(tmp_path / "run/panoptic/panoptic.json")
    entry = next(a for a in panoptic["annotations"] if a["file_name"] == "uniform.png")
    assert sum(s["area"] for s in entry["segments_info"]) == 50 * 30
    assert not any(s["isthing"] for s in entry["segments_info"])


def test_features_auto_are_chosen_once_and_stated(
    photos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from u2seg.features import auto

    asked = changed(settings, "features", name="auto")
    monkeypatch.setattr(auto, "choose", lambda _: ("filter_bank", "a test says so"))
    generate_labels(asked, photos, tmp_path, stages=["masks"], progress=False)
    monkeypatch.setattr(auto, "choose", lambda _: ("dino_vits8", "another day"))
    generate_labels(asked, photos, tmp_path, stages=["masks", "clusters"], progress=False)
    for stage in ("masks", "clusters"):
        manifest = read_json(tmp_path / stage / "manifest.json")
        assert manifest["settings"]["FeatureSettings"]["name"] == "filter_bank"
