"""The augmentations of ``cfg.INPUT``, for photographs of any proportions.

The host's resize rounds the short side of a very long and narrow photograph (1 x 4000 pixels) to
0 pixels, which no model can read; here it keeps at least one.
"""

from __future__ import annotations

from typing import Any


def build_augmentations(cfg: Any, is_train: bool) -> list[Any]:
    """Return Detectron2's default augmentations: resize, flip in training, crop if enabled.

    Args:
        cfg: Its ``INPUT`` node is read.
        is_train: Sizes and flips for training; else the test size alone.
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
