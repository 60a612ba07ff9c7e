"""What a truth is, whatever files it lies in, and how it is seen: in part, through views."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.metrics.overlap import Overlap
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.structures.labels import VOID_ID

logger = logging.getLogger(__name__)
PANOPTIC, SEMANTIC, INSTANCES = "panoptic", "semantic", "instances"
TASKS = frozenset({PANOPTIC, SEMANTIC, INSTANCES})
"""The tasks there are."""
AREA_OFF = 0.01
"""Share of a true segment's pixels by which the JSON's area may be off: tools round polygons."""
SHOWN = 5
"""Ids named in a message."""


@dataclass(frozen=True)
class TrueImage:
    """The truth of one image.

    ``ids`` is the (H, W) int32 map of segments, 0 = void; ``segments`` holds every other id, in the
    order of the file; ``instances`` are true instances as COCO annotations without ``id``, for
    data sets whose instances overlap (None = the thing segments of the map).
    """

    ids: npt.NDArray[np.int32]
    segments: dict[int, TruthSegment]
    instances: list[dict[str, Any]] | None = None


class View(Protocol):
    """How an image of a truth is seen: other classes, a crop."""

    @property
    def tasks(self) -> frozenset[str]:
        """The tasks that can be answered through it."""

    def __call__(self, image: TrueImage) -> TrueImage:
        """Return the image as it is seen."""


@dataclass(frozen=True, kw_only=True)
class Truth(ABC):
    """Annotated images. Small and picklable: images are read one at a time, by any process.

    Args:
        source: The file or folder that messages name.
        names: Class id (> 0) -> name, things first.
        things, stuff: Class ids.
        stems: Image id -> relative name of the photograph without suffix; exactly the images
            that are scored.
        sizes: Image id -> (H, W) of at least these.
        own_tasks: What the files can answer, a subset of ``TASKS``.
        lists: Files it was read from besides ``source`` and the maps.
        views: How images are seen, first to last.
        numbers: Image id -> id in the files, where they differ.
    """

    source: Path
    names: Mapping[int, str]
    things: tuple[int, ...]
    stuff: tuple[int, ...]
    stems: Mapping[int, str]
    sizes: Mapping[int, tuple[int, int]]
    own_tasks: frozenset[str] = TASKS
    lists: tuple[Path, ...] = ()
    views: tuple[View, ...] = ()
    numbers: Mapping[int, int] = field(default_factory=dict)

    @property
    def tasks(self) -> frozenset[str]:
        """What can be answered, through the views."""
        return self.own_tasks.intersection(*(view.tasks for view in self.views))

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the PNGs that ``read`` decodes for an image."""
        return self._maps(self.numbers.get(image_id, image_id))

    def path(self, image_id: int) -> Path:
        """Return the file that messages name for an image."""
        return (*self.maps(image_id), self.source)[0]

    def read(self, image_id: int) -> TrueImage:
        """Return the truth of an image; UserError if missing, garbled or of another size."""
        image = self._read(self.numbers.get(image_id, image_id), self.sizes[image_id])
        if image_id in self.numbers and image.instances is not None:
            image = replace(image, instances=[{**r, "image_id": image_id} for r in image.instances])
        for view in self.views:
            image = view(image)
        return image

    @abstractmethod
    def _maps(self, number: int) -> tuple[Path, ...]: ...

    @abstractmethod
    def _read(self, number: int, size: tuple[int, int]) -> TrueImage: ...


AnyTruth = TypeVar("AnyTruth", bound=Truth)


def subset(truth: AnyTruth, image_ids: Iterable[int]) -> AnyTruth:
    """Return a truth of which only some images are scored."""
    kept = set(image_ids)
    return replace(truth, stems={i: stem for i, stem in truth.stems.items() if i in kept})


def paired_by_stem(truth: AnyTruth, predicted: Mapping[int, str], source: Path) -> AnyTruth:
    """Return the truth with the image ids of predictions, joined by the photographs' names.

    Images without prediction get ids above all others. UserError, of ``source``, if two
    predictions (image id -> name without suffix) are of one name, or a name is not in the truth.
    """
    found = {stem: image_id for image_id, stem in predicted.items()}
    if len(found) < len(predicted):
        twice = next(stem for i, stem in predicted.items() if found[stem] != i)
        raise UserError(f"{source} has two predictions named {twice}: expected one a photograph")
    known = {stem: image_id for image_id, stem in truth.stems.items()}
    strange = sorted(set(found) - set(known))
    if strange:
        raise UserError(
            f"{source} has a prediction of {strange[0]} (and {len(strange) - 1} more), which "
            f"{truth.source} does not hold; its first image is {min(known)}. Predictions bear the "
            "names of the photographs, sub-folders included"
        )
    if all(found[stem] == known[stem] for stem in found):
        return truth
    following = max(found.values(), default=0) + 1
    rest = [stem for stem in known if stem not in found]
    found |= {stem: number for number, stem in enumerate(rest, start=following)}
    numbers = {number: known[stem] for stem, number in found.items()}
    return replace(
        truth,
        stems={new: truth.stems[old] for new, old in numbers.items()},
        sizes={new: truth.sizes[old] for new, old in numbers.items()},
        numbers=numbers,
    )


def check_ids(truth: Truth, image_id: int, segments: Iterable[int], found: Iterable[int]) -> None:
    """Raise UserError if a map holds an id, other than 0, that is none of ``segments``."""
    strange = set(found) - {VOID_ID} - set(segments)
    if strange:
        raise UserError(
            f"{truth.path(image_id)} holds segment id {some(strange)}, which "
            f"{truth.source} does not list for image {image_id}"
        )


def settled_areas(
    truth: Truth, image_id: int, segments: Mapping[int, TruthSegment], overlap: Overlap
) -> dict[int, TruthSegment]:
    """Return true segments with their numbers of pixels in the map as areas.

    panopticapi counts with the areas of the JSON and never looks at the map, so a JSON that does
    not belong to its maps gives figures without meaning, above 100 % too: UserError if an area is
    off by more than ``AREA_OFF``. What a tool has rounded is mended, and told once.
    """
    pixels = dict.fromkeys(segments, 0)
    for segment, number in zip(overlap.truth.tolist(), overlap.pixels.tolist(), strict=True):
        if segment in pixels:
            pixels[segment] += number
    off = {i: abs(segment.area - pixels[i]) for i, segment in segments.items()}
    odd = [i for i, difference in off.items() if difference > AREA_OFF * pixels[i]]
    if odd:
        first = min(odd)
        raise UserError(
            f"{truth.source}: segment id {some(odd)} of image {image_id} has the area "
            f"{segments[first].area}, but {pixels[first]} pixels in {truth.path(image_id)}: the "
            "JSON and the maps do not belong together, or the areas were not written anew after "
            "a map was changed"
        )
    if any(off.values()):
        _tell_rounded(str(truth.source))
    return {i: replace(segment, area=pixels[i]) for i, segment in segments.items()}


@functools.cache
def _tell_rounded(source: str) -> None:
    logger.warning("%s: some areas differ a little from the maps; pixels are counted", source)


def check_shape(path: Path, found: tuple[int, ...], expected: tuple[int, ...], who: str) -> None:
    """Raise UserError if a map's (H, W) is not the expected one."""
    if tuple(found) != tuple(expected):
        raise UserError(
            f"{path} is {found[1]} x {found[0]} pixels, {who} {expected[1]} x {expected[0]} "
            "(width x height)"
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


@dataclass(frozen=True)
class Crop:
    """A ``View`` on the square of ``crop_map``; the sizes of the truth stay those before it.

    STEGO's protocol of COCO-Stuff with 27 classes lets the model see that crop of the photograph.
    Here predictions are of whole photographs, and true and predicted maps are cropped alike; to
    let the model see crops, crop the photographs and the maps first. An instance that is cut is
    another instance, so the semantic task is left.
    """

    side: int
    tasks: frozenset[str] = frozenset({SEMANTIC})

    def __call__(self, image: TrueImage) -> TrueImage:
        """Return the cropped truth of an image."""
        ids = crop_map(image.ids, self.side)
        found, counts = np.unique(ids, return_counts=True)
        areas = dict(zip(found.tolist(), counts.tolist(), strict=True))
        segments = {i: replace(s, area=areas[i]) for i, s in image.segments.items() if i in areas}
        return TrueImage(ids, segments)


def crop_truth(truth: AnyTruth, side: int) -> AnyTruth:
    """Return a truth on the square; UserError if it does not answer the semantic task."""
    if SEMANTIC not in truth.tasks:
        raise UserError(
            f"U2SEG.EVAL.CROP is {side}, but {truth.source} answers "
            f"{' and '.join(sorted(truth.tasks))}: only the semantic task is scored on crops, set "
            "it to 0"
        )
    return replace(truth, views=(*truth.views, Crop(side)))


def crop_side(truth: Truth) -> int:
    """Return the side of the square that a truth is seen on; 0 = whole images."""
    return next((view.side for view in truth.views if isinstance(view, Crop)), 0)


def crop_map(labels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return a label map resized to a short side and cut to a (side, side) square from the middle.

    The short side becomes ``side``, the long one in proportion, rounded down; each pixel takes the
    label under its centre; of an odd remainder the larger part falls to the end, or, as Python
    rounds halves to even, to the start. So do STEGO (commit 10c5a06, ``get_transform``) and PiCIE
    with torchvision's ``Resize(320)`` and ``CenterCrop(320)`` on Pillow images.

    Examples:
        >>> crop_map(np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]), 2).tolist()
        [[3, 4], [9, 10]]
    """
    height, width = labels.shape
    short = min(height, width)
    rows = _nearest(height, side * height // short)
    columns = _nearest(width, side * width // short)
    return labels[np.ix_(_middle(rows, side), _middle(columns, side))]


def _nearest(old: int, new: int) -> npt.NDArray[np.int64]:
    """Return which of ``old`` pixels each of ``new`` takes: the one under its centre.

    Centres are summed up in steps, as Pillow does: where one falls on the border of two pixels,
    the rounding of that sum decides.
    """
    steps = np.full(new, old / new)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)


def _middle(indices: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.int64]:
    start = round((len(indices) - side) / 2)
    return indices[start : start + side]
