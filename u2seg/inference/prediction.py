"""What the model says about one image, as plain values: the outputs' only translator.

Shapes: H x W pixels of the photograph, S stuff clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from u2seg.structures.labels import ANY_THING, VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask, encode_mask
from u2seg.structures.panoptic import PanopticLabel, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Prediction:
    """Panoptic segmentation, instances and stuff map of one image.

    Args:
        panoptic: Id map and segments; category ids 1..K+S.
        instances: Object masks with the predicted boxes, highest score first.
        categories: Category id 1..K of each instance.
        stuff: (H, W) uint8, most likely class of the semantic head: 0 any thing, 1..S stuff; of
            a model without one 0 on segments of ``panoptic``, 255 (void) elsewhere.
        space: Names and colours of the ids.
    """

    panoptic: PanopticLabel
    instances: tuple[InstanceMask, ...]
    categories: tuple[int, ...]
    stuff: npt.NDArray[np.uint8]
    space: LabelSpace

    def draw(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the photograph with the panoptic segmentation on top.

        Args:
            image: (H, W, 3) uint8 RGB, the photograph predicted on.

        Returns:
            (H, W, 3) uint8 RGB, a new array.

        Raises:
            UserError: if the size is not that of the prediction.
        """
        from u2seg.visualization.draw import draw_panoptic

        return draw_panoptic(image, self.panoptic, self.space)


def prediction_from_outputs(outputs: dict[str, Any], space: LabelSpace) -> Prediction:
    """Return the plain values of one element of the model's output.

    Args:
        outputs: ``instances`` (``pred_boxes``, ``scores``, ``pred_classes`` 0..K-1,
            ``pred_masks`` (N, H, W) bool), ``panoptic_seg`` (id map, segments with
            ``category_id`` 0..K-1 for things, 1..S for stuff) and, if the model has a semantic
            head, ``sem_seg`` (S + 1, H, W).
        space: The model's label space.

    Raises:
        UserError: if a class is outside the label space.
    """
    instances, categories = _instances(outputs["instances"], space)
    ids, infos = outputs["panoptic_seg"]
    label = panoptic_label(ids.cpu().numpy().astype(np.int32), infos, space)
    if "sem_seg" in outputs:
        stuff = outputs["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.uint8)
    else:
        stuff = np.where(label.ids > 0, ANY_THING, VOID_STUFF).astype(np.uint8)
    return Prediction(label, instances, categories, stuff, space)


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


def _instances(
    instances: Any, space: LabelSpace
) -> tuple[tuple[InstanceMask, ...], tuple[int, ...]]:
    scores = instances.scores.cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    boxes = instances.pred_boxes.tensor.cpu().numpy()
    classes = instances.pred_classes.cpu().numpy()
    masks = instances.pred_masks.cpu().numpy()
    found = []
    for index in order:
        left, top, right, bottom = (float(v) for v in boxes[index])
        mask = masks[index].astype(bool)
        found.append(
            InstanceMask(
                rle=encode_mask(mask),
                score=float(scores[index]),
                bbox=(left, top, right - left, bottom - top),
                area=int(np.count_nonzero(mask)),
            )
        )
    return tuple(found), tuple(space.thing_category(int(classes[i])) for i in order)
