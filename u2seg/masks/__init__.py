"""Patch features -> class-agnostic instance masks: MaskCut, refinement, filters."""

from u2seg.masks.base import MASK_PROPOSERS, MaskProposer

__all__ = ["MASK_PROPOSERS", "MaskProposer"]
