"""One record of a data set -> one sample of the model.

Unlike Detectron2's own mapper, photographs go through ``u2seg.io.images`` (EXIF orientation,
16 bit, CMYK, transparency, pixel limit), and an image without things keeps an empty set of
masks, so it still teaches the semantic head.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from u2seg.errors import StageError, UserError
from u2seg.io.images import (
    DEFAULT_MAX_PIXELS,
    BadImageError,
    declared_size,
    decode_image,
    read_content,
    size_problem,
)
from u2seg.io.png import read_label_png
from u2seg.structures.masks import Rle, check_rle

Record = dict[str, Any]
Plane = npt.NDArray[np.uint8]
VOID = 255
EVERYTHING = frozenset({"things", "stuff"})
"""Tasks for which a sample holds all that there is."""
_READ = ("annotations", "sem_seg_file_name")
"""What a sample has in another form than its record."""
REMAKE = "Make the labels again with u2seg label --overwrite."


def read_photograph(record: Record, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return the photograph of a record, (H, W, 3) uint8 RGB, upright."""
    try:
        place = record["photograph"] if "photograph" in record else record["file_name"]
        content = read_content(place, max_pixels)
        image = decode_image(content, max_pixels)
    except BadImageError as error:
        raise StageError(
            f"{record['file_name']}: {error}. Mend the file or put the labelled one "
            "back, or make the labels again."
        ) from error
    expected = (record["height"], record["width"])
    if image.shape[:2] != expected:
        _, turn = declared_size(io.BytesIO(content))
        told = size_problem(image.shape[:2], expected, turn)
        raise StageError(f"{record['file_name']} {told}")
    return image


def without_worker_traceback(error: StageError) -> StageError:
    r"""Return an error of a loading process as it would be without one.

    torch hands errors of ``DATALOADER.NUM_WORKERS`` processes on with their traceback as text.

    Examples:
        >>> text = "Caught StageError in DataLoader worker process 0.\n  File x\n"
        >>> str(without_worker_traceback(StageError(text + "u2seg.errors.StageError: a.jpg: bad")))
        'a.jpg: bad'
        >>> str(without_worker_traceback(StageError("a.jpg: bad")))
        'a.jpg: bad'
    """
    return StageError(str(error).rpartition("u2seg.errors.StageError: ")[2].strip())


def build_augmentations(cfg: Any, is_train: bool) -> list[Any]:
    """Return Detectron2's default augmentations: resize, flip in training, crop if enabled.

    The host's resize rounds the short side of a very long and narrow photograph (1 x 4000 pixels)
    to 0 pixels, which no model can read; here it keeps at least one.
    """
    from detectron2.data import detection_utils, transforms

    class Resize(transforms.Augmentation):  # type: ignore[misc]
        """The host's resize to the shortest edge, with sides of at least one pixel."""

        def __init__(self, host: Any) -> None:
            super().__init__()
            self.host = host

        def get_transform(self, image: Any) -> Any:
            found = self.host.get_transform(image)
            if not isinstance(found, transforms.ResizeTransform) or min(found.new_h, found.new_w):
                return found
            height, width = max(found.new_h, 1), max(found.new_w, 1)
            return transforms.ResizeTransform(found.h, found.w, height, width, found.interp)

    augmentations = [
        Resize(a) if isinstance(a, transforms.ResizeShortestEdge) else a
        for a in detection_utils.build_augmentation(cfg, is_train)
    ]
    if is_train and cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, transforms.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return augmentations


class PanopticMapper:
    """Callable record -> sample, for training or inference.

    Args:
        augmentations: Detectron2 augmentations applied to the image and its labels alike.
        is_train: Produce ``instances`` and ``sem_seg``; else the image only.
        image_format: Channel order of the model's input, ``RGB`` or ``BGR``.
        max_pixels: Refuse larger photographs.
        num_stuff: S, to refuse damaged stuff targets; 0 = unchecked.
        tasks: Of the student: ``instances`` are for ``things``, ``prompts`` and ``embedding``,
            ``sem_seg`` for ``stuff`` and ``embedding``.
        with_void: Without ``sem_seg``, mark void pixels as ignored; copy-paste respects that.
    """

    def __init__(
        self,
        augmentations: Sequence[Any],
        is_train: bool,
        image_format: str = "RGB",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        num_stuff: int = 0,
        tasks: frozenset[str] = EVERYTHING,
        with_void: bool = False,
    ) -> None:
        from detectron2.data import transforms

        self.augmentations = transforms.AugmentationList(list(augmentations))
        self.is_train = is_train
        self.image_format = image_format
        self.max_pixels = max_pixels
        self.num_stuff = num_stuff
        self.with_things = bool(tasks & {"things", "prompts", "embedding"})
        self.with_stuff = bool(tasks & {"stuff", "embedding"})
        self.with_void = with_void and not self.with_stuff

    @classmethod
    def from_cfg(
        cls, cfg: Any, is_train: bool, tasks: frozenset[str] = EVERYTHING
    ) -> PanopticMapper:
        """Build from ``cfg.INPUT``: resize by choice, flip, crop if enabled."""
        return cls(
            build_augmentations(cfg, is_train),
            is_train,
            cfg.INPUT.FORMAT,
            cfg.U2SEG.IMAGES.MAX_PIXELS,
            cfg.U2SEG.SEMANTICS.NUM_CLASSES,
            tasks,
            bool(cfg.U2SEG.COPY_PASTE.ENABLED),
        )

    def __call__(self, record: Record) -> Record:
        """Return the sample of a record.

        Returns:
            The record plus ``image``, (3, h, w) uint8 tensor after augmentation, 0..255; when
            training also ``sem_seg``, (h, w) int64, unless left out; ``instances`` with
            ``gt_boxes`` (x0, y0, x1, y1), ``gt_classes`` 0..K-1 and ``gt_masks`` (bit masks,
            maybe none); and ``ignored``, (h, w) bool, if crowds are annotated, which are no
            instances, or with ``with_void``.
        """
        import torch
        from detectron2.data import transforms

        annotations = record.get("annotations", [])
        stuff_file = record.get("sem_seg_file_name")
        sample = copy.deepcopy({k: v for k, v in record.items() if k not in _READ})
        image = read_photograph(record, self.max_pixels)
        if self.image_format == "BGR":
            image = np.ascontiguousarray(image[:, :, ::-1])
        stuff = None
        if self.is_train and (self.with_stuff or self.with_void) and stuff_file:
            stuff = self._stuff(stuff_file, image.shape[:2])
        augmented = transforms.AugInput(image, sem_seg=stuff)
        applied = self.augmentations(augmented)
        height, width = augmented.image.shape[:2]
        sample["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if self.is_train:
            if stuff is not None and self.with_stuff:
                sample["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
            if self.with_things:
                sample["instances"] = self._instances(annotations, applied, (height, width))
            ignored = [augmented.sem_seg == VOID] if stuff is not None and self.with_void else []
            crowds = [record for record in annotations if record.get("iscrowd", 0)]
            if crowds:
                ignored.append(_masks(crowds, applied, (height, width))[0].any(axis=0))
            if ignored:
                sample["ignored"] = torch.from_numpy(np.any(ignored, axis=0))
        return sample

    def _stuff(self, path: str, size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        try:
            stuff = read_label_png(path, self.max_pixels)
        except UserError as error:
            raise StageError(f"{error}. {REMAKE}") from error
        if stuff.shape != size:
            raise StageError(
                f"{path} is {stuff.shape[0]}x{stuff.shape[1]} pixels (height x width), its "
                f"photograph {size[0]}x{size[1]}. {REMAKE}"
            )
        highest = int((stuff + np.uint8(1)).max(initial=0)) - 1  # void is 255 and wraps to 0
        if self.num_stuff and highest > self.num_stuff:
            raise StageError(
                f"{path} holds the value {highest}, but there are {self.num_stuff} stuff clusters "
                f"(0 = any thing, 255 = void). {REMAKE}"
            )
        return stuff

    @staticmethod
    def _instances(annotations: list[Record], applied: Any, size: tuple[int, int]) -> Any:
        import torch
        from detectron2.structures import BitMasks, Boxes, Instances

        kept = [record for record in annotations if not record.get("iscrowd", 0)]
        # Tight boxes of the masks as they are now: a crop or a resize may have cut them.
        masks, boxes = _masks(kept, applied, size)
        classes = np.array([record["category_id"] for record in kept], dtype=np.int64)
        seen = boxes[:, 2] > 0
        if not seen.all():
            masks, boxes, classes = masks[seen], boxes[seen], classes[seen]
        instances = Instances(size)
        # Present even when empty: the samples of a batch must agree on their fields.
        instances.gt_classes = torch.from_numpy(classes)
        instances.gt_masks = BitMasks(torch.from_numpy(masks))
        instances.gt_boxes = Boxes(torch.from_numpy(boxes))
        return instances


def _masks(
    annotations: list[Record], applied: Any, size: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return the augmented masks, (n, h, w), and their boxes."""
    rles = [record["segmentation"] for record in annotations]
    return augmented_masks(rles, size, applied.apply_segmentation)


def augmented_masks(
    rles: Sequence[Rle], size: tuple[int, int], augment: Callable[[Plane], Plane]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return n masks after an augmentation, and their tight boxes.

    Augmentations treat labels by choosing pixels, never by mixing them, so eight masks are the
    bits of one map, and cost about as much as one.

    Args:
        rles: n masks, all of one size H x W.
        size: (h, w) of the augmented image.
        augment: (H, W) uint8 -> (h, w) uint8; chooses pixels, as ``apply_segmentation`` of
            Detectron2's transforms does.

    Returns:
        (n, h, w) bool and (n, 4) x0, y0, x1, y1, where x1 and y1 are exclusive; the box of an
        empty mask is 0, 0, 0, 0.

    Examples:
        >>> rle = {"size": [1, 3], "counts": "21"}
        >>> masks, boxes = augmented_masks([rle], (1, 3), lambda plane: plane[:, ::-1])
        >>> masks.astype(int).tolist(), boxes.tolist()
        ([[[1, 0, 0]]], [[0.0, 0.0, 1.0, 1.0]])
    """
    masks = np.empty((len(rles), *size), dtype=bool)
    boxes = np.zeros((len(rles), 4), dtype=np.float32)
    part = np.empty(size, dtype=np.uint8)  # used again: fresh memory costs more than the work
    for first in range(0, len(rles), 8):
        plane = augment(_bits(rles[first : first + 8]))
        if plane.shape != size:  # NumPy would repeat a single row or column
            raise ValueError(f"masks became {plane.shape} pixels, their image {size}")
        lines: tuple[Any, ...] = tuple(np.bitwise_or.reduce(plane, axis=axis) for axis in (0, 1))
        for bit in range(len(rles[first : first + 8])):
            np.bitwise_and(plane, np.uint8(1 << bit), out=part)
            np.not_equal(part, 0, out=masks[first + bit])
            x, y = (np.flatnonzero(line & (1 << bit)) for line in lines)
            if x.size:
                boxes[first + bit] = x[0], y[0], x[-1] + 1, y[-1] + 1
    return masks, boxes


def _bits(rles: Sequence[Rle]) -> Plane:
    """Return up to eight masks of one size as an (H, W) map: mask k is bit 2^k."""
    for rle in rles:
        check_rle(rle)
        if list(rle["size"]) != list(rles[0]["size"]):
            raise ValueError(f"masks of {rles[0]['size']} and {rle['size']} pixels in one image")
    height, width = rles[0]["size"]
    plane = np.zeros((height, width), dtype=np.uint8, order="F")  # as the codes run
    for rle in reversed(rles):
        np.left_shift(plane, 1, out=plane)
        np.bitwise_or(plane, coco_mask.decode(rle), out=plane)
    return np.ascontiguousarray(plane)
