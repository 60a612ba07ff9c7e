"""8-bit class maps: COCO-Stuff and CamVid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from u2seg.evaluation import coco_ids as coco
from u2seg.evaluation.label_maps import read_map_truth
from u2seg.evaluation.readers.folder import (
    FolderTruth,
    check_values,
    chosen_maps,
    class_segments,
    find_maps,
    folder_parts,
    read_names,
)
from u2seg.evaluation.truth import SEMANTIC, TrueImage
from u2seg.io.png import read_label_png

COCOSTUFF_VOID = 255


class CocoStuffTruth(FolderTruth):
    """COCO-Stuff's maps: value 0..181 = label - 1, 255 = unlabelled."""

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``."""
        path = self.path(image_id)
        values = read_label_png(path)
        expected = f"0..{coco.NUM_FINE - 1} (label - 1) or {COCOSTUFF_VOID} (unlabelled)"
        check_values(path, values, [*range(coco.NUM_FINE), COCOSTUFF_VOID], expected)
        labels = values.astype(np.int32) + 1
        labels[values == COCOSTUFF_VOID] = 0
        return class_segments(labels)


def open_cocostuff(maps: Path, names: Path | None = None) -> CocoStuffTruth:
    """Return the truth in COCO-Stuff's own maps.

    Args:
        maps: Folder such as ``stuffthingmaps/val2017``; a map has its photograph's name.
        names: List of the images to score, a name a line without suffix, such as the curated
            list of STEGO; None = all. An image whose name is a number has it as id, as in COCO.

    Raises:
        UserError: if the folder holds no PNG, or lacks one that the list names.
    """
    found = find_maps(maps, ".png", "the PNGs of COCO-Stuff's stuffthingmaps")
    if names is not None:
        found = chosen_maps(found, read_names(names), names)
    numbers = {stem: int(stem) if stem.isascii() and stem.isdigit() else 0 for stem in found}
    own = all(numbers.values()) and len(set(numbers.values())) == len(numbers)
    things = tuple(range(1, coco.FINE_STUFF[0]))
    return CocoStuffTruth(
        source=names or maps,
        names={i: coco.NAMES[i] for i in (*things, *coco.FINE_STUFF)},
        things=things,
        stuff=coco.FINE_STUFF,
        tasks=frozenset({SEMANTIC}),
        **folder_parts(found, numbers if own else None),
    )


@dataclass(frozen=True)
class ClassMapTruth(FolderTruth):
    """Maps whose values count the classes of a JSON from 0.

    Args:
        ignore: Value that is void.
    """

    ignore: int = 255

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError as ``Truth.read``."""
        path = self.path(image_id)
        values = read_label_png(path)
        count = len(self.names)
        expected = f"0..{count - 1} or {self.ignore} (void), as the JSON of classes says"
        check_values(path, values, [*range(count), self.ignore], expected)
        classes = values.astype(np.int32) + 1
        classes[values == self.ignore] = 0
        return class_segments(classes)


def open_class_maps(classes: Path, maps: Path) -> ClassMapTruth:
    """Return the truth of a folder of 8-bit maps and a JSON that names their values.

    Args:
        classes: JSON with ``classes`` (``id`` 0..C-1, ``name``) and ``ignore_index``.
        maps: Folder of PNGs; a map has its photograph's name. Class ids are the values plus 1.

    Raises:
        UserError: if the folder holds no PNG, or the JSON is missing or garbled.
    """
    found = find_maps(maps, ".png", "8-bit PNGs of classes")
    known = read_map_truth(maps, classes)
    names = dict(enumerate(known.names, start=1))
    return ClassMapTruth(
        source=maps,
        names=names,
        things=(),
        stuff=tuple(names),
        tasks=frozenset({SEMANTIC}),
        ignore=known.ignore,
        lists=(classes,),
        **folder_parts(found),
    )
