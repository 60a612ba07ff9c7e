"""Inputs of the demo: what is found and what it is called."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from u2seg.errors import UserError
from u2seg.host.arguments import demo_parser
from u2seg.inference import demo
from u2seg.inference.demo import check_apart, name_inputs, picture, run_demo
from u2seg.inference.segmenter import Prediction
from u2seg.io.paths import ImageFile
from u2seg.structures.labels import LabelSpace
from u2seg.structures.panoptic import PanopticLabel, Segment

ENDINGS = (".jpg", ".png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.jpg", "a.png", "sub/a.JPG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def names(inputs: list[str]) -> list[str]:
    return [name for name, _ in name_inputs(inputs, ENDINGS)]


def test_folders_are_searched_as_for_labelling(folder: Path) -> None:
    for name in (".hidden.jpg", ".cache/x.jpg", "sub/link.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "sub" / "link.jpg").unlink()
    (folder / "sub" / "link.jpg").symlink_to("/etc/passwd")
    assert names([str(folder)]) == ["a.jpg", "a_png.png", "b.jpg", "sub/a.JPG"]


def test_equal_names_keep_their_paths(folder: Path) -> None:
    files = [str(folder / "a.jpg"), str(folder / "sub" / "a.JPG")]
    assert names(files) == ["a.jpg", "sub/a.JPG"]
    (folder / "other").mkdir()
    (folder / "other" / "a.png").touch()
    found = names([str(folder / "sub"), str(folder / "other")])
    assert found == ["sub/a.JPG", "other/a.png"]


def test_globs_and_files(folder: Path) -> None:
    assert names([str(folder / "*.jpg")]) == ["a.jpg", "b.jpg"]
    assert names([str(folder / "**" / "*.JPG")]) == ["a.JPG"]
    assert names([str(folder / "notes.txt")]) == ["notes.txt"]
    assert names([str(folder / "b.jpg"), str(folder / "b.jpg")]) == ["b.jpg"]


@pytest.mark.parametrize("text", ["none.jpg", "*.bmp"])
def test_nothing_found(folder: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"does not exist; .*--opts|no images in"):
        name_inputs([str(folder / text)], ENDINGS)


def test_settings_may_stand_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("TEST.JPG").touch()
    front, back = ["--config-file", "c"], ["--output", "o"]
    pair = ["MODEL.DEVICE", "cpu"]
    for words in (
        [*front, "--input", "a", "TEST.JPG", *pair, "SEED=1", *back],
        [*pair, *front, "--input", "a", "TEST.JPG", *back, "SEED=1"],
        [*front, "--input", "a", "TEST.JPG", *back, *pair, "--opts", "SEED=1"],
        [*front, "--input", "a", "TEST.JPG", *back, "--opts", *pair, "SEED=1"],
    ):
        args = demo_parser().parse_intermixed_args(words)
        assert args.input == ["a", "TEST.JPG"]
        assert sorted(args.opts + args.settings) == ["MODEL.DEVICE", "SEED=1", "cpu"]
    with pytest.raises(SystemExit):
        demo_parser().parse_intermixed_args([*front, *back, "--input", *pair])


def test_picture_shows_the_photograph_the_overlay_and_a_legend() -> None:
    image = np.full((80, 60, 3), 10, dtype=np.uint8)
    ids = np.ones((80, 60), dtype=np.int32)
    label = PanopticLabel(ids, (Segment(1, 1, True, 4800, (0.0, 0.0, 60.0, 80.0), 0.9),))
    space = LabelSpace(1, 0)
    shown = picture(Prediction((80, 60), panoptic=label, space=space, image=image))
    assert shown.dtype == np.uint8
    assert shown.shape[1] >= 120
    assert shown.shape[0] > 80
    color = tuple(space.colors()[0].tolist())
    assert (shown == color).all(axis=2).any(), "the legend holds the colour"
    assert (shown[: shown.shape[0] // 2, :50] == 10).all(axis=2).any(), "the photograph"


@pytest.mark.parametrize("inside", [".", "sub/shown"])
def test_results_never_go_among_the_photographs(folder: Path, inside: str) -> None:
    """Pictures written there would be segmented by the next run of the same command."""
    before = sorted(folder.rglob("*"))
    for text in (folder, folder.parent / f"{folder.name[:-1]}?"):
        args = argparse.Namespace(input=[str(text)], output=str(folder / inside))
        with pytest.raises(UserError, match=r"lies in the image folder .* output folder outside"):
            run_demo(args)
    assert sorted(folder.rglob("*")) == before


def test_results_may_go_beside_the_photographs_and_beside_single_files(folder: Path) -> None:
    check_apart([str(folder / "sub")], folder / "shown")
    check_apart([str(folder / "sub")], folder / "sub-shown")
    check_apart([str(folder / "b.jpg"), str(folder / "*.jpg")], folder / "shown")
    for text in ("b.jpg", "*.jpg"):
        with pytest.raises(UserError, match=r"lies in the image folder"):
            check_apart([str(folder / text)], folder)


def test_a_model_that_finds_nothing_is_a_warning_with_what_to_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    space = LabelSpace(2, 1)
    cfg = SimpleNamespace(U2SEG=SimpleNamespace(IMAGES=SimpleNamespace(MAX_PIXELS=10**6)))
    args = argparse.Namespace(output=str(tmp_path / "out"), confidence_threshold=0.3)
    for things, warned in ((False, True), (True, False)):
        segments = (Segment(1, 1 if things else 3, things, 64, (0.0, 0.0, 8.0, 8.0)),)
        label = PanopticLabel(np.ones((8, 8), np.int32), segments)
        image = np.ones((8, 8, 3), np.uint8)
        found = Prediction((8, 8), panoptic=label, space=space, image=image)
        segmenter = SimpleNamespace(space=space, cfg=cfg, predict=lambda _, found=found: found)
        monkeypatch.setattr(demo, "_segmenter", lambda _, segmenter=segmenter: segmenter)
        caplog.clear()
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        demo.segment_images(args, [("a.png", ImageFile(tmp_path / "a.png"))])
        assert ("--confidence-threshold 0.1 (now 0.3)" in caplog.text) == warned
