"""Layouts and names of weight files, by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("detectron2", reason="Detectron2 is not installed")
from u2seg.errors import UserError  # noqa: E402
from u2seg.modeling.weights import (  # noqa: E402
    explain_mismatches,
    rename_torchvision,
    to_host_layout,
)

pytestmark = pytest.mark.d2
ONE = np.ones(1, dtype=np.float32)


def test_caffe2_pickle_loses_its_momenta() -> None:
    content = {"blobs": {"conv1_w": ONE, "conv1_w_momentum": ONE}}
    assert to_host_layout(content, "x.pkl") == {
        "model": {"conv1_w": ONE},
        "__author__": "Caffe2",
        "matching_heuristics": True,
    }
    assert to_host_layout({"conv1_w": ONE}, "x.pkl")["__author__"] == "Caffe2"


def test_plain_nested_and_pycls_layouts() -> None:
    assert to_host_layout({"a": ONE}, "x.pth") == {"model": {"a": ONE}}
    assert to_host_layout({"state_dict": {"a": ONE}, "epoch": 3}, "x.pth") == {"model": {"a": ONE}}
    assert to_host_layout({"model": {"a": ONE}, "iteration": 7}, "x.pth")["iteration"] == 7
    assert to_host_layout({"model_state": {"a": ONE}}, "x.pyth")["model"] == {"a": ONE}


def test_files_that_are_no_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"x\.pth: 'epoch' is int, expected numbers"):
        to_host_layout({"epoch": 3}, "x.pth")
    with pytest.raises(UserError, match=r"x\.pth holds no weights"):
        to_host_layout({"model": {}}, "x.pth")


def test_torchvision_names_equal_the_hosts_resnet() -> None:
    """Every weight of torchvision's ResNet-18 and -50 lands on one of the host's, same shape."""
    import torchvision
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_backbone

    from tests.modeling.tiny import tiny_cfg

    for depth, make in (
        (18, torchvision.models.resnet18),
        (50, torchvision.models.resnet50),
    ):
        cfg = tiny_cfg()
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.RESNETS.DEPTH = depth
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
        with torch.device("meta"):
            expected = build_backbone(cfg, ShapeSpec(channels=3)).state_dict()
            theirs = make().state_dict()
        renamed = rename_torchvision({f"module.{k}": v for k, v in theirs.items()})
        assert renamed is not None
        assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in expected.items()}


def test_both_numbers_of_clusters_are_told() -> None:
    shapes = [
        ("roi_heads.mask_head.predictor.weight", (300, 8), (800, 8)),
        ("sem_seg_head.predictor.weight", (28, 4), (16, 4)),
    ]
    text = explain_mismatches(shapes)
    assert "is (300, 8) in the file and (800, 8) in the model (and 1 more)" in text
    assert (
        "The file has 27 stuff clusters, the model 15: set U2SEG.SEMANTICS.NUM_CLASSES 27" in text
    )


def test_a_whole_dino_training_is_told_where_it_belongs() -> None:
    weights = {"backbone.conv1.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"x\.pth is a whole DINO training.*u2seg convert"):
        to_host_layout({"student": weights, "teacher": weights, "epoch": 1}, "x.pth")
