"""Settings of training on pseudo-labels: sections ``TRAIN`` and ``COPY_PASTE``."""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.config.section import one_of, require

PARTS = ("sampling", "masks", "pooling")


@dataclass(frozen=True)
class TrainSettings:
    """What training adds to Detectron2's ``SOLVER``.

    Args:
        droploss: Leave predictions that overlap no pseudo-mask out of the ROI losses, in every
            cascade stage (U2Seg, section 3.4; CutLER commit cca0a27).
        droploss_iou: A prediction is left out if its largest IoU with a pseudo-box is at most
            this, 0..1 (0.01, CutLER).
        head_lr_factor: Learning rate of the last layers of box and mask heads over ``BASE_LR``,
            > 0 (4 in the published low-shot recipe).
        skip_heads: Load a checkpoint of other class numbers without the layers whose size depends
            on them, instead of refusing it.
        accumulate: Parts a batch is computed in, >= 1, to save memory.
        amp_dtype: Number format of mixed precision: ``float16`` (with loss scaling) or
            ``bfloat16``.
        channels_last: Keep images and weights in channels-last order.
        ema_decay: Decay per iteration of a moving average of the weights that is saved and
            evaluated, 0 <= d < 1; 0 = none.
        pictures: Training images drawn as the model sees them, at the start of a training.
        common_padding: Pad the images of all processes to the largest of any, so that not even
            padding depends on how many share a batch; slower where sizes vary.
        keep_checkpoints: Numbered checkpoints that stay, the newest ones, >= 0; 0 = all.
        optimizer: ``SGD`` (with ``SOLVER.MOMENTUM``) or ``AdamW``.
        parts: Parts of Detectron2 that this package computes in another way: ``sampling``,
            ``masks`` and ``pooling`` (docs/reference/training.md); those not named stay the host's.
    """

    droploss: bool = False
    droploss_iou: float = 0.01
    head_lr_factor: float = 1.0
    skip_heads: bool = False
    accumulate: int = 1
    amp_dtype: str = "float16"
    channels_last: bool = False
    ema_decay: float = 0.0
    pictures: int = 8
    common_padding: bool = False
    keep_checkpoints: int = 0
    optimizer: str = "SGD"
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        require(0 <= self.droploss_iou <= 1, "TRAIN.DROPLOSS_IOU", self.droploss_iou, "0..1")
        require(self.head_lr_factor > 0, "TRAIN.HEAD_LR_FACTOR", self.head_lr_factor, "> 0")
        require(self.accumulate >= 1, "TRAIN.ACCUMULATE", self.accumulate, ">= 1")
        one_of("TRAIN.AMP_DTYPE", self.amp_dtype, ("float16", "bfloat16"))
        require(0 <= self.ema_decay < 1, "TRAIN.EMA_DECAY", self.ema_decay, "0 <= d < 1")
        require(self.pictures >= 0, "TRAIN.PICTURES", self.pictures, ">= 0")
        one_of("TRAIN.OPTIMIZER", self.optimizer, ("SGD", "AdamW"))
        expected = f"some of {', '.join(PARTS)}"
        require(set(self.parts) <= set(PARTS), "TRAIN.PARTS", self.parts, expected)
        keep = self.keep_checkpoints
        require(keep >= 0, "TRAIN.KEEP_CHECKPOINTS", keep, ">= 0")


@dataclass(frozen=True)
class CopyPasteSettings:
    """Instances pasted between training images (U2Seg, section 3.4; its code has none).

    Args:
        enabled: Whether instances are pasted.
        rate: Probability that anything is pasted into an image, 0..1 (1.0, CutLER).
        max_objects: Most objects for an image, >= 1; how many is drawn from 1 to this (8, CUPS).
        scale: Range of an object's size, 0 < least <= most, in shares of the size it would have
            if its image were scaled to the shorter side of the receiving one (0.3-1.0, CutLER).
        same_cluster: Probability that an object must be of a cluster the receiving image has
            already, 0..1: 1 pastes pairs of the same cluster only (U2Seg), 0 does not look at
            clusters (CutLER, CUPS). Nothing is pasted where no such object is at hand.
        blend: Pixels inside the rim of a pasted object over which it fades into the image,
            >= 0; 0 = hard edges.
        covered: What becomes of an object of which too little would remain visible: ``drop``
            leaves it out of the labels (its rest becomes void), ``refuse`` does not paste there
            (CutLER).
        min_visible: Share of an object's pixels that must remain visible, 0..1 (0.5, CutLER);
            also of a pasted object that the frame or an ignored region cuts.
        min_area: Pixels that a pasted object must show, >= 1.
        memory: Earlier batches whose objects may be pasted too, >= 0; 0 = this batch alone.
    """

    enabled: bool = False
    rate: float = 1.0
    max_objects: int = 8
    scale: tuple[float, float] = (0.3, 1.0)
    same_cluster: float = 0.5
    blend: int = 2
    covered: str = "drop"
    min_visible: float = 0.5
    min_area: int = 64
    memory: int = 0

    def __post_init__(self) -> None:
        for key in ("rate", "same_cluster", "min_visible"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"COPY_PASTE.{key.upper()}", value, "0..1")
        require(self.max_objects >= 1, "COPY_PASTE.MAX_OBJECTS", self.max_objects, ">= 1")
        good = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] <= 4
        expected = "two numbers, 0 < least <= most <= 4"
        require(good, "COPY_PASTE.SCALE", self.scale, expected)
        require(0 <= self.blend <= 64, "COPY_PASTE.BLEND", self.blend, "0..64")
        one_of("COPY_PASTE.COVERED", self.covered, ("drop", "refuse"))
        require(self.min_area >= 1, "COPY_PASTE.MIN_AREA", self.min_area, ">= 1")
        require(self.memory >= 0, "COPY_PASTE.MEMORY", self.memory, ">= 0")
