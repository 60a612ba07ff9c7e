"""Patch features -> stuff map: STEGO. Takes photographs only, never a label."""

from u2seg.semantics.base import SEMANTIC_SEGMENTERS, FeatureSource, SemanticSegmenter

__all__ = ["SEMANTIC_SEGMENTERS", "FeatureSource", "SemanticSegmenter"]
