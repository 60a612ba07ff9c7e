"""The published recipes, key by key, as a user's config sees them.

The tables were typed from the sources named beside them, not from our YAML files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.factories import CONFIGS
from u2seg.compat import prepare_host
from u2seg.config.words import flatten
from u2seg.host.setup import build_cfg
from u2seg.io.yamlfile import load_yaml

pytestmark = pytest.mark.d2
prepare_host()
CPU = ("MODEL.DEVICE", "cpu")
FPN_LEVELS = ["p2", "p3", "p4", "p5"]
STAGES = ["res2", "res3", "res4", "res5"]

# u2seg/U2Seg commit 8e9c709, configs/COCO-PanopticSegmentation/u2seg_R50_{300,800}.yaml on
# Base-Panoptic-FPN.yaml, Base-RCNN-FPN.yaml and the defaults of its Detectron2.
RELEASED: dict[str, Any] = {
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": STAGES,
    "MODEL.FPN.IN_FEATURES": STAGES,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": [*FPN_LEVELS, "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 4000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.65,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.ROI_HEADS.IN_FEATURES": FPN_LEVELS,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": (0.5, 0.6, 0.7),
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 28,
    "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 0.5,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": FPN_LEVELS,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 128,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": 1.0,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": 0.5,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": 4096,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": 0.5,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 5e-5,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.CHECKPOINT_PERIOD": 10000,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "INPUT.MIN_SIZE_TRAIN": (240, 320, 480, 640, 672, 704, 736, 768, 800, 1024),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MASK_FORMAT": "bitmask",
    "INPUT.FORMAT": "RGB",
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.CROP.ENABLED": False,
    "TEST.EVAL_PERIOD": 0,
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    # The paper's training, which no commit of U2Seg holds; CutLER commit cca0a27.
    "MODEL.ROI_HEADS.NAME": "PseudoCascadeROIHeads",
    "U2SEG.TRAIN.DROPLOSS": True,
    "U2SEG.TRAIN.DROPLOSS_IOU": 0.01,
    "U2SEG.TRAIN.HEAD_LR_FACTOR": 1.0,
    "U2SEG.COPY_PASTE.ENABLED": True,
}
# The device decides about these: see the YAML itself.
OF_THE_GPU = {
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.NORM": "SyncBN",
    "SOLVER.AMP.ENABLED": True,
}
# Schedules of the paper, section 4.1: COCO and IN+COCO 90k; ImageNet as CutLER, 5e-5 after epoch 1.
COCO = {"SOLVER.MAX_ITER": 90000, "SOLVER.STEPS": ()}
IMAGENET = {"SOLVER.MAX_ITER": 160000, "SOLVER.STEPS": (80000,), "SOLVER.GAMMA": 0.005}
PANOPTIC = {"MODEL.META_ARCHITECTURE": "PanopticCascadeRCNN"}
INSTANCES = {"MODEL.META_ARCHITECTURE": "InstanceCascadeRCNN"}
RECIPES: dict[str, dict[str, Any]] = {
    f"{folder}/u2seg_R50_{k}.yaml": {"MODEL.ROI_HEADS.NUM_CLASSES": k, **more}
    for folder, ks, more in (
        ("COCO-PanopticSegmentation", (300, 800, 2911), {**COCO, **PANOPTIC}),
        ("ImageNet", (300, 800, 2911), {**IMAGENET, **PANOPTIC}),
        ("ImageNet-COCO-PanopticSegmentation", (300, 800), {**COCO, **PANOPTIC}),
        ("ImageNet-InstanceSegmentation", (300, 800, 2911), {**IMAGENET, **INSTANCES}),
    )
    for k in ks
}
RECIPES |= {
    f"COCO-PanopticSegmentation/u2seg_eval_{k}.yaml": {
        "MODEL.ROI_HEADS.NUM_CLASSES": k, **COCO, **PANOPTIC,
    }
    for k in (300, 800)
}  # fmt: skip
# CutLER commit cca0a27, model_zoo/configs/CutLER-ImageNet/cascade_mask_rcnn_R_50_FPN.yaml.
CUTLER = {
    **INSTANCES,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "SOLVER.MAX_ITER": 160000,
    "SOLVER.STEPS": (80000,),
    "SOLVER.GAMMA": 0.02,
    "U2SEG.COPY_PASTE.RATE": 1.0,
    "U2SEG.COPY_PASTE.SCALE": (0.3, 1.0),
    "U2SEG.COPY_PASTE.SAME_CLUSTER": 0.0,
    "U2SEG.COPY_PASTE.MIN_VISIBLE": 0.5,
}
RECIPES["ImageNet-InstanceSegmentation/cutler_R50.yaml"] = CUTLER
# Dantong88/U2Seg_eff commit d68ed46, efficiency_{p}per.yaml: rate, iterations, steps. 100 is ours.
LOWSHOT = {
    1: (0.04, 3600, (2400, 3200)),
    2: (0.04, 3600, (2400, 3200)),
    5: (0.04, 4500, (3000, 4000)),
    10: (0.04, 9000, (6000, 8000)),
    20: (0.04, 18000, (12000, 16000)),
    30: (0.04, 27000, (18000, 24000)),
    40: (0.04, 36000, (24000, 32000)),
    50: (0.02, 45000, (30000, 40000)),
    100: (0.02, 90000, (60000, 80000)),
}
# The same files; what they do not set is Detectron2's default.
LOWSHOT_SHARED = {
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.CHECKPOINT_PERIOD": 5000,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.AMP.ENABLED": False,
    "U2SEG.TRAIN.DROPLOSS": False,
    "U2SEG.TRAIN.HEAD_LR_FACTOR": 4.0,
    "U2SEG.TRAIN.SKIP_HEADS": True,
    "U2SEG.COPY_PASTE.ENABLED": False,
}


def check(path: Path, expected: dict[str, Any]) -> None:
    found = flatten(build_cfg(path, CPU))
    wrong = {k: (found[k], v) for k, v in expected.items() if plain(found[k]) != plain(v)}
    assert wrong == {}, f"{path.name}: key -> (ours, published)"


def plain(value: Any) -> Any:
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("file", RECIPES)
def test_recipe(file: str) -> None:
    check(CONFIGS / file, {**RELEASED, **RECIPES[file]})
    tree = flatten(load_yaml(CONFIGS / file))
    assert {key: tree[key] for key in OF_THE_GPU} == OF_THE_GPU


@pytest.mark.parametrize("percent", LOWSHOT)
def test_low_shot(percent: int) -> None:
    rate, iterations, steps = LOWSHOT[percent]
    own = {"SOLVER.BASE_LR": rate, "SOLVER.MAX_ITER": iterations, "SOLVER.STEPS": steps}
    path = CONFIGS / "lowshot" / f"coco_{percent}.yaml"
    check(path, {**RELEASED, **PANOPTIC, **LOWSHOT_SHARED, **own})
    tree = flatten(load_yaml(path))
    assert tree["MODEL.RESNETS.NORM"] == tree["MODEL.FPN.NORM"] == "SyncBN"
    assert tree["SOLVER.AMP.ENABLED"] is False
    assert tree["MODEL.WEIGHTS"] == "ckpts/cocotrain_300_0089999.pth"


def test_every_recipe_is_in_a_table() -> None:
    listed = {*RECIPES, *(f"lowshot/coco_{p}.yaml" for p in LOWSHOT)}
    folders = {Path(file).parent.as_posix() for file in listed}
    present = {
        p.relative_to(CONFIGS).as_posix()
        for folder in folders
        for p in (CONFIGS / folder).glob("*.yaml")
        if not p.name.startswith("Base-")
    }
    assert present == listed


def test_output_folders_differ() -> None:
    """The released files share them, so one training would overwrite another."""
    folders = [load_yaml(CONFIGS / file)["OUTPUT_DIR"] for file in RECIPES]
    folders += [load_yaml(CONFIGS / f"lowshot/coco_{p}.yaml")["OUTPUT_DIR"] for p in LOWSHOT]
    assert len(set(folders)) == len(folders)
