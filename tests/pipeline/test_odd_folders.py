"""Folders as people have them: links, odd names, files that change while a run is under way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.conftest import changed, label, skips_of
from u2seg.config.schema import Settings
from u2seg.errors import StageError, UserError
from u2seg.io.jsonfile import read_json
from u2seg.io.sources import find_files
from u2seg.labels import LabelFolder
from u2seg.structures.features import ImageInputs


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "in"))


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
    label(settings, folder, output)
    skipped = {s["file_name"]: s["reason"] for s in skips_of(output)}
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


def test_corrupt_photographs_are_listed_and_the_others_labelled_as_without_them(
    folder: Path, run: Path, settings: Settings, tmp_path: Path
) -> None:
    whole, rng = (folder / "scene 0.png").read_bytes(), np.random.default_rng(7)
    flipped, start = bytearray(whole), whole.index(b"IDAT") + 4
    for position in rng.integers(start, start + 200, 20):
        flipped[position] ^= 1 << int(rng.integers(8))
    corrupt = {"short": whole[:500], "garbage": rng.bytes(999), "zeros": bytes(999)}
    for name, content in {**corrupt, "flipped": bytes(flipped)}.items():
        (folder / f"zz {name}.png").write_bytes(content)
    model = str(run / "semantics/model.safetensors")
    wanted = changed(settings, "semantics", model=model)
    wanted = changed(wanted, "clusters", centroids=str(run / "clusters/centroids.npy"))
    output = label(wanted, folder, tmp_path / "out")
    assert {s["file_name"] for s in skips_of(output)} == {p.name for p in folder.glob("zz*")}
    assert len(skips_of(output)) == 4 and all(s["reason"] for s in skips_of(output))
    for path in run.glob("panoptic/**/*.png"):
        assert (output / path.relative_to(run)).read_bytes() == path.read_bytes()
    strict = changed(wanted, "run", max_bad=0.1)
    with pytest.raises(StageError, match="4 of 9 images"):
        label(strict, folder, tmp_path / "strict")


def test_photographs_that_differ_by_their_ending_have_labels_of_their_own(
    folder: Path, settings: Settings, tmp_path: Path
) -> None:
    shutil.copyfile(folder / "scene 0.png", folder / "scene 0.jpg")
    output = label(settings, folder, tmp_path / "out")
    for name in ("semantics", "panoptic/panoptic", "panoptic/stuff"):
        assert {"scene 0", "scene 0_png"} <= {p.stem for p in (output / name).glob("*.png")}
    records = {Path(r["file_name"]).name: r for r in LabelFolder.open(output).records()}
    assert Path(records["scene 0.png"]["sem_seg_file_name"]).name == "scene 0_png.png"


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
    label(settings, folder, output, "masks")
    path = folder / "scene 2.png"
    size = path.stat().st_size
    Image.fromarray(np.zeros((96, 96, 3), dtype=np.uint8)).save(path)
    with path.open("ab") as file:  # the same size in bytes and in pixels
        file.write(b"\0" * (size - path.stat().st_size))
    label(settings, folder, output)
    assert {s["file_name"]: s["reason"] for s in skips_of(output)} == {
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
            label(settings, photos, tmp_path, stage)


@pytest.mark.parametrize(
    ("stage", "descriptor"),
    [("masks", "masked_mean"), ("clusters", "crop_cls"), ("semantics", "masked_mean")],
)
def test_weights_that_give_nan_do_not_end_as_labels_of_nothing(
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    descriptor: str,
) -> None:
    from u2seg.features.filter_bank import FilterBank

    chosen = changed(settings, "clusters", descriptor=descriptor)
    if stage == "clusters":
        label(chosen, photos, tmp_path, "masks")
    monkeypatch.setattr(FilterBank, "_one", lambda self, image, *_: ImageInputs(image))
    with pytest.raises(StageError, match=r"none of 5 images.*not finite"):
        label(chosen, photos, tmp_path, stage)
    assert not (tmp_path / stage / "manifest.json").exists()
