"""Every format of ground truth: what files it takes, and its reader; and one place to open them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from u2seg.config.evaluation import TRUTH_CLASSES, EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation.truth.base import INSTANCES, SEMANTIC, Truth, crop_truth, paired_by_stem
from u2seg.evaluation.truth.classes import find_class_set, with_classes
from u2seg.evaluation.truth.coco import open_coco_instances, open_coco_panoptic
from u2seg.evaluation.truth.folders import (
    open_cityscapes,
    open_cityscapes_panoptic,
    open_class_maps,
    open_cocostuff,
    open_two_channel,
    open_voc,
)
from u2seg.io.coco import read_panoptic
from u2seg.io.paths import stem_of
from u2seg.registry import Registry


@dataclass(frozen=True)
class Format:
    """A format of ground truth, a member of ``FORMATS``; called with its paths it opens them.

    Args:
        name, about: What users call it, and what it is, in a line.
        parts: The paths it takes, in order, for people.
        keys: Which key of ``U2SEG.DATA`` gives each path: ``json`` or ``pngs``.
        opens: Reader; takes the paths, returns the truth.
        least: Paths that must be there, the others are optional; 0 = all.
        own_ids: Whether images have ids of their own; else they are numbered in the order of
            their names, and predictions are joined by name.
    """

    name: str
    about: str
    parts: tuple[str, ...]
    keys: tuple[str, ...]
    opens: Callable[..., Truth]
    least: int = 0
    own_ids: bool = False

    @property
    def required(self) -> int:
        """Number of paths that must be given."""
        return self.least or len(self.parts)

    def __call__(self, *paths: Path | str) -> Truth:
        """Return the truth in files; UserError if they are missing or garbled, or too few."""
        if not self.required <= len(paths) <= len(self.parts):
            raise UserError(
                f"the format {self.name} ({self.about}) takes {' and '.join(self.parts)}, given "
                f"{len(paths)} paths: {' '.join(map(str, paths)) or 'none'}"
            )
        return self.opens(*(Path(path) for path in paths))


FORMATS = Registry("format")
_JSON, _PNGS, _BOTH = ("json",), ("pngs",), ("json", "pngs")
_COCO = ("JSON", "folder of PNGs")
for _format in (
    Format("coco-panoptic", "COCO panoptic", _COCO, _BOTH, open_coco_panoptic, own_ids=True),
    Format(
        "coco-2channel",
        "panoptic maps of category and instance",
        ("JSON of images and categories", "folder of PNGs"),
        _BOTH,
        open_two_channel,
        own_ids=True,
    ),
    Format(
        "coco-instances",
        "COCO instances, also VOC and others in that form",
        ("JSON",),
        _JSON,
        open_coco_instances,
    ),
    Format("uvo", "UVO's COCO-style JSON", ("JSON",), _JSON, open_coco_instances, own_ids=True),
    Format(
        "cocostuff",
        "COCO-Stuff's stuffthingmaps",
        ("folder of PNGs", "list of images (optional)"),
        ("pngs", "json"),
        open_cocostuff,
        least=1,
    ),
    Format("cityscapes", "Cityscapes' gtFine PNGs", ("folder of a split",), _PNGS, open_cityscapes),
    Format(
        "cityscapes-panoptic",
        "the panoptic files of Cityscapes' script",
        _COCO,
        _BOTH,
        open_cityscapes_panoptic,
    ),
    Format(
        "voc",
        "Pascal VOC's segmentation PNGs",
        ("list of images", "folder SegmentationClass"),
        _BOTH,
        open_voc,
    ),
    Format(
        "camvid",
        "8-bit class maps and a JSON of classes",
        ("JSON of classes", "folder of PNGs"),
        _BOTH,
        open_class_maps,
    ),
):
    FORMATS.register(_format.name)(_format)


def find_format(name: str) -> Format:
    """Return a format by name; UserError if there is none, with the known and closest names."""
    return cast("Format", FORMATS.get(name))


def open_truth(
    name: str,
    paths: Sequence[Path | str],
    classes: str = TRUTH_CLASSES,
    merge_stuff: bool = False,
) -> Truth:
    """Return a truth, seen through a set of ``class_sets`` (``truth`` = its own classes).

    The first image is read at once, so that files of another format are refused before any work.
    """
    truth: Any = find_format(name)(*paths)
    if classes != TRUTH_CLASSES:
        truth = with_classes(truth, find_class_set(classes), merge_stuff)
    if truth.tasks == {INSTANCES, SEMANTIC}:
        raise UserError(
            f"{truth.source} answers two tasks that are matched apart: choose a class set for "
            "the instances (voc-20) or for the semantic maps (voc-21)"
        )
    truth.read(min(truth.stems))
    return cast("Truth", truth)


def scored_truth(
    name: str, paths: Sequence[Path | str], settings: EvalSettings, predictions: Path | None = None
) -> Truth:
    """Return a truth as the settings want it scored: through a class set, joined, cropped.

    Where the format has no image ids of its own, those of the result folder ``predictions`` are
    taken; None = ids stay.
    """
    truth = open_truth(name, paths, settings.classes, settings.merge_true_stuff)
    source = (predictions or Path()) / "panoptic.json"  # label folders are paired by name anyway
    if predictions is not None and source.is_file() and not find_format(name).own_ids:
        images = read_panoptic(source)["images"]
        stems = {image["id"]: stem_of(image["file_name"]) for image in images}
        truth = paired_by_stem(truth, stems, source)
    return crop_truth(truth, settings.crop) if settings.crop else truth
