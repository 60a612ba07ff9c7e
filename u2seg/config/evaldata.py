"""Formats of evaluation data and names of class sets: what settings may say."""

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
CLASS_SETS = (
    TRUTH_CLASSES, "coco-133", "coco-95", "coco-16", "coco-80", "cocostuff-27", "cocostuff-171",
    "cityscapes-27", "cityscapes-19", "voc-20", "voc-21", "camvid-11",
    "uvo",
)  # fmt: skip
"""Names of class sets; ``u2seg.evaluation/truth/classes.yaml`` says what each holds."""
