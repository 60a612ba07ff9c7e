"""Evaluation data in other formats: registered, predicted, scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation import formats
from tests.evaluation.datasets import write_truth
from tests.label_folder import BASE_CONFIG, CONFIGS, TINY, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.config.evaldata import EVAL_FORMATS
from u2seg.config.evaluation import EvalSettings
from u2seg.config.load import load_settings
from u2seg.engine.args import train_parser
from u2seg.engine.evalchoice import EvalChoice
from u2seg.engine.evaldata import photograph_records, truth_of, truth_paths
from u2seg.engine.run import evaluate, train_or_evaluate
from u2seg.engine.setup import build_cfg
from u2seg.errors import UserError
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.mapping_file import mapping_json
from u2seg.evaluation.protocols import protocol_of
from u2seg.evaluation.readers import open_truth

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
    with pytest.raises(
        UserError, match=r"EVAL.CLASSES is 'coco95', expected one of truth, coco-133"
    ):
        load_settings(None, ["U2SEG.EVAL.CLASSES", "coco95"])
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


def test_published_configs_of_coco_score_95_classes() -> None:
    for name in ("u2seg_R50_300", "u2seg_R50_800", "u2seg_eval_800"):
        settings = load_settings(CONFIGS / "COCO-PanopticSegmentation" / f"{name}.yaml")
        assert settings.eval.classes == "coco-95" and not settings.eval.merge_true_stuff
        assert [p.as_posix() for p in truth_paths(settings)] == [
            "datasets/coco/annotations/panoptic_val2017.json",
            "datasets/coco/annotations/panoptic_val2017",
        ]
    assert load_settings(BASE_CONFIG).eval.classes == "truth"


def test_missing_photograph(tmp_path: Path) -> None:
    formats.cityscapes(tmp_path)
    gone = tmp_path / "leftImg8bit/val/bonn/bonn_000001_000019_leftImg8bit.png"
    gone.unlink()
    with pytest.raises(UserError, match=r"has no photograph bonn/bonn_.*\(and 0 more of 2\)"):
        build_cfg(BASE_CONFIG, words(tmp_path, "cityscapes"), register=True)
