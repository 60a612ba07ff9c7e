"""COCO JSON as truth: panoptic, and instances that may overlap (COCO, UVO, VOC in COCO's form)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UserError
from u2seg.evaluation.files import PanopticSet, check_true_segments, panoptic_set
from u2seg.evaluation.readers.folder import check_folder
from u2seg.evaluation.truth import INSTANCES, TrueImage
from u2seg.io.coco import image_sizes, read_instances, read_panoptic, segmentation_rle
from u2seg.io.paths import stem_of

Record = dict[str, Any]


@dataclass(frozen=True)
class PanopticTruth(PanopticSet):
    """A COCO panoptic truth whose images are known by their photographs' names.

    Args:
        photographs: Image id -> relative name of the photograph, without suffix.
    """

    photographs: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def stems(self) -> dict[int, str]:
        """Image id -> name of the photograph without suffix, of the annotated images."""
        return {image_id: self.photographs[image_id] for image_id in self.segments}


def open_coco_panoptic(annotations: Path, pngs: Path) -> PanopticTruth:
    """Return the truth of a COCO panoptic JSON.

    Args:
        annotations: The JSON; images without an annotation are not scored.
        pngs: Folder of the RGB id maps that the JSON names.

    Raises:
        UserError: if a file is missing or garbled; or as ``check_true_segments``.
    """
    check_folder(pngs, f"the PNGs that {annotations} names")
    return panoptic_truth(read_panoptic(annotations), annotations, pngs)


def panoptic_truth(content: Record, source: Path, pngs: Path) -> PanopticTruth:
    """Return the truth in the checked content of a COCO panoptic file; see above."""
    plain = panoptic_set(content, source, pngs)
    check_true_segments(plain)
    names = {image["id"]: stem_of(image["file_name"]) for image in content["images"]}
    values = {one.name: getattr(plain, one.name) for one in fields(plain)}
    return PanopticTruth(**values, photographs=names)


@dataclass(frozen=True)
class InstanceTruth:
    """Instances of a COCO JSON; they may overlap, so there is no map of ids.

    Args:
        source: The JSON.
        names: Category id -> name; all are things.
        stems: Image id -> relative name of the photograph, without suffix.
        sizes: Image id -> (H, W).
        annotations: Image id -> its annotations with compressed RLE.
    """

    source: Path
    names: Mapping[int, str]
    stems: Mapping[int, str]
    sizes: Mapping[int, tuple[int, int]]
    annotations: Mapping[int, list[Record]]

    @property
    def things(self) -> tuple[int, ...]:
        """Ids of thing classes: all."""
        return tuple(self.names)

    @property
    def stuff(self) -> tuple[int, ...]:
        """Ids of stuff classes: none."""
        return ()

    @property
    def tasks(self) -> frozenset[str]:
        """The instance task."""
        return frozenset({INSTANCES})

    @property
    def lists(self) -> tuple[Path, ...]:
        """Files besides the JSON: none."""
        return ()

    def path(self, image_id: int) -> Path:
        """Return the JSON."""
        return self.source

    def maps(self, image_id: int) -> tuple[Path, ...]:
        """Return the PNGs of an image: none."""
        return ()

    def read(self, image_id: int) -> TrueImage:
        """Return the instances of an image over a map that is void."""
        void = np.zeros(self.sizes[image_id], dtype=np.int32)
        return TrueImage(void, {}, list(self.annotations.get(image_id, ())))


def open_coco_instances(annotations: Path) -> InstanceTruth:
    """Return the truth of a COCO instances JSON.

    Args:
        annotations: The JSON; all its images are scored, those without an annotation too.

    Raises:
        UserError: if it is missing or garbled, or has no image, category or annotation.
    """
    content = read_instances(annotations)
    for key in ("images", "categories", "annotations"):
        if not content[key]:
            raise UserError(f"{annotations} has no {key}: nothing to evaluate on")
    sizes = image_sizes(content["images"])
    records: dict[int, list[Record]] = {}
    for record in content["annotations"]:
        records.setdefault(record["image_id"], []).append(_record(record, sizes))
    return InstanceTruth(
        source=annotations,
        names={c["id"]: c["name"] for c in content["categories"]},
        stems={image["id"]: stem_of(image["file_name"]) for image in content["images"]},
        sizes=sizes,
        annotations=records,
    )


def _record(record: Record, sizes: Mapping[int, tuple[int, int]]) -> Record:
    return {
        "image_id": record["image_id"],
        "category_id": record["category_id"],
        "segmentation": segmentation_rle(record["segmentation"], sizes[record["image_id"]]),
        "bbox": [float(side) for side in record["bbox"]],
        "area": record["area"],
        "iscrowd": int(record.get("iscrowd", 0)),
    }
