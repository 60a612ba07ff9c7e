"""Evaluation data in other formats: registered, predicted, scored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.evaluation import formats
from tests.evaluation.datasets import write_truth
from tests.factories import BASE_CONFIG, TINY, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.config.evaluation import EVAL_FORMATS, EvalSettings
from u2seg.config.load import load_settings
from u2seg.data.mapper import read_photograph
from u2seg.engine.evaluate import EvalChoice
from u2seg.engine.run import evaluate, train_or_evaluate
from u2seg.errors import StageError, UserError
from u2seg.evaluation.protocols.mapping import ClusterMapping, mapping_json
from u2seg.evaluation.protocols.rules import protocol_of
from u2seg.evaluation.truth.formats import open_truth
from u2seg.host.arguments import train_parser
from u2seg.host.evaldata import photograph_records, truth_of, truth_paths
from u2seg.host.setup import build_cfg
from u2seg.io.atomic import write_json
from u2seg.io.jsonfile import read_json
from u2seg.io.png import read_panoptic_png, write_panoptic_png
from u2seg.structures.masks import InstanceMask
from u2seg.structures.segmentation import Segmentation

pytestmark = pytest.mark.d2
prepare_host()


def words(root: Path, data_format: str, classes: str = "truth") -> list[str]:
    return [
        *TINY,
        *("U2SEG.DATA.EVAL_ROOT", str(root), "U2SEG.DATA.EVAL_FORMAT", data_format),
        *("U2SEG.EVAL.CLASSES", classes, "U2SEG.EVAL.BOOTSTRAP", "0"),
        *("OUTPUT_DIR", str(root / "out")),
    ]


def test_usual_places_depend_on_the_format(tmp_path: Path) -> None:
    data = load_settings(None, ["U2SEG.DATA.EVAL_FORMAT", "voc"]).data
    assert data.eval_tree == EVAL_FORMATS["voc"]
    settings = load_settings(None, words(tmp_path, "cocostuff"))
    assert truth_paths(settings) == [tmp_path / "stuffthingmaps/val2017"]
    listed = [*words(tmp_path, "cocostuff"), "U2SEG.DATA.EVAL_JSON", "curated.txt"]
    assert truth_paths(load_settings(None, listed))[1] == tmp_path / "curated.txt"
    with pytest.raises(
        UserError, match=r"DATA.EVAL_FORMAT is 'coco', expected one of coco-panoptic"
    ):
        load_settings(None, ["U2SEG.DATA.EVAL_FORMAT", "coco"])
    with pytest.raises(UserError, match=r"MERGE_TRUE_STUFF is True, expected False where"):
        load_settings(None, ["U2SEG.EVAL.MERGE_TRUE_STUFF", "true"])


@pytest.mark.parametrize(
    ("data_format", "classes", "write"),
    [
        ("cityscapes", "cityscapes-19", formats.cityscapes),
        ("camvid", "camvid-11", formats.camvid),
        ("voc", "voc-20", formats.voc),
        ("cocostuff", "cocostuff-27", formats.cocostuff),
    ],
)
def test_data_sets_are_registered_with_their_photographs(
    tmp_path: Path, data_format: str, classes: str, write: object
) -> None:
    from detectron2.data import DatasetCatalog

    assert callable(write)
    write(tmp_path)
    cfg = build_cfg(BASE_CONFIG, words(tmp_path, data_format, classes), register=True)
    tree = EVAL_FORMATS[data_format]
    assert tree.images == cfg.U2SEG.DATA.EVAL_IMAGES
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    truth = truth_of(load_settings(None, words(tmp_path, data_format, classes)))
    assert {r["image_id"]: r["stem"] for r in records} == truth.stems
    for record in records:
        assert Path(record["file_name"]).is_file()
        assert (record["height"], record["width"]) == truth.sizes[record["image_id"]]


def test_evaluation_of_an_untrained_model_on_cityscapes_files(tmp_path: Path) -> None:
    from detectron2.modeling import build_model

    formats.cityscapes(tmp_path)
    cfg = build_cfg(BASE_CONFIG, words(tmp_path, "cityscapes", "cityscapes-19"), register=True)
    metrics = evaluate(cfg, build_model(cfg), tmp_path / "result")
    assert metrics["protocol"]["class_set"] == "cityscapes-19"
    assert metrics["protocol"]["images"] == 2
    assert metrics["protocol"]["images_without_prediction"] == 0
    assert metrics["protocol"]["reference"] == str(tmp_path / "gtFine/val")
    written = tmp_path / "result/panoptic/bonn/bonn_000001_000019_leftImg8bit.png"
    assert written.is_file()


def test_class_set_that_does_not_fit_is_refused_before_the_model_is_built(tmp_path: Path) -> None:
    formats.cityscapes(tmp_path)
    with pytest.raises(UserError, match=r"class 24 is 'person'|class 25 is 'rider', which coco-95"):
        build_cfg(BASE_CONFIG, words(tmp_path, "cityscapes", "coco-95"), register=True)
    write_truth(tmp_path)
    with pytest.raises(UserError, match=r"photographs .*leftImg8bit/val does not exist"):
        photograph_records(
            open_truth("cityscapes", [tmp_path / "gtFine/val"]),
            tmp_path / "nowhere" / "leftImg8bit" / "val",
            (".png",),
        )


def test_an_evaluation_that_would_be_refused_predicts_nothing(tmp_path: Path) -> None:
    formats.cityscapes(tmp_path)
    cfg = build_cfg(BASE_CONFIG, words(tmp_path, "cityscapes", "cityscapes-19"), register=True)
    with pytest.raises(UserError, match=r"category 1 of the model is none of .*gtFine/val"):
        evaluate(cfg, None, tmp_path / "result", choice=EvalChoice(protocols=("identity",)))
    assert not (tmp_path / "result").exists()


def test_a_training_that_could_not_be_evaluated_does_not_start(tmp_path: Path) -> None:
    """The labels bring a mapping to other classes than those of the evaluation data."""
    formats.cityscapes(tmp_path)
    labels = make_labels(tmp_path)
    mapping = ClusterMapping(
        things={1: 17},
        stuff={},
        protocol=protocol_of(EvalSettings(protocol="identity"), 1).to_json(),
        clusters=((1, 2, 3), (4, 5)),
        classes=((17, "cat", True),),
    )
    (labels / "mapping.json").write_text(json.dumps(mapping_json(mapping)))
    data = ["U2SEG.DATA.EVAL_ROOT", str(tmp_path), "U2SEG.DATA.EVAL_FORMAT", "cityscapes"]
    command = ["--config-file", str(BASE_CONFIG), *data_words(labels, tmp_path / "out"), *data]
    with pytest.raises(UserError, match=r"mapping.json maps to 1 classes .*U2SEG.DATA.LABELS"):
        train_or_evaluate(train_parser().parse_intermixed_args(command))
    assert not list((tmp_path / "out").glob("*.pth"))


def test_an_evaluation_with_truth_needs_no_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    formats.cityscapes(tmp_path)
    gone = ["U2SEG.DATA.LABELS", str(tmp_path / "gone")]
    given = [*words(tmp_path, "cityscapes", "cityscapes-19"), *gone]
    cfg = build_cfg(BASE_CONFIG, given, register=True)
    assert cfg.DATASETS.TEST == ("u2seg_eval",)
    assert "gone (U2SEG.DATA.LABELS) does not exist: evaluating without it" in caplog.text
    made = r"does not exist: make it .* --config-file \S+ --images FOLDER --output-dir \S+/gone"
    with pytest.raises(UserError, match=made):
        build_cfg(BASE_CONFIG, given, register=True, training=True)
    with pytest.raises(UserError, match=made):
        build_cfg(BASE_CONFIG, ["MODEL.DEVICE", "cpu", *gone], register=True)


@dataclass
class Oracle:
    """A model that says one segment of the first thing, as wide as the image's id."""

    training: bool = False

    def eval(self) -> None: ...

    def train(self, mode: bool) -> None: ...

    def predict(self, images: list[dict[str, Any]], prompts: Any = None) -> list[Segmentation]:
        masks = [np.zeros((s["height"], s["width"]), dtype=bool) for s in images]
        for sample, mask in zip(images, masks, strict=True):
            mask[:, : sample["image_id"]] = True
        return [
            Segmentation(mask.shape, (InstanceMask.from_array(mask, cluster=0),)) for mask in masks
        ]


def write_photographs(root: Path, names: list[str]) -> dict[str, Any]:
    """Write photographs of 6x4 pixels as a COCO-panoptic data set, each one thing."""
    for folder in ("val2017", "annotations/panoptic_val2017"):
        (root / folder).mkdir(parents=True)
    images, labels = [], []
    for number, name in enumerate(names, start=1):
        Image.new("RGB", (6, 4)).save(root / "val2017" / name)
        images.append({"id": number, "file_name": name, "height": 4, "width": 6})
        png = f"true{number}.png"
        ids = np.ones((4, 6), dtype=np.int32)
        write_panoptic_png(root / "annotations/panoptic_val2017" / png, ids)
        segment = {"id": 1, "category_id": 1, "area": 24, "bbox": [0, 0, 6, 4], "iscrowd": 0}
        labels.append({"image_id": number, "file_name": png, "segments_info": [segment]})
    things = [{"id": 1, "name": "cat", "isthing": 1}]
    content = {"images": images, "annotations": labels, "categories": things}
    write_json(root / "annotations/panoptic_val2017.json", content)
    return content


def test_predictions_of_photographs_with_one_stem_do_not_overwrite_each_other(
    tmp_path: Path,
) -> None:
    names = ["9.png", "9.bmp", "9.PNG"]  # the last differs where the file system tells cases apart
    write_photographs(tmp_path, names)
    cfg = build_cfg(BASE_CONFIG, words(tmp_path, "coco-panoptic"), register=True)
    evaluate(cfg, Oracle())
    found = read_json(tmp_path / "out/evaluation/panoptic.json")
    assert [image["file_name"] for image in found["images"]] == names
    for label in found["annotations"]:
        ids = read_panoptic_png(tmp_path / "out/evaluation/panoptic" / label["file_name"])
        assert (ids[0] == 1).sum() == label["image_id"]


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("val2017", "9.png, which does not exist"),
        ("annotations/panoptic_val2017", "true2.png, which does not exist"),
    ],
)
def test_everything_an_evaluation_needs_is_looked_at_before_the_first_iteration(
    folder: str, told: str, tmp_path: Path
) -> None:
    write_photographs(tmp_path, ["8.png", "9.png"])
    training = [*words(tmp_path, "coco-panoptic"), "U2SEG.DATA.LABELS", str(make_labels(tmp_path))]
    build_cfg(BASE_CONFIG, training, register=True, training=True)
    path = max((tmp_path / folder).iterdir())
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=told):
        build_cfg(BASE_CONFIG, training, register=True, training=True)
    small = Image.new("RGB", (3, 4))
    small.save(path)
    with pytest.raises(
        UserError, match=r"its label says 4x6|3 x 4 pixels, the truth declares 6 x 4"
    ):
        build_cfg(BASE_CONFIG, training, register=True, training=True)
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match=rf"{path.name}: (not an image|it does not begin as a PNG)"):
        build_cfg(BASE_CONFIG, training, register=True, training=True)
    path.write_bytes(content)
    build_cfg(BASE_CONFIG, training, register=True, training=True)


def test_truth_of_the_pixels_before_exif_turns_them_is_named(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["9.jpg"])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "val2017/9.jpg", exif=exif)
    with pytest.raises(UserError, match=r"9.jpg is 6x4 pixels .* EXIF orientation 6 turns it"):
        build_cfg(BASE_CONFIG, words(tmp_path, "coco-panoptic"), register=True)
    record = {"file_name": str(tmp_path / "val2017/9.jpg"), "height": 4, "width": 6}
    with pytest.raises(StageError, match="EXIF orientation 6 turns it upright"):
        read_photograph(record)
