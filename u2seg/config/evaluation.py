"""Settings of evaluation, section ``EVAL``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from u2seg.config.section import at_least, one_of, require, shares


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
CUSTOM = "custom"
MATCHINGS = ("hungarian", "majority", "hungarian+majority", "identity")
RULE_KEYS = (
    "matching", "thing_votes", "match_overlap", "match_iou", "match_score", "match_pairs",
    "match_crowds", "stuff_votes", "stuff_iou", "apart", "unmatched", "merge_stuff",
)  # fmt: skip
"""What a named protocol fixes."""
_CHOICES = {
    "matching": MATCHINGS,
    "thing_votes": ("instances", "pixels"),
    "match_overlap": ("mask", "box"),
    "match_pairs": ("all", "best"),
    "stuff_votes": ("pixels", "images"),
    "unmatched": ("void", "false_positive"),
    "paper_data": ("coco", "voc", "uvo"),
}


@dataclass(frozen=True)
class EvalSettings:
    """How predicted clusters are matched to classes (facts: U2Seg section 8).

    A named protocol fixes the keys from ``matching`` to ``merge_stuff``; one of them that is set
    to something else is refused. The defaults of ``custom`` are those of ``one-to-one``.

    Args:
        protocol: ``u2seg-released``, ``u2seg-paper``, ``one-to-one``, ``cups``, ``identity``, or
            ``custom``: the keys below.
        matching: ``hungarian`` (one to one), ``majority`` (many to one; what the released code
            calls Hungarian), ``hungarian+majority`` (one to one first, what is left over by
            majority) or ``identity`` (ids are classes already).
        thing_votes: What votes for thing classes: ``instances`` (pairs of a predicted and a true
            instance) or ``pixels`` (of the panoptic maps).
        match_overlap: IoU of which the pair's is asked: ``mask`` or ``box``.
        match_iou: A pair votes from this IoU on, 0..1.
        match_score: A predicted instance votes from this score on, 0..1.
        match_pairs: ``all`` pairs vote, or only the ``best`` (largest IoU) of each prediction.
        match_crowds: Whether true crowds can be voted for.
        stuff_votes: What votes for stuff classes: ``pixels``, or ``images``: one vote per image
            in which the IoU of all pixels of the cluster with all of the class is above
            ``stuff_iou``.
        stuff_iou: See ``stuff_votes``, 0..1.
        apart: Match thing clusters to thing classes and stuff to stuff; False = all clusters to
            all classes, which needs pixels for votes of both.
        unmatched: What segments of clusters without a class are in the headline PQ: ``void``
            (they claim no pixel) or ``false_positive``. Both are in every result.
        merge_stuff: Merge predicted segments that map to the same stuff class of an image. With a
            class set that collects several stuff classes into one, ``merge_true_stuff`` decides.
        instance_score: Instances below this are left out of AP, 0..1.
        fit_share: Share of the images on which the mapping is fitted, the rest being scored, by a
            hash of the photograph's name; 0 = fit and score on all images. 0 <= share < 1.
        paper_data: Row of the paper's thresholds that ``u2seg-paper`` takes: ``coco``, ``voc`` or
            ``uvo``.
        bootstrap: Resamples of the images for the 95 % intervals; 0 = no intervals.
        seed: Of the resamples and of random baselines, >= 0.
        baselines: Also score the predicted segments with random clusters, and with one cluster.
        labels: Output folder of a labelling run of the evaluated photographs, whose label files
            are scored beside the model; empty = none.
        classes: Class set to score over: ``truth`` (the truth's own classes), ``coco-95`` and
            others, see datasets/README.md.
        merge_true_stuff: With a class set: merge true segments of one stuff class in an image,
            and predicted ones with them. The released evaluation does not.
        crop: Semantic metrics on the square in the middle after resizing to this short side in
            pixels, both by the nearest pixel (STEGO: 320 for COCO-Stuff 27); 0 = whole images.
    """

    protocol: str = CUSTOM
    matching: str = "hungarian"
    thing_votes: str = "instances"
    match_overlap: str = "mask"
    match_iou: float = 0.5
    match_score: float = 0.3
    match_pairs: str = "all"
    match_crowds: bool = False
    stuff_votes: str = "pixels"
    stuff_iou: float = 0.15
    apart: bool = True
    unmatched: str = "void"
    merge_stuff: bool = True
    instance_score: float = 0.0
    fit_share: float = 0.0
    paper_data: str = "coco"
    bootstrap: int = 1000
    seed: int = 0
    baselines: bool = False
    labels: str = ""
    classes: str = TRUTH_CLASSES
    merge_true_stuff: bool = False
    crop: int = 0

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            one_of(f"EVAL.{key.upper()}", getattr(self, key), allowed)
        shares("EVAL", self, "match_iou", "match_score", "stuff_iou", "instance_score")
        require(0 <= self.fit_share < 1, "EVAL.FIT_SHARE", self.fit_share, ">= 0 and below 1")
        at_least(0, "EVAL", self, "bootstrap", "seed")
        require(self.crop >= 0, "EVAL.CROP", self.crop, ">= 0 pixels, 0 = whole images")
        known = self.classes != TRUTH_CLASSES or not self.merge_true_stuff
        expected = "False where EVAL.CLASSES is 'truth': only a class set collects classes"
        require(known, "EVAL.MERGE_TRUE_STUFF", self.merge_true_stuff, expected)
        fits = "identity" not in (self.protocol, self.matching)
        expected = "0 where ids are classes already (identity): nothing is fitted"
        require(fits or not self.fit_share, "EVAL.FIT_SHARE", self.fit_share, expected)
        pixels = self.thing_votes == self.stuff_votes == "pixels"
        require(
            self.apart or self.protocol != CUSTOM or pixels,
            "EVAL.APART",
            self.apart,
            "True unless EVAL.THING_VOTES and EVAL.STUFF_VOTES are both 'pixels': votes of "
            f"{self.thing_votes} and of {self.stuff_votes} cannot be compared",
        )

    def identity(self) -> EvalSettings:
        """Return the settings for ids that are classes already: no rule, nothing held out.

        Examples:
            >>> settings = EvalSettings(protocol="cups", fit_share=0.5, instance_score=0.1)
            >>> same = settings.identity()
            >>> same.protocol, same.fit_share, same.instance_score
            ('identity', 0.0, 0.1)
        """
        defaults: dict[str, Any] = {f.name: f.default for f in fields(self) if f.name in RULE_KEYS}
        return replace(self, protocol="identity", fit_share=0.0, **defaults)
