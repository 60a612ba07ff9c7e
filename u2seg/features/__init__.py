"""Photographs -> patch features: weights-free filter bank, self-supervised ViTs."""

from u2seg.features.base import FEATURE_EXTRACTORS, FeatureExtractor, build_extractor

__all__ = ["FEATURE_EXTRACTORS", "FeatureExtractor", "build_extractor"]
