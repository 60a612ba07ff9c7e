"""A model small enough for a test: 5 thing clusters, 3 stuff clusters, R18-FPN."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.structures import BitMasks, Boxes, Instances

from u2seg.config.load import add_u2seg_config

THINGS, STUFF, SIDE = 5, 3, 64


def tiny_cfg(architecture: str = "PanopticCascadeRCNN", things: int = THINGS) -> Any:
    cfg = get_cfg()
    add_u2seg_config(cfg)
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.META_ARCHITECTURE = architecture
    model.MASK_ON = True
    model.WEIGHTS = ""
    model.PIXEL_MEAN, model.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    model.BACKBONE.NAME, model.BACKBONE.FREEZE_AT = "build_resnet_fpn_backbone", 0
    model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS = 18, 64
    model.RESNETS.NORM = model.FPN.NORM = "BN"
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.OUT_CHANNELS = 16
    model.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = 50
    heads = model.ROI_HEADS
    heads.NAME, heads.NUM_CLASSES, heads.IN_FEATURES = "CascadeROIHeads", things, ["p2", "p3"]
    heads.BATCH_SIZE_PER_IMAGE, heads.SCORE_THRESH_TEST = 16, 0.0
    box, mask, semantic = model.ROI_BOX_HEAD, model.ROI_MASK_HEAD, model.SEM_SEG_HEAD
    box.NAME, box.NUM_FC, box.FC_DIM = "FastRCNNConvFCHead", 1, 16
    box.POOLER_RESOLUTION, box.CLS_AGNOSTIC_BBOX_REG = 7, True
    mask.NAME, mask.NUM_CONV, mask.CONV_DIM = "MaskRCNNConvUpsampleHead", 1, 8
    mask.POOLER_RESOLUTION = 14
    semantic.NUM_CLASSES, semantic.CONVS_DIM = STUFF + 1, 32
    model.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT = 16
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    return cfg


def sample(seed: int, things: int = 2, *, void: bool = False) -> dict[str, Any]:
    """Return a training sample: squares on random noise; ``void``: no stuff truth at all."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    masks = torch.zeros((things, SIDE, SIDE), dtype=torch.bool)
    stuff = torch.full((SIDE, SIDE), 255 if void else 1, dtype=torch.uint8)
    for index in range(things):
        place = 4 + 24 * index
        masks[index, place : place + 20, place : place + 20] = True
        image[:, masks[index]] = 250 - 200 * index
        if not void:
            stuff[masks[index]] = 0
    instances = Instances((SIDE, SIDE))
    boxes = [[4 + 24 * i, 4 + 24 * i, 24 + 24 * i, 24 + 24 * i] for i in range(things)]
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(things)
    instances.gt_masks = BitMasks(masks)
    return {"image": image, "instances": instances, "sem_seg": stuff, "height": 96, "width": 80}
