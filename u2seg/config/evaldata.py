"""Where data sets of each format usually have their parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalTree:
    """Where a data set usually has its parts, relative to its root; empty = it has none.

    Args:
        images: Folder of the photographs.
        json: File that describes the truth: JSON, or a list of images.
        pngs: Folder of the label maps.
    """

    images: str
    json: str = ""
    pngs: str = ""


EVAL_FORMATS: dict[str, EvalTree] = {
    "coco-panoptic": EvalTree(
        "val2017", "annotations/panoptic_val2017.json", "annotations/panoptic_val2017"
    ),
    "coco-2channel": EvalTree(
        "val2017", "annotations/image_info_val2017.json", "panoptic_2ch_val2017"
    ),
    "coco-instances": EvalTree("val2017", "annotations/instances_val2017.json"),
    "uvo": EvalTree("all_UVO_frames", "annotations/val_sparse_cleaned_cls_agnostic.json"),
    "cocostuff": EvalTree("val2017", "", "stuffthingmaps/val2017"),
    "cityscapes": EvalTree("leftImg8bit/val", "", "gtFine/val"),
    "cityscapes-panoptic": EvalTree(
        "leftImg8bit/val", "gtFine/cityscapes_panoptic_val.json", "gtFine/cityscapes_panoptic_val"
    ),
    "voc": EvalTree("JPEGImages", "ImageSets/Segmentation/val.txt", "SegmentationClass"),
    "camvid": EvalTree("val/images", "classes.json", "val/labels"),
}
"""Format -> its usual tree; ``u2seg.evaluation.truth`` has a reader for each."""

TRUTH_CLASSES = "truth"
"""The choice of class set that keeps the classes of the truth."""
