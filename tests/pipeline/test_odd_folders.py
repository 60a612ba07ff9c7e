"""Folders as people have them: links, odd names, files that change while a run is under way."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg.config.schema import Settings
from u2seg.errors import StageError, UserError
from u2seg.io.jsonfile import read_json
from u2seg.io.sources import find_files
from u2seg.pipeline import generate_labels
from u2seg.structures.features import ImageInputs


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "in"))


def reasons(output: Path) -> dict[str, str]:
    lines = (output / "skipped.jsonl").read_text("utf-8").splitlines()
    return {entry["file_name"]: entry["reason"] for entry in map(json.loads, lines)}


def test_links_and_odd_names_never_end_a_run(
    folder: Path,
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / "without ending").touch()
    Image.new("RGB", (96, 96), "white").save(folder / "white.png")
    (folder / "nowhere.jpg").symlink_to("missing.jpg")
    (folder / "outside.png").symlink_to(photos / "scene 0.png")
    (folder / "inside.png").symlink_to("scene 0.png")
    (folder / "loop").symlink_to(".")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    names = ["2:1.png", "new\nline.png", "UPPER.PNG", "a\\..\\b.png", os.fsdecode(b"\xff.png")]
    for name in names:
        shutil.copyfile(photos / "scene 2.png", folder / name)
    output = tmp_path / "out"
    generate_labels(settings, folder, output, progress=False)
    skipped = reasons(output)
    assert set(skipped) == {
        "nowhere.jpg", "outside.png", "pipe.jpg", "2:1.png", "a\\..\\b.png", ascii(names[-1]),
    }  # fmt: skip
    assert skipped["nowhere.jpg"] == "no such file"
    assert "copy it there if it is a link" in skipped["outside.png"]
    used = {record["file_name"] for record in read_json(output / "images.json")["images"]}
    assert {"inside.png", "new\nline.png", "UPPER.PNG"} < used
    assert (output / "panoptic/panoptic/new\nline.png").is_file()
    assert read_json(output / "images.json")["info"]["passed_over"] == {"": 1}
    counts = read_json(output / "images" / "manifest.json")["counts"]
    assert (counts["skipped"], counts["passed over"]) == (6, 1)
    assert "1 files ended in nothing and were passed over" in caplog.text
    assert "1 images have one value in every pixel, such as white.png" in caplog.text


def test_a_folder_that_cannot_be_listed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_files(folder, (".png",)) == ["scene 0.png", "scene 2.png", "scene 4.png"]
    assert "deep: Permission denied" in caplog.text


def test_an_image_that_changes_between_stages_is_skipped(
    folder: Path, settings: Settings, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    generate_labels(settings, folder, output, stages=["masks"], progress=False)
    path = folder / "scene 2.png"
    size = path.stat().st_size
    Image.fromarray(np.zeros((96, 96, 3), dtype=np.uint8)).save(path)
    with path.open("ab") as file:  # the same size in bytes and in pixels
        file.write(b"\0" * (size - path.stat().st_size))
    generate_labels(settings, folder, output, progress=False)
    assert reasons(output) == {
        "scene 2.png": "the photograph changed since it was labelled (its SHA-256 is another)"
    }
    assert not (output / "semantics/scene 2.png").exists()


def test_a_wrong_setting_is_not_taken_for_a_bad_image(
    photos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from u2seg.features.filter_bank import FilterBank

    def refuse(*_: object) -> None:
        raise UserError("this model has no keys")

    monkeypatch.setattr(FilterBank, "extract", refuse)
    for stage in ("masks", "semantics"):
        with pytest.raises(UserError, match="this model has no keys"):
            generate_labels(settings, photos, tmp_path, stages=[stage], progress=False)


@pytest.mark.parametrize(
    ("stages", "descriptor"),
    [(["masks"], "masked_mean"), (["clusters"], "crop_cls"), (["semantics"], "masked_mean")],
)
def test_weights_that_give_nan_do_not_end_as_labels_of_nothing(
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: list[str],
    descriptor: str,
) -> None:
    from u2seg.features.filter_bank import FilterBank

    clusters = dataclasses.replace(settings.clusters, descriptor=descriptor)
    chosen = dataclasses.replace(settings, clusters=clusters)
    if stages == ["clusters"]:
        generate_labels(chosen, photos, tmp_path, stages=["masks"], progress=False)
    monkeypatch.setattr(FilterBank, "_one", lambda self, image, *_: ImageInputs(image))
    with pytest.raises(StageError, match=r"none of 5 images.*not finite"):
        generate_labels(chosen, photos, tmp_path, stages=stages, progress=False)
    assert not (tmp_path / stages[0] / "manifest.json").exists()


def test_label_maps_may_be_as_large_as_the_photographs(
    photos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from u2seg.pipeline import panoptic_stage

    asked = []
    real = panoptic_stage.read_label_png

    def read(path: Path, max_pixels: int) -> object:
        asked.append(max_pixels)
        return real(path, max_pixels)

    monkeypatch.setattr(panoptic_stage, "read_label_png", read)
    images = dataclasses.replace(settings.images, max_pixels=60_000_000)
    wide = dataclasses.replace(settings, images=images)
    generate_labels(wide, photos, tmp_path, progress=False)
    assert set(asked) == {60_000_000}
