"""Panoptic Cascade Mask R-CNN in the host's registries, its inference and its checkpoints."""

from __future__ import annotations

import importlib

from u2seg.compat import prepare_host

prepare_host()


def register() -> None:
    """Put this package's models into Detectron2's registries; harmless if repeated."""
    for name in ("panoptic_cascade", "instance_cascade", "roi_heads", "rpn", "mask_head"):
        importlib.import_module(f"u2seg.modeling.{name}")
