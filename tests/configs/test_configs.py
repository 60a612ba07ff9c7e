"""Every YAML loads, validates, and carries the recipe it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.factories import CONFIGS
from u2seg.compat import host_keys, prepare_host
from u2seg.config.load import load_settings
from u2seg.host.setup import build_cfg
from u2seg.io.yamlfile import load_yaml

pytestmark = pytest.mark.d2
prepare_host()
FILES = sorted(CONFIGS.rglob("*.yaml"))
RUNNABLE = [path for path in FILES if not path.name.startswith("Base-")]
CPU = ("MODEL.DEVICE", "cpu")


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def test_there_are_configs() -> None:
    published = {
        f"COCO-PanopticSegmentation/u2seg_{kind}_{k}.yaml"
        for kind in ("R50", "eval")
        for k in (300, 800)
    }
    assert published | {"quickstart/quickstart.yaml", "quickstart/scenes.yaml"} <= {
        name(p) for p in RUNNABLE
    }


@pytest.mark.parametrize("path", FILES, ids=name)
def test_loads_for_both_halves(path: Path) -> None:
    cfg = build_cfg(path, CPU)
    assert cfg.MODEL.META_ARCHITECTURE in ("PanopticCascadeRCNN", "InstanceCascadeRCNN")
    assert (
        load_settings(path, (), host_keys()).clusters.num_clusters
        == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    )
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
    assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS


@pytest.mark.parametrize("path", FILES, ids=name)
def test_portable_and_named_only_once(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    values = "\n".join(line.split("#")[0] for line in text.splitlines())
    assert not re.search(r"[:\s\"'](/|~|[A-Za-z]:\\)", values), "absolute path"
    assert "NUM_CLASSES" not in load_yaml(path).get("MODEL", {}).get("ROI_HEADS", {})


@pytest.mark.parametrize("path", RUNNABLE, ids=name)
def test_header_says_how_and_what(path: Path) -> None:
    header = [line for line in path.read_text().split("_BASE_")[0].splitlines() if line]
    assert all(line.startswith("#") for line in header)
    for word in ("Hardware:", "Time:", "Expected:"):
        assert any(word in line for line in header), word
    assert re.search(r"Command:|Training:", "\n".join(header))


@pytest.mark.parametrize("path", RUNNABLE, ids=name)
def test_labels_are_by_default_where_the_header_puts_them(path: Path) -> None:
    """A published command is typed without a word about labels."""
    header = path.read_text().split("_BASE_")[0]
    made = re.search(r"--output-dir (\S+/labels)|U2SEG\.DATA\.LABELS (\S+)", header)
    percent = re.search(r"--percent (\d+) --output (\S+)", header)
    expected = (made[1] or made[2]) if made else f"{percent[2]}/{percent[1]}" if percent else ""
    assert load_settings(path).data.labels == expected
    assert (not expected) == (path.parent.name == "semantics" or "eval" in path.stem)


@pytest.mark.parametrize("k", [300, 800])
@pytest.mark.parametrize("kind", ["R50", "eval"])
def test_published_labels(k: int, kind: str) -> None:
    """The labels; tests/configs/test_recipes.py has the keys of training."""
    path = CONFIGS / "COCO-PanopticSegmentation" / f"u2seg_{kind}_{k}.yaml"
    labels = build_cfg(path, CPU).U2SEG
    assert (labels.FEATURES.NAME, labels.CLUSTERS.DESCRIPTOR) == ("dino_vitb8", "crop_cls")
    assert (
        labels.MASKS.MASKCUT.TAU,
        labels.MASKS.MASKCUT.NUM_MASKS,
        labels.SEMANTICS.NUM_CLASSES,
    ) == (0.15, 3, 27)
    stego = labels.SEMANTICS.STEGO  # of ViT-B, as the features are
    assert (stego.WEIGHT_NEG, stego.WEIGHT_INTER, stego.WEIGHT_INTRA) == (0.1538, 1.0, 0.1)
    assert (stego.SHIFT_NEG, stego.SHIFT_INTER, stego.SHIFT_INTRA) == (1.0, 0.2, 0.12)


def test_quickstart_needs_neither_gpu_nor_weights() -> None:
    for file in ("quickstart.yaml", "scenes.yaml"):
        cfg = build_cfg(CONFIGS / "quickstart" / file, CPU)
        assert (cfg.MODEL.WEIGHTS, cfg.U2SEG.FEATURES.NAME) == ("", "filter_bank")
        assert "SyncBN" not in cfg.MODEL.dump()
        assert not cfg.SOLVER.AMP.ENABLED
        assert cfg.DATALOADER.NUM_WORKERS == 0


STEGO_BLOCKS = {
    # mhamilton723/STEGO, src/configs/train_config.yml: weights and shifts (neg, inter, intra).
    "stego_cocostuff27_vits8": ("dino_vits8", (0.63, 0.25, 0.67), (0.66, 0.02, 0.08)),
    "stego_cocostuff27_vitb8": ("dino_vitb8", (0.1538476246415498, 1, 0.1), (1, 0.2, 0.12)),
    "stego_cityscapes": (
        "dino_vitb8",
        (0.9058762625226623, 0.577453483136995, 1),
        (0.31361241889448443, 0.1754346515479633, 0.45828472207),
    ),
}


@pytest.mark.parametrize("file", STEGO_BLOCKS)
def test_published_stego_values(file: str) -> None:
    features, weights, shifts = STEGO_BLOCKS[file]
    settings = load_settings(CONFIGS / "semantics" / f"{file}.yaml")
    semantics, stego = settings.semantics, settings.semantics.stego
    assert settings.features.name == features
    assert (stego.weight_neg, stego.weight_inter, stego.weight_intra) == weights
    assert (stego.shift_neg, stego.shift_inter, stego.shift_intra) == shifts
    assert (semantics.num_classes, stego.code_dim) == (27, 70)
    assert (stego.steps, stego.batch_size) == (5000, 16)
    assert (stego.samples, stego.neg_samples, stego.neighbors) == (11, 5, 7)
    assert (stego.lr, stego.probe_lr, stego.dropout) == (5e-4, 5e-3, 0.1)
    assert (semantics.crops, semantics.crop_ratio, stego.shifts) == ("five", 0.5, "fixed")
    assert (stego.projection, stego.dense_codes, stego.probe_start) == ("nonlinear", True, "random")
    assert semantics.resample == "nearest"
    assert stego.pointwise and stego.zero_clamp and not stego.stabilize
    crf = (
        semantics.dense_crf.iterations,
        semantics.dense_crf.gaussian_sxy,
        semantics.dense_crf.gaussian_weight,
    )
    assert semantics.crf and crf == (10, 1.0, 3.0)
    kernel = (
        semantics.dense_crf.bilateral_sxy,
        semantics.dense_crf.bilateral_srgb,
        semantics.dense_crf.bilateral_weight,
    )
    assert kernel == (67.0, 3.0, 4.0)
