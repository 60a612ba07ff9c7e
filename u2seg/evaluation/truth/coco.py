"""COCO JSON as truth: panoptic, and instances that may overlap (COCO, UVO, VOC in COCO's form)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.metrics.panoptic import TruthSegment
from u2seg.evaluation.truth.base import (
    INSTANCES,
    TrueImage,
    Truth,
    check_ids,
    check_shape,
    crop_map,
    some,
)
from u2seg.io.coco import image_sizes, read_instances, read_panoptic, segmentation_rle
from u2seg.io.paths import Folder, stem_of
from u2seg.io.png import read_label_png, read_panoptic_png
from u2seg.structures.labels import VOID_ID, VOID_STUFF

Record = dict[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """Where a COCO panoptic truth lies: the JSON, and the folder of the RGB id maps it names."""

    panoptic_json: Path
    panoptic_pngs: Path


@dataclass(frozen=True, kw_only=True)
class PanopticSet(Truth):
    """A COCO panoptic file in memory, of a truth or of predictions; PNGs are read one at a time.

    Args:
        pngs: Folder of its PNGs.
        segments: Image id -> segment id -> segment, in the order of the JSON.
        file_names: Image id -> PNG, relative to ``pngs``.
        semantic: The PNGs are 8-bit stuff maps (0 any thing, 1..S stuff, 255 void), of whose
            values none need occur.
        side: Predictions are cropped to this square when read (``crop_map``); 0 = whole.
    """

    pngs: Path
    segments: dict[int, dict[int, TruthSegment]]
    file_names: dict[int, str]
    semantic: bool = False
    side: int = 0

    def read_ids(self, image_id: int) -> npt.NDArray[np.int32]:
        """Return the (H, W) int32 id map of an image; UserError if missing or of another size."""
        path = self.path(image_id)
        ids = read_label_png(path).astype(np.int32) if self.semantic else read_panoptic_png(path)
        check_shape(path, ids.shape, self.sizes[image_id], f"{self.source} declares")
        if self.semantic:
            ids[ids == VOID_STUFF] = VOID_ID
        return crop_map(ids, self.side) if self.side else ids

    def check_ids(self, image_id: int, found: Iterable[int], every: bool = False) -> None:
        """Raise UserError if a PNG holds an id that the JSON lacks.

        With ``every`` also if a segment of the JSON has no pixel, unless a crop is seen.
        """
        check_ids(self, image_id, self.segments[image_id], found)
        every = every and not self.side and not self.semantic
        missing = set(self.segments[image_id]) - set(found) if every else set()
        if missing:
            raise UserError(
                f"{self.source}: segment id {some(missing)} of image {image_id} has no "
                f"pixel in {self.path(image_id)}"
            )

    def _maps(self, number: int) -> tuple[Path, ...]:
        return (self._folder.join(self.file_names[number]),)

    def _read(self, number: int, size: tuple[int, int]) -> TrueImage:
        path = self._folder.join(self.file_names[number])
        ids = read_panoptic_png(path)
        check_shape(path, ids.shape, size, f"{self.source} declares")
        return TrueImage(ids, self.segments[number])

    @cached_property
    def _folder(self) -> Folder:
        return Folder(self.pngs)


def read_truth(truth: GroundTruth, *, measure: bool = False) -> PanopticSet:
    """Return the truth of COCO panoptic files, its images known by the names of the PNGs.

    With ``measure`` all pixels are counted where a segment has the area 0, as in the labels that
    U2Seg published, and a segment without any is left out. UserError if a file is missing or
    garbled, nothing can be scored, or a segment has area 0 or more pixels than its image.
    """
    if not Path(truth.panoptic_pngs).is_dir():
        raise UserError(f"the folder of true PNGs, {truth.panoptic_pngs}, does not exist")
    result = read_panoptic_set(Path(truth.panoptic_json), Path(truth.panoptic_pngs))
    if measure and any(not s.area for own in result.segments.values() for s in own.values()):
        for image_id, own in result.segments.items():
            ids, counts = np.unique(result.read_ids(image_id), return_counts=True)
            areas = dict(zip(ids.tolist(), counts.tolist(), strict=True))
            result.segments[image_id] = {
                i: replace(s, area=areas[i]) for i, s in own.items() if i in areas
            }
    check_true_segments(result)
    return result


def open_coco_panoptic(annotations: Path, pngs: Path) -> PanopticSet:
    """Return the truth of a COCO panoptic JSON, its images known by the names of photographs."""
    return panoptic_truth(read_panoptic(annotations), annotations, pngs)


def panoptic_truth(content: Record, source: Path, pngs: Path) -> PanopticSet:
    """Return the truth in the checked content of a COCO panoptic file; see above."""
    check_folder(pngs, f"the PNGs that {source} names")
    names = {image["id"]: stem_of(image["file_name"]) for image in content["images"]}
    result = panoptic_set(content, source, pngs, names)
    check_true_segments(result)
    return result


def read_panoptic_set(source: Path, pngs: Path) -> PanopticSet:
    """Return a COCO panoptic file; UserError if it is missing or garbled."""
    return panoptic_set(read_panoptic(source), source, pngs)


def panoptic_set(
    content: Record, source: Path, pngs: Path, stems: Mapping[int, str] | None = None
) -> PanopticSet:
    """Return the checked content of a COCO panoptic file.

    ``stems``: image id -> name of the image; None = those of the PNGs.
    """
    rows = sorted(content["annotations"], key=lambda record: record["image_id"])
    annotations = {record["image_id"]: record for record in rows}
    categories = sorted(content["categories"], key=lambda c: (not c["isthing"], c["id"]))
    names = stems or {i: stem_of(record["file_name"]) for i, record in annotations.items()}
    return PanopticSet(
        source=source,
        pngs=pngs,
        names={c["id"]: c["name"] for c in categories},
        things=tuple(c["id"] for c in categories if c["isthing"]),
        stuff=tuple(c["id"] for c in categories if not c["isthing"]),
        stems={i: names[i] for i in annotations},
        segments={i: _segments(record) for i, record in annotations.items()},
        file_names={i: record["file_name"] for i, record in annotations.items()},
        sizes=image_sizes(content["images"]),
    )


def _segments(annotation: Record) -> dict[int, TruthSegment]:
    return {
        s["id"]: TruthSegment(s["category_id"], int(s["area"]), bool(s.get("iscrowd", 0)))
        for s in annotation["segments_info"]
    }


def check_true_segments(truth: PanopticSet) -> None:
    """Refuse a truth that has nothing to score, or areas that cannot be; see ``read_truth``."""
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


def check_folder(folder: Path, what: str) -> None:
    """Raise UserError unless ``folder`` is one."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist: expected {what}")


@dataclass(frozen=True, kw_only=True)
class InstanceTruth(Truth):
    """Instances of a COCO JSON; they may overlap, so there is no map of ids."""

    annotations: Mapping[int, list[Record]]

    def _maps(self, number: int) -> tuple[Path, ...]:
        return ()

    def _read(self, number: int, size: tuple[int, int]) -> TrueImage:
        return TrueImage(np.zeros(size, dtype=np.int32), {}, list(self.annotations.get(number, ())))


def open_coco_instances(annotations: Path) -> InstanceTruth:
    """Return the truth of a COCO instances JSON; all its images are scored."""
    content = read_instances(annotations)
    for key in ("images", "categories", "annotations"):
        if not content[key]:
            raise UserError(f"{annotations} has no {key}: nothing to evaluate on")
    sizes = image_sizes(content["images"])
    records: dict[int, list[Record]] = {}
    for record in content["annotations"]:
        records.setdefault(record["image_id"], []).append(_instance(record, sizes))
    names = {c["id"]: c["name"] for c in content["categories"]}
    return InstanceTruth(
        source=annotations,
        names=names,
        things=tuple(names),
        stuff=(),
        stems={image["id"]: stem_of(image["file_name"]) for image in content["images"]},
        sizes=sizes,
        own_tasks=frozenset({INSTANCES}),
        annotations=records,
    )


def _instance(record: Record, sizes: Mapping[int, tuple[int, int]]) -> Record:
    return {
        "image_id": record["image_id"],
        "category_id": record["category_id"],
        "segmentation": segmentation_rle(record["segmentation"], sizes[record["image_id"]]),
        "bbox": [float(side) for side in record["bbox"]],
        "area": record["area"],
        "iscrowd": int(record.get("iscrowd", 0)),
    }
