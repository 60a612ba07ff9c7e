"""Pascal VOC's segmentation PNGs.

Source: VOC 2012 development kit: ``SegmentationClass`` and ``SegmentationObject`` are palette
PNGs, value 0 is background, 255 the border between objects (void).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.other_ids import VOC, VOC_BACKGROUND
from u2seg.evaluation.panoptic import TruthSegment
from u2seg.evaluation.readers.folder import (
    FolderTruth,
    check_values,
    chosen_maps,
    class_segments,
    find_maps,
    folder_parts,
    read_names,
)
from u2seg.evaluation.truth import INSTANCES, SEMANTIC, TrueImage
from u2seg.io.png import read_label_png

OBJECTS = "SegmentationObject"
VOID = 255
BACKGROUND = 0


@dataclass(frozen=True)
class VocTruth(FolderTruth):
    """Maps of classes, and maps of objects where there are any.

    Args:
        objects: Image id -> map of objects; empty = none.
    """

    objects: Mapping[int, Path] | None = None

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the map of classes of an image, and that of objects if there is one."""
        objects = () if self.objects is None else (self.objects[image_id],)
        return (*super().maps(image_id), *objects)

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``.

        Raises:
            UserError: also if an object has pixels of several classes.
        """
        path = self.path(image_id)
        classes = read_label_png(path)
        known = (*range(VOC_BACKGROUND), VOID)
        check_values(path, classes, known, "0 (background), 1..20 or 255 (border)")
        if self.objects is None:
            return class_segments(_class_ids(classes))
        place = self.objects[image_id]
        objects = self.checked(place, image_id, read_label_png(place))
        return _objects(classes, objects, place)


def _class_ids(classes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    ids = classes.astype(np.int32)
    ids[classes == BACKGROUND] = VOC_BACKGROUND
    ids[classes == VOID] = 0
    return ids


def _objects(
    classes: npt.NDArray[np.uint8], objects: npt.NDArray[np.uint8], path: Path
) -> TrueImage:
    """Return a segment for every object, its id the object's plus 1, and one for the background.

    A pixel that has a class but no object, or an object but no class, is void.
    """
    ids = np.zeros(classes.shape, dtype=np.int32)
    thing = (classes != BACKGROUND) & (classes != VOID) & (objects != BACKGROUND)
    thing &= objects != VOID
    ids[thing] = objects[thing].astype(np.int32) + 1
    ids[(classes == BACKGROUND) & (objects == BACKGROUND)] = 1
    pairs, counts = np.unique(np.stack([ids[thing], classes[thing]]), axis=1, return_counts=True)
    segments: dict[int, TruthSegment] = {}
    background = int(np.count_nonzero(ids == 1))
    if background:
        segments[1] = TruthSegment(VOC_BACKGROUND, background)
    for identity, category, area in zip(*pairs.tolist(), counts.tolist(), strict=True):
        if identity in segments:
            raise UserError(
                f"{path}: object {identity - 1} lies on class {segments[identity].category} and "
                f"on class {category} of the map of classes: the two folders do not belong together"
            )
        segments[identity] = TruthSegment(category, area)
    return TrueImage(ids, segments)


def open_voc(names: Path, classes: Path) -> VocTruth:
    """Return the truth in VOC's PNGs.

    Args:
        names: List of the images to score, e.g. ``ImageSets/Segmentation/val.txt``.
        classes: Folder ``SegmentationClass``. Objects are read from ``SegmentationObject`` beside
            it; without that the truth answers the semantic task alone.

    Raises:
        UserError: if a file is missing.
    """
    found = find_maps(classes, ".png", "the PNGs of SegmentationClass")
    stems = read_names(names)
    parts = folder_parts(chosen_maps(found, stems, names))
    folder = classes.parent / OBJECTS
    objects = None
    if folder.is_dir():
        every = find_maps(folder, ".png", f"the PNGs of {OBJECTS}")
        chosen = chosen_maps(every, stems, names)
        objects = {i: chosen[stem] for i, stem in parts["stems"].items()}
    return VocTruth(
        source=names,
        names=VOC,
        things=tuple(i for i in VOC if i != VOC_BACKGROUND),
        stuff=(VOC_BACKGROUND,),
        tasks=frozenset({SEMANTIC} if objects is None else {SEMANTIC, INSTANCES}),
        objects=objects,
        **parts,
    )
