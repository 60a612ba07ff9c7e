"""From YAML and overrides to a frozen config."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from tests.factories import BASE_CONFIG, CONFIGS, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.errors import UserError
from u2seg.host.setup import build_cfg

pytestmark = pytest.mark.d2
prepare_host()
CPU = ("MODEL.DEVICE", "cpu")


def test_class_numbers_follow_from_the_clusters() -> None:
    words = ["U2SEG.CLUSTERS.NUM_CLUSTERS", "17", "U2SEG.SEMANTICS.NUM_CLASSES", "5"]
    cfg = build_cfg(BASE_CONFIG, [*CPU, *words])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 17
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6
    assert cfg.is_frozen()


@pytest.mark.parametrize(
    ("key", "value", "owner"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", "80", "U2SEG.CLUSTERS.NUM_CLUSTERS makes it 17"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "54", "makes it 28"),
    ],
)
def test_contradicting_class_numbers_are_refused(key: str, value: str, owner: str) -> None:
    with pytest.raises(UserError) as caught:
        build_cfg(BASE_CONFIG, [*CPU, "U2SEG.CLUSTERS.NUM_CLUSTERS", "17", key, value])
    assert f"{key} is set to {value}" in str(caught.value)
    assert owner in str(caught.value)


def test_labels_with_other_numbers_are_refused_before_the_model_is_built(tmp_path: Path) -> None:
    words = data_words(make_labels(tmp_path), tmp_path / "out")
    with pytest.raises(UserError, match=r"3 thing clusters, the model is set to 4: set U2SEG"):
        build_cfg(BASE_CONFIG, [*words, "U2SEG.CLUSTERS.NUM_CLUSTERS", "4"], register=True)
    with pytest.raises(UserError, match=r"2 stuff clusters.*set U2SEG.SEMANTICS.NUM_CLASSES 2"):
        build_cfg(BASE_CONFIG, [*words, "U2SEG.SEMANTICS.NUM_CLASSES", "7"], register=True)


def test_data_sets_are_registered_under_fixed_names(tmp_path: Path) -> None:
    from detectron2.data import DatasetCatalog

    words = data_words(make_labels(tmp_path), tmp_path / "out")
    cfg = build_cfg(BASE_CONFIG, words, register=True)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("u2seg_pseudo",), ("u2seg_pseudo",))
    assert len(DatasetCatalog.get("u2seg_pseudo")) == 4
    with pytest.raises(UserError, match=r"DATASETS.TRAIN is set to .* U2SEG.DATA.LABELS"):
        build_cfg(BASE_CONFIG, [*words, "DATASETS.TRAIN", "('coco_2017_train',)"])


@pytest.mark.parametrize("word", ["OUTPUT_DIR=", "OUTPUT_DIR= "])
def test_an_empty_output_folder_is_not_the_working_directory(word: str) -> None:
    with pytest.raises(UserError, match=r"^OUTPUT_DIR is empty, expected a folder"):
        build_cfg(BASE_CONFIG, [word])


def test_cpu_runs_without_sync_bn_and_mixed_precision(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="u2seg"):
        cfg = build_cfg(CONFIGS / "Base-U2Seg-R50-FPN.yaml", CPU)
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM) == ("BN", "BN")
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == "GN"
    assert not cfg.SOLVER.AMP.ENABLED
    assert "MODEL.FPN.NORM" in caplog.text


def test_a_dumped_config_loads_again_as_the_same(tmp_path: Path) -> None:
    words = data_words(make_labels(tmp_path), tmp_path / "out")
    cfg = build_cfg(BASE_CONFIG, words)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert build_cfg(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {ROI_HEADS: {SCORE_TRESH_TEST: 0.1}}", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
        ("U2SEG: {MASKS: {MASKCUT: {TAO: 0.1}}}", "Did you mean U2SEG.MASKS.MASKCUT.TAU?"),
        ("SOLVR: {BASE_LR: 0.1}", "Did you mean SOLVER.BASE_LR?"),
        ("SOLVER: {BASE_LR: fast}", "SOLVER.BASE_LR is 'fast'"),
        ("U2SEG: {MASKS: {MASKCUT: {TAU: 7}}}", "U2SEG.MASKS.MASKCUT.TAU is 7"),
        ("MODEL: {META_ARCHITECTURE: PanopticCascade}", "not registered; known are"),
        ("MODEL: {SEM_SEG_HEAD: {NAME: Foo}}", "MODEL.SEM_SEG_HEAD.NAME is 'Foo', which is not"),
        ("MODEL: {PROPOSAL_GENERATOR: {NAME: Foo}}", "known are RPN, RRPN"),
        ("U2SEG: {TRAIN: {DROPLOSS: true}}", "NAME is Res5ROIHeads, which has no drop-loss"),
        ("MODEL: {FPN: {NORM: Foo}}", "MODEL.FPN.NORM is 'Foo', expected one of"),
        ("MODEL: {RESNETS: {DEPTH: 19}}", "MODEL.RESNETS.DEPTH is 19"),
        ("MODEL: {PIXEL_MEAN: [1.0]}", "MODEL.PIXEL_MEAN is [1.0], expected 3 numbers"),
        ("INPUT: {FORMAT: XYZ}", "INPUT.FORMAT is 'XYZ', expected one of 'RGB', 'BGR'"),
        ("INPUT: {MIN_SIZE_TRAIN: []}", "INPUT.MIN_SIZE_TRAIN is ()"),
        ("SOLVER: {MAX_ITER: -1}", "SOLVER.MAX_ITER is -1, expected >= 1"),
        ("SOLVER: {IMS_PER_BATCH: 0}", "SOLVER.IMS_PER_BATCH is 0"),
        ("SOLVER: {LR_SCHEDULER_NAME: Foo}", "SOLVER.LR_SCHEDULER_NAME is 'Foo'"),
        ("DATALOADER: {NUM_WORKERS: -1}", "DATALOADER.NUM_WORKERS is -1"),
        ("SOLVER: {MOMENTUM: -1}", "SOLVER.MOMENTUM is -1.0, expected >= 0"),
        ("SOLVER: {WEIGHT_DECAY: -1}", "SOLVER.WEIGHT_DECAY is -1.0, expected >= 0"),
        ("SOLVER: {WEIGHT_DECAY_BIAS: much}", "WEIGHT_DECAY_BIAS is 'much' (str)"),
        ("SOLVER: {WEIGHT_DECAY_BIAS: -1}", "WEIGHT_DECAY_BIAS is -1.0, expected >= 0"),
        ("SOLVER: {WARMUP_METHOD: foo}", "SOLVER.WARMUP_METHOD is 'foo', expected one of"),
        ("SOLVER: {CLIP_GRADIENTS: {CLIP_TYPE: foo}}", "CLIP_TYPE is 'foo', expected one of"),
        ("INPUT: {CROP: {TYPE: foo}}", "INPUT.CROP.TYPE is 'foo', expected one of"),
        ("MODEL: {FPN: {NORM: GN, OUT_CHANNELS: 20}}", "OUT_CHANNELS is 20, expected a multiple"),
        ("MODEL: {PIXEL_STD: [1.0, 0.0, 1.0]}", "MODEL.PIXEL_STD is [1.0, 0.0, 1.0], expected"),
        ("VERSION: 1", "VERSION is 1"),
        ("SOLVER: !!python/object/apply:os.system ['touch OWNED']", "not plain YAML"),
        ("_BASE_: https://example.org/x.yaml", "must be the path of a local file"),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        build_cfg(tmp_path / "bad.yaml", CPU)
    assert message in str(caught.value)
    assert not os.path.exists("OWNED")


def test_what_newer_hosts_can_do_is_accepted_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the keys and norms of main in the present host's place."""
    import detectron2.config
    import detectron2.layers

    def main_cfg() -> Any:
        cfg = plain()
        cfg.SOLVER.NUM_DECAYS, cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = 3, False
        return cfg

    words = [*CPU, "SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"]
    plain = detectron2.config.get_cfg
    if "NUM_DECAYS" not in plain().SOLVER:
        with pytest.raises(UserError, match="LR_SCHEDULER_NAME is 'WarmupStepWithFixedGammaLR'"):
            build_cfg(BASE_CONFIG, words)
    monkeypatch.setattr(detectron2.config, "get_cfg", main_cfg)
    monkeypatch.setattr(detectron2.layers, "get_norm", lambda norm, channels: object())
    cfg = build_cfg(BASE_CONFIG, [*words, "MODEL.FPN.NORM", "LN"])
    assert (cfg.SOLVER.NUM_DECAYS, cfg.MODEL.FPN.NORM) == (3, "LN")
    with pytest.raises(UserError, match=r"USE_FED_LOSS is True, expected False: .* clusters"):
        build_cfg(BASE_CONFIG, [*CPU, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("SOLVER.MAX_ITER 8 SOLVER.STEPS (8,)", "STEPS is (8,) and SOLVER.MAX_ITER 8: expected"),
        ("SOLVER.MAX_ITER 8 SOLVER.STEPS (4,2)", "expected steps >= 1 in rising order"),
        ("SOLVER.MAX_ITER 8 SOLVER.STEPS (0,)", "expected steps >= 1 in rising order"),
        ("SOLVER.MAX_ITER 1 SOLVER.STEPS () SOLVER.NESTEROV True SOLVER.MOMENTUM 0", "NESTEROV"),
        ("SOLVER.REFERENCE_WORLD_SIZE 3", "3, but SOLVER.IMS_PER_BATCH 16 is no multiple of it"),
        ("TEST.EXPECTED_RESULTS [['a','b','c',1,2]]", "TEST.EXPECTED_RESULTS is [["),
    ],
)
def test_what_only_a_training_stumbles_over_is_refused_there(words: str, message: str) -> None:
    given = [*CPU, "SOLVER.IMS_PER_BATCH", "16", *words.split()]
    build_cfg(BASE_CONFIG, given)
    with pytest.raises(UserError) as caught:
        build_cfg(BASE_CONFIG, given, training=True)
    assert message in str(caught.value)


def test_steps_are_compared_as_the_host_scales_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processes instead of one: of 20 and 21 iterations round(2.5) = 2 and 3 remain."""
    from detectron2.utils import comm

    words = ["SOLVER.MAX_ITER", "21", "SOLVER.IMS_PER_BATCH", "16"]
    words += ["SOLVER.REFERENCE_WORLD_SIZE", "1"]
    monkeypatch.setattr(comm, "get_world_size", lambda: 8)
    build_cfg(BASE_CONFIG, [*CPU, *words, "SOLVER.STEPS", "(20,)"], training=True)
    with pytest.raises(UserError, match=r"scaled by SOLVER.REFERENCE_WORLD_SIZE \(3,\) and 3"):
        build_cfg(BASE_CONFIG, [*CPU, *words, "SOLVER.STEPS", "(22,)"], training=True)


def test_a_device_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with pytest.raises(UserError, match=r"MODEL.DEVICE is 'gpu', expected auto, cpu"):
        build_cfg(BASE_CONFIG, ["MODEL.DEVICE", "gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"MODEL.DEVICE is 'cuda:3', this machine has 1 GPU"):
        build_cfg(BASE_CONFIG, ["MODEL.DEVICE", "cuda:3"])


def test_base_of_a_file_cannot_execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("A: !!python/object/apply:os.system ['touch OWNED']")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml")
    with pytest.raises(UserError, match="not plain YAML"):
        build_cfg(tmp_path / "top.yaml")
    assert not os.path.exists("OWNED")
