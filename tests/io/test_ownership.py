"""Results never lie among photographs, and files of others are not touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.factories import BASE_CONFIG, SPACE, TINY, data_words, make_labels, scene
from u2seg.errors import UserError
from u2seg.evaluation.command import evaluate_files, evaluate_parser, parse_evaluate
from u2seg.inference.writer import PredictionWriter, check_own
from u2seg.io.sources import find_files
from u2seg.structures.segmentation import Segmentation


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def train_words(words: list[str]) -> None:
    from u2seg.engine.run import train_or_evaluate
    from u2seg.host.arguments import train_parser

    command = ["--config-file", str(BASE_CONFIG), *words]
    train_or_evaluate(train_parser().parse_intermixed_args(command))


@pytest.mark.d2
@pytest.mark.parametrize(
    ("folder", "what"),
    [("photos/train", "the image folder"), ("labels/x", "the label folder"),
     ("truth/val/x", "the image folder"), ("truth/pngs", "the folder of the ground truth")],
)  # fmt: skip
def test_training_writes_nothing_among_photographs_labels_or_truth(
    folder: str, what: str, tmp_path: Path
) -> None:
    labels, truth = make_labels(tmp_path), tmp_path / "truth"
    shutil.copytree(tmp_path / "photos", truth / "val")
    shutil.copytree(labels / "panoptic/panoptic", truth / "pngs")
    shutil.copy(labels / "panoptic/panoptic.json", truth / "p.json")
    words = data_words(labels, tmp_path / folder)
    words += ["U2SEG.DATA.EVAL_ROOT", str(truth), "U2SEG.DATA.EVAL_IMAGES", "val"]
    words += ["U2SEG.DATA.EVAL_JSON", "p.json", "U2SEG.DATA.EVAL_PNGS", "pngs"]
    before = files(tmp_path)
    with pytest.raises(UserError, match=rf"{folder} lies in {what} .*choose an output folder"):
        train_words(words)
    assert files(tmp_path) == before


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


FOREIGN = [
    ({"manifest.json": "{}", "panoptic.json": "{}"}, "files of a labelling run"),
    ({"panoptic.json": '{"info": {"description": "COCO"}}'}, "no prediction made"),
    ({"panoptic/a.png": ""}, "no prediction made"),
    ({"labelspace.json": "{}"}, "no prediction made"),
    ({"metrics.json": "{}"}, "no prediction made"),  # of a training
]


@pytest.mark.parametrize(("content", "told"), FOREIGN)
def test_files_of_others_are_not_replaced(
    content: dict[str, str], told: str, tmp_path: Path
) -> None:
    for name, text in content.items():
        write(tmp_path / name, text)
    before = files(tmp_path)
    with pytest.raises(UserError, match=told):
        check_own(tmp_path)
    assert files(tmp_path) == before


def test_results_are_replaced_and_what_stays_of_earlier_ones_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(*names: str) -> None:
        check_own(tmp_path)
        writer = PredictionWriter(tmp_path, SPACE)
        for number, name in enumerate(names, start=1):
            _, label = scene(number)
            stuff = np.zeros(label.ids.shape, dtype=np.uint8)
            writer.add(number, name, Segmentation(stuff.shape, (), stuff, panoptic=label))
        if names:
            writer.finish()

    check_own(tmp_path / "new")
    run("a.jpg", "b.jpg")
    run()  # interrupted
    run("a.jpg")
    assert "2 pictures of an earlier run" in caplog.text and "panoptic/b.png" in caplog.text
    caplog.clear()
    for folder in ("panoptic", "stuff"):
        (tmp_path / folder / "b.png").unlink()
    run("a.jpg")
    assert not caplog.text


@pytest.mark.parametrize("mark", ["labelspace.json", "train_config.yaml"])
def test_labelling_looks_for_no_photographs_in_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mark: str
) -> None:
    for name in ("a.png", "b/c.png", f"b/shown/{mark}", "b/shown/pictures/a.png"):
        write(tmp_path / name, "")
    assert find_files(tmp_path, (".png",)) == ["a.png", "b/c.png"]
    assert "b/shown holds results" in caplog.text
    assert find_files(tmp_path / "b/shown", (".png",)) == ["pictures/a.png"]


def test_evaluation_writes_nothing_among_photographs_labels_or_truth(tmp_path: Path) -> None:
    labels = make_labels(tmp_path) / "panoptic"
    words = ["--predictions", str(labels), "--truth", str(labels / "panoptic.json")]
    words += [str(labels / "panoptic")]
    for output, told in (
        (labels, "files of a labelling run"), (tmp_path / "photos", "holds photographs"),
        (labels / "panoptic/x", "the folder of the ground truth"),
    ):  # fmt: skip
        before = files(tmp_path)
        with pytest.raises(UserError, match=told):
            evaluate_files(parse_evaluate(evaluate_parser(), [*words, "--output", str(output)]))
        assert files(tmp_path) == before


@pytest.mark.d2
def test_a_pipeline_writes_nothing_among_its_photographs(tmp_path: Path) -> None:
    import u2seg

    make_labels(tmp_path)
    before = files(tmp_path)
    with pytest.raises(UserError, match="lies in the image folder"):
        u2seg.run(tmp_path / "photos", tmp_path / "photos/run", BASE_CONFIG, TINY)
    assert files(tmp_path) == before
