"""Predicted labels: result folders, and label folders scored as if a model had predicted them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.errors import UserError
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import (
    INSTANCES,
    SEMANTIC,
    TASKS,
    AnyTruth,
    TrueImage,
    Truth,
    check_shape,
    crop_map,
    crop_side,
    some,
)
from u2seg.evaluation.truth.coco import PanopticSet, read_panoptic_set
from u2seg.evaluation.truth.folders import find_maps
from u2seg.io.coco import check_score, image_sizes, read_instances, read_results, segmentation_rle
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import safe_join, stem_of
from u2seg.io.png import png_size, read_label_png
from u2seg.structures.labels import LabelSpace

PSEUDO_LABELS = "pseudo-labels"
"""``protocol.reference`` of an evaluation without ground truth."""
Record = dict[str, Any]
SPACE = "labelspace.json"
SCORES = (0.0, 1.0)
"""Range of scores of instances: the thresholds of votes lie in it."""


@dataclass(frozen=True)
class ResultFolders:
    """Where an evaluation reads (a result folder) and where it writes, if these differ."""

    predictions: Path
    output: Path


@dataclass(frozen=True)
class Predictions:
    """Predictions of a result folder or a label folder; class ids are clusters.

    ``instances``: image id -> COCO results with ``bbox``. ``has_stuff_maps``: whether maps of the
    semantic head vote for stuff. ``tasks``: what it can be scored on; not all for instances or
    stuff alone.
    """

    folder: Path
    panoptic: PanopticSet
    instances: dict[int, list[Record]]
    has_stuff_maps: bool
    tasks: frozenset[str] = TASKS

    def stuff_path(self, image_id: int) -> Path:
        """Return the path of an image's stuff map; UserError if its name leaves the folder."""
        return safe_join(self.folder / "stuff", self.panoptic.file_names[image_id])

    def read_stuff(self, image_id: int) -> npt.NDArray[np.uint8]:
        """Return the (H, W) uint8 map of the semantic head: 0 any thing, 1..S stuff, 255 void."""
        path = self.stuff_path(image_id)
        stuff = read_label_png(path)
        check_shape(path, stuff.shape, self.panoptic.sizes[image_id], "the true map has")
        count = len(self.panoptic.stuff)
        strange = np.unique(stuff[(stuff > count) & (stuff < 255)])
        if strange.size:
            raise UserError(
                f"{path} holds the value {some(strange.tolist())}, but there are {count} stuff "
                "clusters (0 = any thing, 255 = void)"
            )
        return crop_map(stuff, self.panoptic.side) if self.panoptic.side else stuff


def read_predictions(folder: Path, truth: Truth) -> Predictions:
    """Return the predictions in a result folder, or the labels in a label folder.

    A result folder has ``panoptic.json``, ``panoptic/``, ``instances.json``, and optionally
    ``stuff/`` and ``labelspace.json``; without things it needs no instances. UserError if a file is
    missing or garbled, speaks of an image that the truth lacks, or disagrees with the others.
    """
    if _is_labels(folder):
        return read_labels(folder, truth)
    if not (folder / "panoptic.json").is_file():  # written last: without it all is unfinished
        raise UserError(
            f"{folder} holds no panoptic.json: give the result folder of an evaluation run, or "
            "the output folder of u2seg label"
        )
    panoptic, tasks = _panoptic_part(folder)
    _check_images(panoptic.source, panoptic.segments, truth)
    instances: dict[int, list[Record]] = {}
    source = folder / "instances.json"
    if INSTANCES in tasks:
        sizes = {image_id: truth.sizes[image_id] for image_id in truth.stems}
        results = read_results(source, {**panoptic.sizes, **sizes}, panoptic.things, SCORES)
        _check_images(source, {r["image_id"] for r in results}, truth)
        for result in results:
            image_id = result["image_id"]
            row = compressed_result(result, sizes[image_id])
            instances.setdefault(image_id, []).append(row)
    return Predictions(folder, panoptic, instances, (folder / "stuff").is_dir(), tasks)


def _is_labels(folder: Path) -> bool:
    return any((folder / "panoptic" / name).is_file() for name in ("panoptic.json", SPACE))


def read_labels(folder: Path, truth: Truth) -> Predictions:
    """Return the labels of a labelling run as predictions.

    Images are paired with the truth's by file name (without suffix); others are passed over. A
    label without a score has 1.
    """
    root = Path(folder) / "panoptic"
    if not _is_labels(folder):
        raise UserError(
            f"{folder} holds no panoptic/panoptic.json: expected the output folder of a finished "
            "u2seg label"
        )
    whole, tasks = _panoptic_part(root)
    instances: dict[int, list[Record]] = {}
    path = root / "instances.json"
    if tasks == {INSTANCES}:
        images = read_instances(path, whole.things)["images"]
        stems = {image["id"]: stem_of(image["file_name"]) for image in images}
        whole = replace(whole, stems=stems, sizes=image_sizes(images), file_names={}, segments={})
    panoptic, pairs = _paired(whole, truth)
    if INSTANCES not in tasks:
        return Predictions(Path(folder), panoptic, instances, False, tasks)
    content = read_instances(path, whole.things)
    names = {image["id"]: stem_of(image["file_name"]) for image in content["images"]}
    ids = {whole.stems[own]: true_id for true_id, own in pairs.items()}
    for record in content["annotations"]:
        true_id = ids.get(names[record["image_id"]])
        if true_id is not None and not record.get("iscrowd"):
            result = {"score": 1.0, **record, "image_id": true_id}
            check_score(f"{path}: the annotation of id {record['id']}", result, *SCORES)
            row = compressed_result(result, panoptic.sizes[true_id])
            instances.setdefault(true_id, []).append(row)
    return Predictions(Path(folder), panoptic, instances, False, tasks)


def _panoptic_part(root: Path) -> tuple[PanopticSet, frozenset[str]]:
    """Return the panoptic part of a folder and what can be scored, from whatever it holds."""
    source, path = root / "panoptic.json", root / SPACE
    space = LabelSpace.from_json(read_json_object(path)) if path.is_file() else None
    if source.is_file():
        panoptic = read_panoptic_set(source, root / "panoptic")
        found = (len(panoptic.things), len(panoptic.stuff))
        if space and found != (space.num_things, space.num_stuff):
            raise UserError(
                f"{path} has {space.num_things} things and {space.num_stuff} stuff, "
                f"{panoptic.source} {found[0]} and {found[1]}: they come from different models"
            )
        return panoptic, TASKS if panoptic.things else frozenset({SEMANTIC})
    if space is None:
        raise UserError(f"{root} holds neither panoptic.json nor {SPACE}, which names clusters")
    things, stuff = range(1, space.num_things + 1), range(1, space.num_stuff + 1)
    tasks = {INSTANCES} if (root / "instances.json").is_file() else {SEMANTIC}
    maps = {} if INSTANCES in tasks else find_maps(root / "stuff", ".png", "8-bit label maps")
    ids = dict(enumerate(maps, start=1))
    segments = {i: TruthSegment(space.num_things + i, 0) for i in stuff}
    panoptic = PanopticSet(
        source=path,
        pngs=root / "stuff",
        names={i: space.name(i) for i in range(1, space.num_things + space.num_stuff + 1)},
        things=tuple(things),
        stuff=tuple(space.num_things + i for i in stuff),
        stems=ids,
        sizes={i: png_size(maps[stem]) for i, stem in ids.items()},
        segments=dict.fromkeys(ids, segments),
        file_names={i: f"{stem}.png" for i, stem in ids.items()},
        semantic=True,
    )
    return panoptic, frozenset(tasks)


def _paired(found: PanopticSet, truth: Truth) -> tuple[PanopticSet, dict[int, int]]:
    """Return labels under the image ids of the truth, joined by names, and true id -> own id."""
    by_stem = {stem: image_id for image_id, stem in found.stems.items()}
    pairs = {i: by_stem[stem] for i, stem in sorted(truth.stems.items()) if stem in by_stem}
    if not pairs:
        raise UserError(
            f"none of the {len(by_stem)} images of {found.source} is in {truth.source} (compared "
            "by file name): label the photographs of the truth to score labels directly"
        )
    for true_id, own in pairs.items():
        if tuple(found.sizes[own]) != tuple(truth.sizes[true_id]):
            raise UserError(
                f"{found.source}: image {found.stems[own]} is {found.sizes[own]}, the true image "
                f"{truth.sizes[true_id]} (height, width)"
            )
    kept = {
        name: {i: rows[own] for i, own in pairs.items() if own in rows}
        for name in ("stems", "segments", "file_names", "sizes")
        for rows in [getattr(found, name)]
    }
    moved: PanopticSet = replace(found, **cast("dict[str, Any]", kept))
    return moved, pairs


@dataclass(frozen=True)
class TasksAlone:
    """A ``View`` that leaves an image as it is, and allows some tasks."""

    tasks: frozenset[str]

    def __call__(self, image: TrueImage) -> TrueImage:
        """Return the image."""
        return image


def scored_on(truth: AnyTruth, predicted: Predictions) -> AnyTruth:
    """Return a truth of the tasks that predictions can be scored on; UserError if there is none."""
    if truth.tasks <= predicted.tasks:
        return truth
    if not truth.tasks & predicted.tasks:
        raise UserError(
            f"{predicted.folder} can be scored on {' and '.join(sorted(predicted.tasks))} alone, "
            f"{truth.source} answers {' and '.join(sorted(truth.tasks))}"
        )
    return replace(truth, views=(*truth.views, TasksAlone(predicted.tasks)))


def compressed_result(result: Record, size: tuple[int, int]) -> Record:
    """Return a COCO result with a compressed RLE and a box, taken from the mask if missing."""
    rle = segmentation_rle(result["segmentation"], size)
    box = result["bbox"] if "bbox" in result else coco_mask.toBbox(rle).tolist()
    return {**result, "segmentation": rle, "bbox": box}


def cropped(predicted: Predictions, truth: Truth) -> Predictions:
    """Return predictions as the truth needs them: on the square, if it is on one."""
    side = crop_side(truth)
    if not side:
        return predicted
    panoptic = predicted.panoptic
    for image_id in panoptic.segments:
        size, who = truth.sizes[image_id], "the truth, before the crop, has"
        check_shape(panoptic.path(image_id), panoptic.sizes[image_id], size, who)
    return replace(predicted, panoptic=replace(panoptic, side=side))


def check_maps(truth: Truth, predicted: Predictions, image_ids: Iterable[int]) -> None:
    """Refuse maps that are missing, or whose headers have another size; decodes nothing."""
    panoptic = predicted.panoptic
    for image_id in image_ids:
        size, path = truth.sizes[image_id], truth.path(image_id)
        if path.suffix == ".png":
            check_shape(path, png_size(path), size, f"{truth.source} declares")
        if image_id not in panoptic.segments:
            continue
        path, declared = panoptic.path(image_id), panoptic.sizes[image_id]
        check_shape(path, png_size(path), declared, f"{panoptic.source} declares")
        check_shape(path, declared, size, "the true map has")
        if predicted.has_stuff_maps:
            path = predicted.stuff_path(image_id)
            check_shape(path, png_size(path), size, "the true map has")


def _check_images(source: Path, image_ids: Iterable[int], truth: Truth) -> None:
    strange = set(image_ids) - set(truth.stems)
    if strange:
        raise UserError(
            f"{source} speaks of image id {some(strange)}, which {truth.source} does not "
            "annotate: these predictions belong to another data set"
        )
