"""Settings of training on pseudo-labels: sections ``TRAIN`` and ``COPY_PASTE``."""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.config.checks import one_of, require


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
        compile: Compile the backbone with ``torch.compile``.
        ema_decay: Decay per iteration of a moving average of the weights that is saved and
            evaluated, 0 <= d < 1; 0 = none.
        pictures: Training images drawn as the model sees them, at the start of a training.
    """

    droploss: bool = False
    droploss_iou: float = 0.01
    head_lr_factor: float = 1.0
    skip_heads: bool = False
    accumulate: int = 1
    amp_dtype: str = "float16"
    channels_last: bool = False
    compile: bool = False
    ema_decay: float = 0.0
    pictures: int = 8

    def __post_init__(self) -> None:
        require(0 <= self.droploss_iou <= 1, "TRAIN.DROPLOSS_IOU", self.droploss_iou, "0..1")
        require(self.head_lr_factor > 0, "TRAIN.HEAD_LR_FACTOR", self.head_lr_factor, "> 0")
        require(self.accumulate >= 1, "TRAIN.ACCUMULATE", self.accumulate, ">= 1")
        one_of("TRAIN.AMP_DTYPE", self.amp_dtype, ("float16", "bfloat16"))
        require(0 <= self.ema_decay < 1, "TRAIN.EMA_DECAY", self.ema_decay, "0 <= d < 1")
        require(self.pictures >= 0, "TRAIN.PICTURES", self.pictures, ">= 0")


@dataclass(frozen=True)
class CopyPasteSettings:
    """Instances pasted between training images (U2Seg, section 3.4).

    Args:
        enabled: Whether instances are pasted.
    """

    enabled: bool = False
