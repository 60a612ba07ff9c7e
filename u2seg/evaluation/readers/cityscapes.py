"""Cityscapes' own files: ``gtFine`` PNGs, and the panoptic JSON of Cityscapes' script.

Source: cityscapesScripts, ``helpers/labels.py`` and ``preparation/createPanopticImgs.py``
(commit 29be139).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UserError
from u2seg.evaluation import other_ids as ids
from u2seg.evaluation.panoptic import TruthSegment
from u2seg.evaluation.readers.coco import PanopticTruth, panoptic_truth
from u2seg.evaluation.readers.folder import (
    FolderTruth,
    check_folder,
    check_values,
    class_segments,
    find_maps,
    folder_parts,
)
from u2seg.evaluation.truth import SEMANTIC, TASKS, TrueImage
from u2seg.io.coco import check_panoptic
from u2seg.io.jsonfile import read_json_object
from u2seg.io.png import read_wide_png

PER_CLASS = 1000
"""An instance has the value label x 1000 + n; smaller values are labels without instance."""
INSTANCES_ENDING = "_gtFine_instanceIds.png"
LABELS_ENDING = "_gtFine_labelIds.png"
PHOTOGRAPH_ENDING = "_leftImg8bit"


@dataclass(frozen=True)
class CityscapesTruth(FolderTruth):
    """Maps of instance ids, or of label ids.

    Args:
        instances: Whether the maps are of instance ids.
    """

    instances: bool = True

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``.

        A thing without instance number is a group, i.e. a crowd; labels 0..6 are void.
        """
        path = self.path(image_id)
        values = read_wide_png(path)
        labels = np.where(values < PER_CLASS, values, values // PER_CLASS)
        expected = "Cityscapes labels 0..33, or label x 1000 + n for an instance"
        known = np.isin(labels, tuple(ids.CITYSCAPES))
        check_values(path, values[~known], (), expected)
        if not self.instances:
            values = labels
        kept = np.where(labels < len(ids.CITYSCAPES_VOID), 0, values).astype(np.int32)
        if not self.instances:
            return class_segments(kept)
        found, counts = np.unique(kept, return_counts=True)
        pairs = zip(found.tolist(), counts.tolist(), strict=True)
        return TrueImage(kept, {v: _segment(v, area) for v, area in pairs if v})


def _segment(value: int, area: int) -> TruthSegment:
    label = value if value < PER_CLASS else value // PER_CLASS
    crowd = value < PER_CLASS and label in ids.CITYSCAPES_THINGS
    return TruthSegment(label, area, crowd)


def open_cityscapes(folder: Path) -> CityscapesTruth:
    """Return the truth in a split of ``gtFine``.

    Args:
        folder: Such as ``gtFine/val``: a folder a city. Where there are no maps of instance ids
            those of label ids are read, which answer the semantic task alone.

    Raises:
        UserError: if the folder holds neither.
    """
    instances = folder.is_dir() and any(folder.rglob(f"*{INSTANCES_ENDING}"))
    what = f"*{INSTANCES_ENDING} or *{LABELS_ENDING}, a folder a city"
    found = find_maps(folder, INSTANCES_ENDING if instances else LABELS_ENDING, what)
    kept = [i for i in ids.CITYSCAPES if i not in ids.CITYSCAPES_VOID]
    stuff = tuple(i for i in kept if i not in ids.CITYSCAPES_THINGS)
    return CityscapesTruth(
        source=folder,
        names={i: ids.CITYSCAPES[i] for i in (*ids.CITYSCAPES_THINGS, *stuff)},
        things=ids.CITYSCAPES_THINGS,
        stuff=stuff,
        tasks=TASKS if instances else frozenset({SEMANTIC}),
        instances=instances,
        **folder_parts({f"{stem}{PHOTOGRAPH_ENDING}": path for stem, path in found.items()}),
    )


def open_cityscapes_panoptic(annotations: Path, pngs: Path) -> PanopticTruth:
    """Return the truth in the panoptic files that Cityscapes' script makes.

    They are COCO's format but for two things that are mended here: an image's id is its name
    (images are numbered in the order of their names instead), and its ``file_name`` is without
    the folder of the city and with ``_gtFine``. Files that were rewritten already are taken too.

    Args:
        annotations: Such as ``gtFine/cityscapes_panoptic_val.json``, with label or train ids.
        pngs: Its folder of RGB id maps.

    Raises:
        UserError: if a file is missing or garbled, or no image is annotated.
    """
    content = read_json_object(annotations, "images", "annotations", "categories")
    try:
        mended = _mended(content)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{annotations}: expected the panoptic files of cityscapesscripts, images with id, "
            f"file_name, annotations with image_id ({error!r})"
        ) from error
    check_folder(pngs, f"the PNGs that {annotations} names")
    return panoptic_truth(check_panoptic(annotations, mended), annotations, pngs)


def _mended(content: dict[str, Any]) -> dict[str, Any]:
    names = sorted(str(image["id"]) for image in content["images"])
    numbers = {name: number for number, name in enumerate(names, start=1)}
    if all(isinstance(image["id"], int) for image in content["images"]):
        numbers = {name: int(name) for name in names}
    images = [
        {**i, "id": numbers[str(i["id"])], "file_name": _photograph(i["file_name"])}
        for i in content["images"]
    ]
    annotations = [
        {**a, "image_id": numbers.get(str(a["image_id"]), a["image_id"])}
        for a in content["annotations"]
    ]
    # Train ids begin at 0, which is no class id here.
    shift = int(any(c["id"] == 0 for c in content["categories"]))
    for annotation in annotations:
        annotation["segments_info"] = [
            {**s, "category_id": s["category_id"] + shift} for s in annotation["segments_info"]
        ]
    categories = [{**c, "id": c["id"] + shift} for c in content["categories"]]
    return {"images": images, "annotations": annotations, "categories": categories}


def _photograph(file_name: str) -> str:
    """Return the name of a photograph below ``leftImg8bit/<split>``.

    Examples:
        >>> _photograph("bonn_000001_000019_gtFine_leftImg8bit.png")
        'bonn/bonn_000001_000019_leftImg8bit.png'
    """
    folder, _, name = file_name.replace("_gtFine_", "_").rpartition("/")
    return f"{folder or name.split('_')[0]}/{name}"
