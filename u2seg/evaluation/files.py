"""Read truth and predictions, and refuse what does not fit together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.errors import UserError
from u2seg.evaluation.overlap import Overlap
from u2seg.evaluation.panoptic import TruthSegment
from u2seg.evaluation.truth import TASKS, TrueImage, Truth
from u2seg.io.coco import image_sizes, read_panoptic, read_results, segmentation_rle
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import Folder, safe_join, stem_of
from u2seg.io.png import FAST_FROM, read_label_png, read_panoptic_png
from u2seg.structures.labels import VOID_ID, LabelSpace

logger = logging.getLogger(__name__)
AREA_OFF = 0.01
"""Share of a true segment's pixels by which the JSON's area may be off: tools round polygons."""
PSEUDO_LABELS = "pseudo-labels"
"""``protocol.reference`` of an evaluation without ground truth."""
SCORES = (0.0, 1.0)
"""Range of scores of instances: the thresholds of votes lie in it."""
SHOWN = 5
"""Ids named in a message."""


@dataclass(frozen=True)
class GroundTruth:
    """Where a COCO-panoptic truth lies.

    Args:
        panoptic_json: COCO panoptic annotations; images without an annotation are not scored.
        panoptic_pngs: Folder of the RGB id maps the JSON names.
    """

    panoptic_json: Path
    panoptic_pngs: Path


@dataclass(frozen=True)
class ResultFolders:
    """Where an evaluation reads and where it writes, if these differ.

    Args:
        predictions: The result folder.
        output: Gets everything that is written; made if missing.
    """

    predictions: Path
    output: Path


@dataclass(frozen=True)
class PanopticSet:
    """A COCO panoptic file in memory, a ``Truth``; PNGs are read one at a time.

    Args:
        source: The JSON, named in messages.
        pngs: Folder of its PNGs.
        names: Class id -> name, things first as in the file.
        things, stuff: Class ids.
        segments: Image id -> segment id -> segment, in the order of the JSON.
        file_names: Image id -> PNG, relative to ``pngs``.
        sizes: Image id -> (H, W) as the JSON declares it.
        tasks: What it can answer as truth.
    """

    source: Path
    pngs: Path
    names: dict[int, str]
    things: tuple[int, ...]
    stuff: tuple[int, ...]
    segments: dict[int, dict[int, TruthSegment]]
    file_names: dict[int, str]
    sizes: dict[int, tuple[int, int]]
    tasks: frozenset[str] = TASKS

    @functools.cached_property
    def stems(self) -> dict[int, str]:
        """Image id -> file name without suffix, of the annotated images."""
        return {image_id: stem_of(self.file_names[image_id]) for image_id in self.segments}

    def read(self, image_id: int) -> TrueImage:
        """Return the ids and segments of an image; UserError as ``read_ids``."""
        return TrueImage(self.read_ids(image_id), self.segments[image_id])

    def read_ids(self, image_id: int) -> npt.NDArray[np.int32]:
        """Return the (H, W) int32 id map of an image.

        Raises:
            UserError: if the PNG is missing or unreadable, or has another size than the JSON
                declares for the image.
        """
        path = self.path(image_id)
        ids = read_panoptic_png(path, fast=len(self.segments) >= FAST_FROM)
        check_shape(path, ids.shape, self.sizes[image_id], f"{self.source} declares")
        return ids

    @property
    def lists(self) -> tuple[Path, ...]:
        """Files besides the JSON and the PNGs: none."""
        return ()

    def path(self, image_id: int) -> Path:
        """Return the path of an image's PNG; UserError if its name leaves the folder."""
        return self._folder.join(self.file_names[image_id])

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the PNG of an image; UserError as ``path``."""
        return (self.path(image_id),)

    @functools.cached_property
    def _folder(self) -> Folder:
        return Folder(self.pngs)

    def check_ids(self, image_id: int, found: Iterable[int], every: bool = False) -> None:
        """Raise UserError if a PNG holds an id that the JSON lacks (or, ``every``, vice versa).

        Args:
            image_id: The image.
            found: Ids in its PNG, 0 allowed.
            every: Also ask that each segment of the JSON has a pixel.
        """
        check_ids(self, image_id, self.segments[image_id], found)
        missing = set(self.segments[image_id]) - set(found) if every else set()
        if missing:
            raise UserError(
                f"{self.source}: segment id {some(missing)} of image {image_id} has no "
                f"pixel in {self.path(image_id)}"
            )


def check_ids(truth: Truth, image_id: int, segments: Iterable[int], found: Iterable[int]) -> None:
    """Raise UserError if a map holds an id, other than 0, that is none of ``segments``."""
    strange = set(found) - {VOID_ID} - set(segments)
    if strange:
        raise UserError(
            f"{truth.path(image_id)} holds segment id {some(strange)}, which "
            f"{truth.source} does not list for image {image_id}"
        )


@dataclass(frozen=True)
class Predictions:
    """A result folder.

    Args:
        folder: The folder.
        panoptic: Its panoptic part; class ids are clusters.
        instances: Image id -> COCO results with ``bbox``.
        has_stuff_maps: Whether ``stuff/`` exists.
    """

    folder: Path
    panoptic: PanopticSet
    instances: dict[int, list[dict[str, Any]]]
    has_stuff_maps: bool

    def stuff_path(self, image_id: int) -> Path:
        """Return the path of an image's stuff map; UserError if its name leaves the folder."""
        return safe_join(self.folder / "stuff", self.panoptic.file_names[image_id])

    def read_stuff(self, image_id: int, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return the (H, W) uint8 map of the semantic head: 0 any thing, 1..S stuff, 255 void.

        Raises:
            UserError: if it is missing, unreadable, of another shape or holds a value above S.
        """
        path = self.stuff_path(image_id)
        stuff = read_label_png(path, fast=len(self.panoptic.segments) >= FAST_FROM)
        check_shape(path, stuff.shape, shape, "the true map has")
        count = len(self.panoptic.stuff)
        strange = np.unique(stuff[(stuff > count) & (stuff < 255)])
        if strange.size:
            raise UserError(
                f"{path} holds the value {some(strange.tolist())}, but there are {count} stuff "
                "clusters (0 = any thing, 255 = void)"
            )
        return stuff


def read_truth(truth: GroundTruth) -> PanopticSet:
    """Return the truth.

    Raises:
        UserError: if a file is missing or garbled; or as ``check_true_segments``.
    """
    if not Path(truth.panoptic_pngs).is_dir():
        raise UserError(f"the folder of true PNGs, {truth.panoptic_pngs}, does not exist")
    result = read_panoptic_set(Path(truth.panoptic_json), Path(truth.panoptic_pngs))
    check_true_segments(result)
    return result


def check_true_segments(truth: PanopticSet) -> None:
    """Refuse a truth of COCO panoptic files that has nothing to score, or areas that cannot be.

    Raises:
        UserError: if no image is annotated, no image has a segment, or a segment has the area 0
            or more pixels than its image.
    """
    if not truth.segments:
        raise UserError(f"{truth.source} annotates no image: nothing to evaluate on")
    if not any(truth.segments.values()):
        raise UserError(
            f"{truth.source}: none of its {len(truth.segments)} annotated images has a segment, "
            "so all is void: nothing to evaluate on"
        )
    for image_id, segments in truth.segments.items():
        height, width = truth.sizes[image_id]
        odd = [i for i, s in segments.items() if not 1 <= s.area <= height * width]
        if odd:
            raise UserError(
                f"{truth.source}: segment id {some(odd)} of image {image_id} has the area "
                f"{segments[min(odd)].area}, expected its number of pixels, 1..{height * width}: "
                "panoptic quality rests on the areas of the JSON, so write them there or leave "
                "the segment out"
            )


def settled_areas(
    truth: Truth, image_id: int, segments: Mapping[int, TruthSegment], overlap: Overlap
) -> dict[int, TruthSegment]:
    """Return true segments with their numbers of pixels in the map as areas.

    panopticapi counts with the areas of the JSON and never looks at the map, so a JSON that does
    not belong to its maps gives figures without meaning, above 100 % too. What a tool has rounded
    is mended, and told once.

    Args:
        truth: For the message.
        image_id: The image.
        segments: Of the image.
        overlap: The map against any other.

    Raises:
        UserError: if an area differs by more than ``AREA_OFF`` of its pixels; names the segment
            and both numbers.
    """
    found = dict.fromkeys(segments, 0)
    for segment, pixels in zip(overlap.truth.tolist(), overlap.pixels.tolist(), strict=True):
        if segment in found:
            found[segment] += pixels
    off = {i: abs(segment.area - found[i]) for i, segment in segments.items()}
    odd = [i for i, pixels in off.items() if pixels > AREA_OFF * found[i]]
    if odd:
        first = min(odd)
        raise UserError(
            f"{truth.source}: segment id {some(odd)} of image {image_id} has the area "
            f"{segments[first].area}, but {found[first]} pixels in {truth.path(image_id)}: the "
            "JSON and the maps do not belong together, or the areas were not written anew after "
            "a map was changed"
        )
    if any(off.values()):
        _tell_rounded(str(truth.source))
    return {i: replace(segment, area=found[i]) for i, segment in segments.items()}


@functools.cache
def _tell_rounded(source: str) -> None:
    logger.warning("%s: some areas differ a little from the maps; pixels are counted", source)


def read_predictions(folder: Path, truth: Truth) -> Predictions:
    """Return the predictions in a result folder.

    Args:
        folder: Holds ``panoptic.json``, ``panoptic/``, ``instances.json``, and optionally
            ``stuff/`` and ``labelspace.json``.
        truth: What they are to be compared with.

    Raises:
        UserError: if a file is missing or garbled, speaks of an image that the truth does not
            annotate, has a mask of another size or a score outside 0..1, or disagrees with
            ``labelspace.json``.
    """
    if not (folder / "panoptic.json").is_file():
        raise UserError(
            f"{folder} holds no panoptic.json: give the result folder of an evaluation run"
        )
    panoptic = read_panoptic_set(folder / "panoptic.json", folder / "panoptic")
    _check_images(panoptic.source, panoptic.segments, truth)
    _check_label_space(folder, panoptic)
    sizes = {image_id: truth.sizes[image_id] for image_id in truth.stems}
    source = folder / "instances.json"
    results = read_results(source, {**panoptic.sizes, **sizes}, panoptic.things, SCORES)
    _check_images(source, {r["image_id"] for r in results}, truth)
    instances: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        instances.setdefault(result["image_id"], []).append(
            compressed_result(result, sizes[result["image_id"]])
        )
    return Predictions(folder, panoptic, instances, (folder / "stuff").is_dir())


def compressed_result(result: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return a COCO result with a compressed RLE and a box, taken from the mask if missing."""
    rle = segmentation_rle(result["segmentation"], size)
    box = result["bbox"] if "bbox" in result else coco_mask.toBbox(rle).tolist()
    return {**result, "segmentation": rle, "bbox": box}


def check_shape(path: Path, found: tuple[int, ...], expected: tuple[int, ...], who: str) -> None:
    """Raise UserError if a map's (H, W) is not the expected one."""
    if tuple(found) != tuple(expected):
        raise UserError(
            f"{path} is {found[1]} x {found[0]} pixels, {who} {expected[1]} x {expected[0]} "
            "(width x height)"
        )


def read_panoptic_set(source: Path, pngs: Path) -> PanopticSet:
    """Return a COCO panoptic file; UserError if it is missing or garbled."""
    return panoptic_set(read_panoptic(source), source, pngs)


def panoptic_set(content: dict[str, Any], source: Path, pngs: Path) -> PanopticSet:
    """Return the checked content of a COCO panoptic file, whose PNGs are in a folder."""
    annotations = {record["image_id"]: record for record in content["annotations"]}
    categories = sorted(content["categories"], key=lambda c: (not c["isthing"], c["id"]))
    return PanopticSet(
        source=source,
        pngs=pngs,
        names={c["id"]: c["name"] for c in categories},
        things=tuple(c["id"] for c in categories if c["isthing"]),
        stuff=tuple(c["id"] for c in categories if not c["isthing"]),
        segments={i: _segments(record) for i, record in sorted(annotations.items())},
        file_names={i: record["file_name"] for i, record in annotations.items()},
        sizes=image_sizes(content["images"]),
    )


def _segments(annotation: dict[str, Any]) -> dict[int, TruthSegment]:
    return {
        s["id"]: TruthSegment(s["category_id"], int(s["area"]), bool(s.get("iscrowd", 0)))
        for s in annotation["segments_info"]
    }


def _check_images(source: Path, image_ids: Iterable[int], truth: Truth) -> None:
    strange = set(image_ids) - set(truth.stems)
    if strange:
        raise UserError(
            f"{source} speaks of image id {some(strange)}, which {truth.source} does not "
            "annotate: these predictions belong to another data set"
        )


def _check_label_space(folder: Path, panoptic: PanopticSet) -> None:
    path = folder / "labelspace.json"
    if not path.is_file():
        return
    space = LabelSpace.from_json(read_json_object(path))
    found = (len(panoptic.things), len(panoptic.stuff))
    if found != (space.num_things, space.num_stuff):
        raise UserError(
            f"{path} has {space.num_things} things and {space.num_stuff} stuff, "
            f"{panoptic.source} {found[0]} and {found[1]}: they come from different models"
        )


def some(ids: Iterable[int]) -> str:
    """Return the first ids as text, and how many more there are."""
    ordered = sorted(ids)
    shown = ", ".join(str(i) for i in ordered[:SHOWN])
    return shown if len(ordered) <= SHOWN else f"{shown} and {len(ordered) - SHOWN} more"


def by_name(names: Mapping[int, str], values: Mapping[int, Any]) -> dict[str, Any]:
    """Return values by class name; of classes that share a name, by ``name (id)``.

    Examples:
        >>> by_name({1: "cat", 2: "dog", 3: "dog"}, {1: "a", 2: "b", 3: "c"})
        {'cat': 'a', 'dog (2)': 'b', 'dog (3)': 'c'}
    """
    every = list(names.values())
    return {
        names[i] if every.count(names[i]) == 1 else f"{names[i]} ({i})": value
        for i, value in values.items()
    }
