"""Every format of evaluation data: what files it takes, and its reader."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2seg.config.evaldata import TRUTH_CLASSES
from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation.classsets import find_class_set
from u2seg.evaluation.classview import with_classes
from u2seg.evaluation.crop import crop_truth
from u2seg.evaluation.readers.cityscapes import open_cityscapes, open_cityscapes_panoptic
from u2seg.evaluation.readers.coco import open_coco_instances, open_coco_panoptic
from u2seg.evaluation.readers.maps import open_class_maps, open_cocostuff
from u2seg.evaluation.readers.two_channel import open_two_channel
from u2seg.evaluation.readers.voc import open_voc
from u2seg.evaluation.truth import INSTANCES, SEMANTIC, Truth
from u2seg.evaluation.truthview import paired_by_stem
from u2seg.io.coco import read_panoptic
from u2seg.io.paths import stem_of


@dataclass(frozen=True)
class Format:
    """A format of evaluation data.

    Args:
        about: What it is, in a line.
        parts: The paths it takes, in order, for people.
        keys: Which key of ``U2SEG.DATA`` gives each path: ``json`` or ``pngs``.
        opens: Reader; takes the paths, returns the truth.
        least: Paths that must be there; the others are optional.
        own_ids: Whether images have ids of their own; else they are numbered in the order of
            their names, and predictions are joined by name.
    """

    about: str
    parts: tuple[str, ...]
    keys: tuple[str, ...]
    opens: Callable[..., Any]
    least: int = 0
    own_ids: bool = False

    @property
    def required(self) -> int:
        """Number of paths that must be given."""
        return self.least or len(self.parts)


FORMATS: dict[str, Format] = {
    "coco-panoptic": Format(
        "COCO panoptic",
        ("JSON", "folder of PNGs"),
        ("json", "pngs"),
        open_coco_panoptic,
        own_ids=True,
    ),
    "coco-2channel": Format(
        "panoptic maps of category and instance",
        ("JSON of images and categories", "folder of PNGs"),
        ("json", "pngs"),
        open_two_channel,
        own_ids=True,
    ),
    "coco-instances": Format(
        "COCO instances, also VOC and others in that form",
        ("JSON",),
        ("json",),
        open_coco_instances,
    ),
    "uvo": Format("UVO's COCO-style JSON", ("JSON",), ("json",), open_coco_instances, own_ids=True),
    "cocostuff": Format(
        "COCO-Stuff's stuffthingmaps",
        ("folder of PNGs", "list of images (optional)"),
        ("pngs", "json"),
        open_cocostuff,
        least=1,
    ),
    "cityscapes": Format(
        "Cityscapes' gtFine PNGs", ("folder of a split",), ("pngs",), open_cityscapes
    ),
    "cityscapes-panoptic": Format(
        "the panoptic files of Cityscapes' script",
        ("JSON", "folder of PNGs"),
        ("json", "pngs"),
        open_cityscapes_panoptic,
    ),
    "voc": Format(
        "Pascal VOC's segmentation PNGs",
        ("list of images", "folder SegmentationClass"),
        ("json", "pngs"),
        open_voc,
    ),
    "camvid": Format(
        "8-bit class maps and a JSON of classes",
        ("JSON of classes", "folder of PNGs"),
        ("json", "pngs"),
        open_class_maps,
    ),
}
"""Name -> format."""


def open_truth(
    name: str,
    paths: Sequence[Path | str],
    classes: str = TRUTH_CLASSES,
    merge_stuff: bool = False,
) -> Truth:
    """Return a truth, seen through a set of classes.

    The first image is read at once, so that files of another format are refused before any work.

    Args:
        name: A key of ``FORMATS``.
        paths: The files and folders of the format.
        classes: A key of ``classsets.CLASS_SETS``, or ``truth`` for the classes of the truth.
        merge_stuff: See ``classview.with_classes``.

    Raises:
        UserError: for an unknown name, another number of paths than the format takes, files that
            are missing or garbled, or classes that the set does not know.
    """
    known = find_format(name)
    if not known.required <= len(paths) <= len(known.parts):
        raise UserError(
            f"the format {name} ({known.about}) takes {' and '.join(known.parts)}, given "
            f"{len(paths)} paths: {' '.join(map(str, paths)) or 'none'}"
        )
    truth: Truth = known.opens(*(Path(path) for path in paths))
    if classes != TRUTH_CLASSES:
        truth = with_classes(truth, find_class_set(classes), merge_stuff)
    if truth.tasks == {INSTANCES, SEMANTIC}:
        raise UserError(
            f"{truth.source} answers two tasks that are matched apart: choose a class set for "
            "the instances (voc-20) or for the semantic maps (voc-21)"
        )
    truth.read(min(truth.stems))
    return truth


def scored_truth(
    name: str, paths: Sequence[Path | str], settings: EvalSettings, predictions: Path | None = None
) -> Truth:
    """Return a truth as the settings want it scored: through a class set, joined, cropped.

    Args:
        name: A key of ``FORMATS``.
        paths: The files and folders of the format.
        settings: ``classes``, ``merge_true_stuff`` and ``crop`` are used.
        predictions: Result folder whose image ids are to be taken where the format has none of
            its own; None = ids stay.

    Raises:
        UserError: as ``open_truth``, ``paired_by_stem`` and ``crop_truth``.
    """
    truth = open_truth(name, paths, settings.classes, settings.merge_true_stuff)
    if predictions is not None and not FORMATS[name].own_ids:
        source = predictions / "panoptic.json"
        images = read_panoptic(source)["images"]
        stems = {image["id"]: stem_of(image["file_name"]) for image in images}
        truth = paired_by_stem(truth, stems, source)
    return crop_truth(truth, settings.crop) if settings.crop else truth


def find_format(name: str) -> Format:
    """Return a format by name; UserError if there is none, with the known and closest names."""
    if name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown format {name!r}: known are {', '.join(FORMATS)}{hint}")
    return FORMATS[name]
