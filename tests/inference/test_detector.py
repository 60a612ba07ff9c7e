"""Masks predicted by small models with random weights: stock Detectron2's, and this package's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.factories import BASE_CONFIG, TINY, scene
from u2seg.compat import host, prepare_host
from u2seg.config.schema import DetectorSettings
from u2seg.errors import UserError
from u2seg.host.setup import build_cfg, build_stock_cfg
from u2seg.inference.detector import Detector, good_masks
from u2seg.structures.masks import InstanceMask

pytestmark = pytest.mark.d2
prepare_host()

SMALL = """
  DEVICE: cuda
  WEIGHTS: ""
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64}
  FPN: {OUT_CHANNELS: 16}
  RPN: {POST_NMS_TOPK_TEST: 50}
  ROI_BOX_HEAD: {FC_DIM: 16}
  ROI_MASK_HEAD: {CONV_DIM: 8, NUM_CONV: 1}
INPUT: {MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 128}
"""


def save_random_model(cfg: object, path: Path) -> Path:
    import torch
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and weights of a small Mask R-CNN of two classes, on the zoo's own base."""
    from detectron2 import model_zoo

    folder = tmp_path_factory.mktemp("stock")
    base = model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    config = folder / "stock.yaml"
    config.write_text(f"_BASE_: {base}\nMODEL:\n  ROI_HEADS: {{NUM_CLASSES: 2}}{SMALL}")
    cfg = build_stock_cfg(config, ["MODEL.DEVICE", "cpu"])
    return config, save_random_model(cfg, folder / "model.pth")


def mask_settings(config: Path, weights: Path, score: float = 0.05) -> DetectorSettings:
    return DetectorSettings(config=str(config), weights=str(weights), score=score)


def check_masks(detector: Detector, score: float) -> None:
    from pycocotools import mask as coco_mask

    image, _ = scene(0)
    wide = np.concatenate([image, image], axis=1)
    masks = detector(wide)
    assert masks
    assert [m.score for m in masks] == sorted((m.score for m in masks), reverse=True)
    assert min(m.score for m in masks) >= score
    assert all(m.to_array().shape == wide.shape[:2] and m.area for m in masks)
    codes = [m.rle for m in masks]
    overlap = coco_mask.iou(codes, codes, [0] * len(codes))
    assert (overlap - np.eye(len(codes))).max() <= 0.5
    assert detector(wide) == masks
    assert isinstance(detector(np.zeros((1, 1, 3), dtype=np.uint8)), list)


def test_a_stock_mask_rcnn_predicts_masks(stock: tuple[Path, Path]) -> None:
    check_masks(Detector(mask_settings(*stock), "cpu"), 0.05)


def test_a_model_of_this_package_predicts_masks(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"_BASE_": str(BASE_CONFIG)}
    for key, value in zip(TINY[::2], TINY[1::2], strict=True):
        node = tree
        *parents, leaf = key.split(".")
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    config = tmp_path / "ours.yaml"
    config.write_text(yaml.safe_dump(tree))
    weights = save_random_model(build_cfg(config), tmp_path / "ours.pth")
    check_masks(Detector(mask_settings(config, weights, 0.01), "cpu"), 0.01)


def test_a_high_threshold_leaves_nothing(stock: tuple[Path, Path]) -> None:
    detector = Detector(mask_settings(*stock, score=1.0), "cpu")
    assert detector(scene(0)[0]) == []


def test_score_nms_empty_masks_and_boxes_by_hand() -> None:
    rows = ("##..", "###.", "...#", "....", "...#")
    masks = [
        replace(
            InstanceMask.from_array(np.array([[c == "#" for c in row]]), score, cluster=1),
            bbox=(0.5, 0.0, 9.0, 9.0),
        )
        for row, score in zip(rows, (0.5, 0.75, 0.25, 0.9, 0.2), strict=True)
    ]
    kept = good_masks(masks, DetectorSettings(score=0.25, nms=0.6))
    assert [(m.score, m.area, m.cluster) for m in kept] == [(0.75, 3, None), (0.25, 1, None)]
    assert [m.bbox for m in kept] == [(0.0, 0.0, 3.0, 1.0), (3.0, 0.0, 1.0, 1.0)]
    both = good_masks(masks, DetectorSettings(score=0.3, nms=0.7))
    assert [m.score for m in both] == [0.75, 0.5]


def test_fingerprint_follows_config_and_weights(stock: tuple[Path, Path], tmp_path: Path) -> None:
    config, weights = stock
    before = Detector(mask_settings(config, weights)).fingerprint()
    other = tmp_path / "other.pth"
    other.write_bytes(weights.read_bytes() + b"0")
    assert Detector(mask_settings(config, other)).fingerprint()["config"] == before["config"]
    assert Detector(mask_settings(config, other)).fingerprint()["weights"] != before["weights"]
    changed = tmp_path / "changed.yaml"
    changed.write_text(f"_BASE_: {config}\nTEST: {{DETECTIONS_PER_IMAGE: 7}}\n")
    assert Detector(mask_settings(changed, weights)).fingerprint()["config"] != before["config"]


def test_what_is_missing_is_named(
    stock: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, weights = stock
    with pytest.raises(UserError, match=r"CUTLER\.CONFIG is empty"):
        Detector(DetectorSettings())
    with pytest.raises(UserError, match=r"CUTLER\.WEIGHTS is .*none\.pth.* no file"):
        Detector(mask_settings(config, tmp_path / "none.pth"))
    monkeypatch.setattr(host, "_prepared", False)
    monkeypatch.setattr(host, "host_folder", lambda: None)
    with pytest.raises(UserError, match="Detectron2 is not installed"):
        Detector(mask_settings(config, weights))


def test_unusable_models_are_refused(stock: tuple[Path, Path], tmp_path: Path) -> None:
    config, weights = stock
    image = scene(0)[0]
    foreign = tmp_path / "foreign.yaml"
    foreign.write_text(f"_BASE_: {config}\nZEBRAFISH: {{STRIPES: true}}\n")
    with pytest.raises(UserError, match=r"unknown key ZEBRAFISH\.STRIPES.*leave them out"):
        Detector(mask_settings(foreign, weights), "cpu")(image)
    boxes = tmp_path / "boxes.yaml"
    boxes.write_text(f"_BASE_: {config}\nMODEL: {{MASK_ON: false}}\n")
    cfg = build_stock_cfg(boxes, ["MODEL.DEVICE", "cpu"])
    only_boxes = save_random_model(cfg, tmp_path / "boxes.pth")
    with pytest.raises(UserError, match="predicts no instance masks"):
        Detector(mask_settings(boxes, only_boxes), "cpu")(image)
    with pytest.raises(UserError, match="roi_heads"):
        Detector(mask_settings(config, only_boxes), "cpu")(image)


def test_cutlers_own_config_is_read_as_it_is(stock: tuple[Path, Path], tmp_path: Path) -> None:
    """With its training-only keys and the name of its heads, whose parameters are the host's."""
    config = tmp_path / "cutler.yaml"
    config.write_text(
        f"_BASE_: {stock[0]}\nMODEL:\n  ROI_BOX_HEAD: {{CLS_AGNOSTIC_BBOX_REG: true}}\n"
        "  ROI_HEADS: {NAME: CustomCascadeROIHeads, USE_DROPLOSS: true, DROPLOSS_IOU_THRESH: 0}\n"
        "DATALOADER: {COPY_PASTE: true, COPY_PASTE_RATE: 1.0, COPY_PASTE_RANDOM_NUM: true}\n"
        "SOLVER: {BASE_LR_MULTIPLIER: 2, BASE_LR_MULTIPLIER_NAMES: ['roi_heads']}\n"
        "TEST: {NO_SEGM: false}\nVERSION: 2\n"
    )
    cfg = build_stock_cfg(config, ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads"
    weights = save_random_model(cfg, tmp_path / "cutler.pth")
    check_masks(Detector(mask_settings(config, weights, 0.0), "cpu"), 0.0)
    with pytest.raises(UserError, match=r"is a key of CutLER's code.*/cutler_R50\.yaml"):
        build_cfg(config, ["MODEL.DEVICE", "cpu"])


def test_importing_the_label_half_loads_no_detectron2() -> None:
    import subprocess

    code = "import sys, u2seg.pipeline, u2seg.workflows.recipe; print('detectron2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
