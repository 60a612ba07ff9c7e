"""What is known of one image, whoever says it: labels, a model, ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from u2seg.structures.labels import ANY_THING, VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask, decode_mask
from u2seg.structures.panoptic import PanopticLabel, Segment


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Instances, stuff and panoptic label of one image; None = not known, not "there is none".

    Args:
        size: (H, W) in pixels.
        instances: Object masks, which may overlap.
        stuff: (H, W) uint8 as on disk: 0 any thing, 1..S stuff, 255 void.
        confidence: (H, W) float32, probability of the class in ``stuff``, 0..1.
        panoptic: Id map and segments, category ids 1..K+S.
        space: Names and colours of the ids.

    Raises:
        ValueError: if a map or a mask has another size, or ``stuff`` is not uint8.

    Examples:
        >>> Segmentation((2, 3), instances=(), stuff=np.zeros((2, 3), np.uint8))
        Segmentation(2 x 3, 0 instances, stuff)
        >>> Segmentation((2, 3), stuff=np.zeros((3, 2), np.uint8))
        Traceback (most recent call last):
            ...
        ValueError: stuff of (3, 2) pixels in an image of (2, 3)
    """

    size: tuple[int, int]
    instances: tuple[InstanceMask, ...] | None = None
    stuff: npt.NDArray[np.uint8] | None = None
    confidence: npt.NDArray[np.float32] | None = None
    panoptic: PanopticLabel | None = None
    space: LabelSpace | None = None

    def __post_init__(self) -> None:
        sizes = {f"mask {i}": m.rle["size"] for i, m in enumerate(self.instances or ())}
        maps: dict[str, npt.NDArray[Any] | None] = {
            "stuff": self.stuff,
            "confidence": self.confidence,
            "panoptic label": self.panoptic.ids if self.panoptic else None,
        }
        sizes |= {name: values.shape for name, values in maps.items() if values is not None}
        for name, size in sizes.items():
            if tuple(size) != tuple(self.size):
                raise ValueError(
                    f"{name} of {tuple(size)} pixels in an image of {tuple(self.size)}"
                )
        if self.stuff is not None and self.stuff.dtype != np.uint8:
            raise ValueError(f"a stuff map is uint8, got {self.stuff.dtype}")

    def __repr__(self) -> str:
        known = [] if self.instances is None else [f"{len(self.instances)} instances"]
        known += ["stuff"] if self.stuff is not None else []
        known += [f"{len(self.panoptic.segments)} segments"] if self.panoptic else []
        told = ", ".join([f"{self.size[0]} x {self.size[1]}", *known])
        return f"{type(self).__name__}({told})"


def panoptic_label(
    ids: npt.NDArray[np.int32], infos: Sequence[dict[str, Any]], space: LabelSpace
) -> PanopticLabel:
    """Return a panoptic label whose areas and boxes are measured on the id map.

    Args:
        ids: (H, W) int32, 0 = void.
        infos: ``id``, ``isthing``, ``category_id`` (0..K-1 for things, 1..S for stuff) and
            perhaps ``score`` (else 1.0). A segment without pixels is left out.
        space: The model's label space.

    Raises:
        UserError: if a class is outside the label space.

    Examples:
        >>> ids = np.array([[1, 1, 2]], dtype=np.int32)
        >>> infos = [{"id": 1, "isthing": True, "category_id": 0, "score": 0.5},
        ...          {"id": 2, "isthing": False, "category_id": 1}]
        >>> label = panoptic_label(ids, infos, LabelSpace(num_things=3, num_stuff=2))
        >>> [(s.category_id, s.area, s.bbox, s.score) for s in label.segments]
        [(1, 2, (0.0, 0.0, 2.0, 1.0), 0.5), (4, 1, (2.0, 0.0, 1.0, 1.0), 1.0)]
    """
    areas = np.bincount(ids.ravel())
    places = ndimage.find_objects(ids)
    segments = []
    for info in infos:
        number = int(info["id"])
        if number >= len(areas) or areas[number] == 0:
            continue
        rows, columns = places[number - 1]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        thing = bool(info["isthing"])
        cluster = int(info["category_id"])
        category = space.thing_category(cluster) if thing else space.stuff_category(cluster - 1)
        segments.append(
            Segment(
                id=number,
                category_id=category,
                isthing=thing,
                area=int(areas[number]),
                bbox=(float(columns.start), float(rows.start), float(width), float(height)),
                score=float(info.get("score", 1.0)),
            )
        )
    return PanopticLabel(ids, tuple(segments))


def panoptic_of(segmentation: Segmentation, space: LabelSpace) -> PanopticLabel:
    """Return the panoptic label of a segmentation; made of what is there if it has none.

    Instances are painted by falling score where no other is; what is left is stuff.

    Args:
        segmentation: Its instances have clusters.
        space: Numbering of a label that is made.

    Examples:
        >>> masks = (InstanceMask.from_array(np.array([[True, False, False]]), cluster=1),)
        >>> stuff = np.array([[2, 2, 0]], dtype=np.uint8)
        >>> label = panoptic_of(Segmentation((1, 3), masks, stuff), LabelSpace(2, 2))
        >>> label.ids.tolist(), [s.category_id for s in label.segments]
        ([[1, 2, 0]], [2, 4])
    """
    if segmentation.panoptic is not None:
        return segmentation.panoptic
    ids = np.zeros(segmentation.size, dtype=np.int32)
    infos: list[dict[str, Any]] = []
    for mask in sorted(segmentation.instances or (), key=lambda mask: -mask.score):
        free = decode_mask(mask.rle) & (ids == 0)
        ids[free] = len(infos) + 1
        known = {"isthing": True, "category_id": mask.cluster or 0, "score": mask.score}
        infos.append({"id": len(infos) + 1, **known})
    stuff = segmentation.stuff
    for value in np.unique(stuff) if stuff is not None else ():
        if value not in (ANY_THING, VOID_STUFF):
            ids[(stuff == value) & (ids == 0)] = len(infos) + 1
            infos.append({"id": len(infos) + 1, "isthing": False, "category_id": int(value)})
    return panoptic_label(ids, infos, space)
