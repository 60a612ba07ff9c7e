"""The label stages as a whole: files, resume, refusals, determinism."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.conftest import changed, label, tree
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.labels.check import check_labels
from u2seg.pipeline import generate_labels
from u2seg.pipeline.runner import estimate


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


def test_again_is_a_no_op_and_elsewhere_the_same_bytes(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    before = tree(run)
    label(settings, photos, run)
    assert tree(run) == before
    label(settings, photos, tmp_path / "other")
    assert tree(tmp_path / "other") == before


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
        label(other, photos, output)
    stuff = (output / "semantics/manifest.json").read_bytes()
    label(other, photos, output, "clusters", "panoptic", overwrite=True)
    assert np.load(output / "clusters/centroids.npy").shape[0] == 2
    assert (output / "semantics/manifest.json").read_bytes() == stuff  # does not depend on K
    assert read_json(output / "panoptic/labelspace.json")["num_things"] == 2


def test_changed_photographs_are_refused(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, folder)
    shutil.copytree(run, output)
    shutil.copyfile(folder / "scene 0.png", folder / "new.png")
    with pytest.raises(UserError, match=r"other photographs \(files were added"):
        label(settings, folder, output)


def test_stages_can_run_one_by_one(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"needs stage masks.*--stages masks"):
        label(settings, photos, tmp_path, "clusters")
    for stage in ("semantics", "masks", "clusters", "panoptic"):
        label(settings, photos, tmp_path, stage)
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
        ("semantics", {"segmenter": "stegoo"}, "unknown semantic segmenter"),
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
        label(wrong, photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_clusters_names_both_numbers(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    many = changed(settings, "clusters", num_clusters=500)
    with pytest.raises(UserError, match=r"500.*masks") as error:
        label(many, photos, tmp_path)
    masks = read_json(tmp_path / "masks/manifest.json")["counts"]["masks"]
    assert str(masks) in str(error.value)


def test_dry_run_takes_few_images_and_estimates(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    many = changed(settings, "clusters", num_clusters=500)  # few masks: K shrinks in a dry run
    label(many, photos, tmp_path, limit=2)
    names = [r["file_name"] for r in read_json(tmp_path / "images.json")["images"]]
    assert names == ["deep/er/scene 1.png", "scene 0.png"]
    told = estimate(tmp_path)
    assert "hours for 5" in told and "disk" in told and "memory" in told


def test_nothing_readable_is_an_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="no image found"):
        label(settings, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 images"):
        label(settings, tmp_path / "in", tmp_path / "out")


def test_features_auto_are_chosen_once_and_stated(
    photos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from u2seg.features import auto

    asked = changed(settings, "features", name="auto")
    monkeypatch.setattr(auto, "choose", lambda _: ("filter_bank", "a test says so"))
    label(asked, photos, tmp_path, "masks")
    monkeypatch.setattr(auto, "choose", lambda _: ("dino_vits8", "another day"))
    label(asked, photos, tmp_path, "masks", "clusters")
    for stage in ("masks", "clusters"):
        manifest = read_json(tmp_path / stage / "manifest.json")
        assert manifest["settings"]["FeatureSettings"]["name"] == "filter_bank"
