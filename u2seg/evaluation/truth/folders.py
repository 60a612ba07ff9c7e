"""Folders of PNGs as truth: COCO-Stuff, CamVid, VOC, Cityscapes, and the 2-channel format.

Sources: VOC 2012 development kit (``SegmentationClass`` and ``SegmentationObject`` are palette
PNGs, value 0 is background, 255 the border between objects); cityscapesScripts,
``helpers/labels.py`` and ``preparation/createPanopticImgs.py`` (commit 29be139); Kirillov et al.,
"Panoptic Segmentation", CVPR 2019, and panopticapi (commit 7bb4655), whose 2-channel sample data
have instance 255 for crowds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import (
    INSTANCES,
    SEMANTIC,
    TASKS,
    TrueImage,
    Truth,
    check_shape,
    some,
)
from u2seg.evaluation.truth.classes import vocabulary
from u2seg.evaluation.truth.coco import PanopticSet, check_folder, panoptic_truth
from u2seg.io.coco import check_panoptic, image_sizes
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import safe_join, stem_of
from u2seg.io.png import png_size, read_label_png, read_panoptic_png, read_wide_png
from u2seg.io.sources import find_files

Labels = npt.NDArray[Any]
VOID = 255
"""Value of unlabelled pixels in COCO-Stuff's maps, and of the border in VOC's."""
COCO_LABELS, COCO_THINGS = 182, 91
"""Labels of COCO-Stuff, of which the first 91 are things; a pixel's value is the label less 1."""
VOC_BACKGROUND = 21
CITYSCAPES_VOID = 7
"""Labels below are void."""
CITYSCAPES_THINGS = tuple(range(24, 34))
PER_CLASS = 1000
"""A Cityscapes instance has the value label x 1000 + n; smaller ones are labels alone."""
CHANNEL, CROWD = 256, 255
"""Values of a channel; instance number of the crowd of a thing in the 2-channel format."""


@dataclass(frozen=True, kw_only=True)
class FolderTruth(Truth):
    """A truth in a folder of PNGs: image id -> files, and what decodes them."""

    files: Mapping[int, tuple[Path, ...]]
    decode: Callable[..., TrueImage]

    def _maps(self, number: int) -> tuple[Path, ...]:
        return self.files[number]

    def _read(self, number: int, size: tuple[int, int]) -> TrueImage:
        image = self.decode(*self.files[number])
        check_shape(self.files[number][0], image.ids.shape, size, f"{self.source} declares")
        return image


def folder_parts(
    maps: Mapping[str, Path], image_ids: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return ``files``, ``stems`` and ``sizes`` of a ``FolderTruth`` of stem -> PNG.

    Without ``image_ids`` (stem -> id) they are 1, 2, ... in the order of the stems.
    """
    ids = image_ids or {stem: number for number, stem in enumerate(sorted(maps), start=1)}
    return {
        "files": {ids[stem]: (maps[stem],) for stem in sorted(maps)},
        "stems": {ids[stem]: stem for stem in sorted(maps)},
        "sizes": {ids[stem]: png_size(maps[stem]) for stem in sorted(maps)},
    }


def find_maps(folder: Path, ending: str, what: str) -> dict[str, Path]:
    """Return relative name without ``ending`` -> file; UserError if there is none."""
    check_folder(folder, what)
    found = [name for name in find_files(folder, (ending.lower(),)) if name.endswith(ending)]
    if not found:
        raise UserError(f"{folder} holds no *{ending}: expected {what}")
    return {name[: -len(ending)]: folder / name for name in found}


def read_names(path: Path) -> list[str]:
    """Return the names in a text file, the first word of each line; UserError if one is twice."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {error}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} names no image: expected one name a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names {twice} twice")
    return names


def chosen_maps(maps: Mapping[str, Path], names: Sequence[str], source: Path) -> dict[str, Path]:
    """Return the maps that a list names; UserError if one is missing."""
    missing = [name for name in names if name not in maps]
    if missing:
        folder = next(iter(maps.values())).parent
        raise UserError(
            f"{source} names {missing[0]} (and {len(missing) - 1} more), of which {folder} has "
            "no map: the list belongs to another folder"
        )
    return {name: maps[name] for name in names}


def check_values(path: Path, labels: Labels, known: Collection[int], what: str) -> None:
    """Raise UserError if a map holds a value that is none of ``known``."""
    strange = np.setdiff1d(np.unique(labels), np.array(sorted(known)))
    if strange.size:
        raise UserError(f"{path} holds the value {some(strange.tolist())}, expected {what}")


def map_segments(
    ids: npt.NDArray[np.int32], segment: Callable[[int, int], TruthSegment] = TruthSegment
) -> TrueImage:
    """Return the truth of a map of ids, 0 = void; ``segment`` makes one of an id and its pixels.

    By default an id is a class, of which an image has one segment.
    """
    found, counts = np.unique(ids, return_counts=True)
    pairs = zip(found.tolist(), counts.tolist(), strict=True)
    return TrueImage(ids, {i: segment(i, area) for i, area in pairs if i})


def decode_class_map(path: Path, count: int, ignore: int, expected: str) -> TrueImage:
    """Return the truth of an 8-bit map of values 0..count-1, whose class ids are one above."""
    values = read_label_png(path)
    check_values(path, values, {*range(count), ignore}, expected)
    return map_segments(np.where(values == ignore, 0, values.astype(np.int32) + 1).astype(np.int32))


def open_cocostuff(maps: Path, names: Path | None = None) -> FolderTruth:
    """Return the truth in COCO-Stuff's own maps, such as ``stuffthingmaps/val2017``.

    ``names`` lists the images to score, a name a line, such as STEGO's curated list; None = all. An
    image whose name is a number has it as id, as in COCO.
    """
    found = find_maps(maps, ".png", "the PNGs of COCO-Stuff's stuffthingmaps")
    if names is not None:
        found = chosen_maps(found, read_names(names), names)
    numbers = {stem: int(stem) if stem.isascii() and stem.isdigit() else 0 for stem in found}
    own = all(numbers.values()) and len(set(numbers.values())) == len(numbers)
    known = vocabulary("coco")
    expected = f"0..{COCO_LABELS - 1} (label - 1) or {VOID} (unlabelled)"
    return FolderTruth(
        source=names or maps,
        names={i: known[i] for i in range(1, COCO_LABELS + 1)},
        things=tuple(range(1, COCO_THINGS + 1)),
        stuff=tuple(range(COCO_THINGS + 1, COCO_LABELS + 1)),
        own_tasks=frozenset({SEMANTIC}),
        decode=partial(decode_class_map, count=COCO_LABELS, ignore=VOID, expected=expected),
        **folder_parts(found, numbers if own else None),
    )


def read_class_list(path: Path) -> tuple[tuple[str, ...], int]:
    """Return the names of classes 0..C-1 and the value that is not scored, from a JSON.

    It has ``classes``, a list of ``id`` (0..C-1) and ``name``, and ``ignore_index``.
    """
    content = read_json_object(path, "classes", "ignore_index")
    try:
        names = {int(row["id"]): str(row["name"]) for row in content["classes"]}
        ignore = int(content["ignore_index"])
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: each of classes needs a number 'id' and a 'name', and ignore_index is a "
            f"number ({error!r})"
        ) from error
    if not names or sorted(names) != list(range(len(names))) or ignore in names:
        raise UserError(
            f"{path}: ids are {sorted(names)[:20]}, expected 0..C-1 and another ignore_index "
            f"than {ignore}"
        )
    return tuple(names[i] for i in range(len(names))), ignore


def open_class_maps(classes: Path, maps: Path) -> FolderTruth:
    """Return the truth of 8-bit maps named by a ``read_class_list``; ids are values plus 1."""
    found = find_maps(maps, ".png", "8-bit PNGs of classes")
    words, ignore = read_class_list(classes)
    expected = f"0..{len(words) - 1} or {ignore} (void), as the JSON of classes says"
    names = dict(enumerate(words, start=1))
    return FolderTruth(
        source=maps,
        names=names,
        things=(),
        stuff=tuple(names),
        own_tasks=frozenset({SEMANTIC}),
        lists=(classes,),
        decode=partial(decode_class_map, count=len(words), ignore=ignore, expected=expected),
        **folder_parts(found),
    )


def open_voc(names: Path, classes: Path) -> FolderTruth:
    """Return the truth in VOC's PNGs that a list names, e.g. ``ImageSets/Segmentation/val.txt``.

    Objects are read from ``SegmentationObject`` beside ``SegmentationClass``; without that folder
    the truth answers the semantic task alone.
    """
    found = find_maps(classes, ".png", "the PNGs of SegmentationClass")
    stems = read_names(names)
    parts = folder_parts(chosen_maps(found, stems, names))
    tasks, folder = {SEMANTIC}, classes.parent / "SegmentationObject"
    if folder.is_dir():
        every = find_maps(folder, ".png", "the PNGs of SegmentationObject")
        objects = chosen_maps(every, stems, names)
        for i, stem in parts["stems"].items():
            parts["files"][i] += (objects[stem],)
        tasks.add(INSTANCES)
    return FolderTruth(
        source=names,
        names=vocabulary("voc"),
        things=tuple(range(1, VOC_BACKGROUND)),
        stuff=(VOC_BACKGROUND,),
        own_tasks=frozenset(tasks),
        decode=decode_voc,
        **parts,
    )


def decode_voc(path: Path, objects_path: Path | None = None) -> TrueImage:
    """Return the truth of a map of classes, or of that and a map of objects.

    With objects there is a segment for every object, its id the object's plus 1, and one for the
    background; a pixel that has a class but no object, or an object but no class, is void.
    """
    values = read_label_png(path)
    known = (*range(VOC_BACKGROUND), VOID)
    check_values(path, values, known, "0 (background), 1..20 or 255 (border)")
    classes = values.astype(np.int32)
    classes[values == 0] = VOC_BACKGROUND
    classes[values == VOID] = 0
    if objects_path is None:
        return map_segments(classes)
    objects = read_label_png(objects_path)
    check_shape(objects_path, objects.shape, classes.shape, f"{path} has")
    ids = np.zeros(classes.shape, dtype=np.int32)
    thing = (classes > 0) & (classes < VOC_BACKGROUND) & (objects != 0) & (objects != VOID)
    ids[thing] = objects[thing].astype(np.int32) + 1
    ids[(classes == VOC_BACKGROUND) & (objects == 0)] = 1
    pairs = np.unique(np.stack([ids[ids > 0], classes[ids > 0]]), axis=1)
    category: dict[int, int] = {}
    for identity, found in zip(*pairs.tolist(), strict=True):
        if identity in category:
            raise UserError(
                f"{objects_path}: object {identity - 1} lies on class {category[identity]} and "
                f"on class {found} of the map of classes: the two folders do not belong together"
            )
        category[identity] = found
    return map_segments(ids, lambda i, area: TruthSegment(category[i], area))


def open_cityscapes(folder: Path) -> FolderTruth:
    """Return the truth in a split such as ``gtFine/val``: a folder a city.

    Without maps of instance ids those of label ids are read: the semantic task alone.
    """
    endings = ("_gtFine_instanceIds.png", "_gtFine_labelIds.png")
    instances = folder.is_dir() and any(folder.rglob(f"*{endings[0]}"))
    what = f"*{endings[0]} or *{endings[1]}, a folder a city"
    found = find_maps(folder, endings[not instances], what)
    names = vocabulary("cityscapes")
    stuff = tuple(i for i in names if CITYSCAPES_VOID <= i < CITYSCAPES_THINGS[0])
    return FolderTruth(
        source=folder,
        names={i: names[i] for i in (*CITYSCAPES_THINGS, *stuff)},
        things=CITYSCAPES_THINGS,
        stuff=stuff,
        own_tasks=TASKS if instances else frozenset({SEMANTIC}),
        decode=partial(decode_cityscapes, instances=instances),
        **folder_parts({f"{stem}_leftImg8bit": path for stem, path in found.items()}),
    )


def decode_cityscapes(path: Path, instances: bool) -> TrueImage:
    """Return the truth of a map of instance ids or label ids; labels 0..6 are void.

    A thing without instance number is a group, i.e. a crowd.
    """
    values = read_wide_png(path)
    labels = np.where(values < PER_CLASS, values, values // PER_CLASS)
    known = np.isin(labels, range(len(vocabulary("cityscapes"))))
    check_values(
        path, values[~known], (), "Cityscapes labels 0..33, or label x 1000 + n for an instance"
    )
    kept = np.where(labels < CITYSCAPES_VOID, 0, values if instances else labels).astype(np.int32)
    return map_segments(kept, _cityscapes_segment if instances else TruthSegment)


def _cityscapes_segment(value: int, area: int) -> TruthSegment:
    label = value if value < PER_CLASS else value // PER_CLASS
    return TruthSegment(label, area, crowd=value < PER_CLASS and label in CITYSCAPES_THINGS)


def open_cityscapes_panoptic(annotations: Path, pngs: Path) -> PanopticSet:
    """Return the truth in the panoptic files of Cityscapes' script, with label or train ids.

    They are COCO's format but for two things that are mended here: an image's id is its name
    (images are numbered in the order of their names instead), and its ``file_name`` is without the
    folder of the city and with ``_gtFine``. Files that were rewritten already are taken too.
    """
    content = read_json_object(annotations, "images", "annotations", "categories")
    try:
        mended = _mended(content)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{annotations}: expected the panoptic files of cityscapesscripts, images with id, "
            f"file_name, annotations with image_id ({error!r})"
        ) from error
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
    # Train ids begin at 0, which is no class id here.
    shift = int(any(c["id"] == 0 for c in content["categories"]))
    annotations = [
        {
            **a,
            "image_id": numbers.get(str(a["image_id"]), a["image_id"]),
            "segments_info": [
                {**s, "category_id": s["category_id"] + shift} for s in a["segments_info"]
            ],
        }
        for a in content["annotations"]
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


def open_two_channel(images: Path, pngs: Path) -> FolderTruth:
    """Return the truth in 2-channel PNGs: red = category, green = instance.

    ``images`` is a JSON with ``images``, all of which are scored, and ``categories`` up to 255.
    """
    content: dict[str, Any] = read_json_object(images, "images", "categories")
    check_panoptic(images, {**content, "annotations": []})
    check_folder(pngs, "2-channel PNGs")
    if not content["images"]:
        raise UserError(f"{images} has no images: nothing to evaluate on")
    rows = sorted(content["categories"], key=lambda c: (not c["isthing"], c["id"]))
    strange = [row["id"] for row in rows if not 0 < row["id"] < CHANNEL]
    if strange:
        raise UserError(f"{images}: category {strange[0]} does not fit a channel, expected 1..255")
    stems = {image["id"]: stem_of(image["file_name"]) for image in content["images"]}
    names = {row["id"]: row["name"] for row in rows}
    things = tuple(row["id"] for row in rows if row["isthing"])
    return FolderTruth(
        source=images,
        names=names,
        things=things,
        stuff=tuple(i for i in names if i not in things),
        files={i: (safe_join(pngs, f"{stem}.png"),) for i, stem in stems.items()},
        stems=stems,
        sizes=image_sizes(content["images"]),
        decode=partial(decode_two_channel, categories=tuple(names), things=frozenset(things)),
    )


def decode_two_channel(
    path: Path, categories: tuple[int, ...], things: frozenset[int]
) -> TrueImage:
    """Return the truth of a 2-channel map; a segment's id is category + 256 x instance."""
    pairs = read_panoptic_png(path)
    expected = "in the red channel one of the JSON's categories or 0 (void)"
    check_values(path, pairs % CHANNEL, {0, *categories}, expected)
    ids = np.where(pairs % CHANNEL == 0, 0, pairs % CHANNEL**2).astype(np.int32)

    def segment(identity: int, area: int) -> TruthSegment:
        category, instance = identity % CHANNEL, identity // CHANNEL
        return TruthSegment(category, area, crowd=category in things and instance == CROWD)

    return map_segments(ids, segment)
