"""Settings of the stuff labels: section ``SEMANTICS`` and its members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from u2seg.config.section import (
    MAX_SEED,
    RESAMPLING,
    CrfSettings,
    Section,
    at_least,
    one_of,
    require,
    shares,
)


@dataclass(frozen=True)
class StuffCrfSettings(CrfSettings):
    """The dense CRF that refines stuff maps; defaults are STEGO's."""

    SECTION: ClassVar[str] = "SEMANTICS.DENSE_CRF"
    gaussian_sxy: float = 1.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 67.0
    bilateral_srgb: float = 3.0
    bilateral_weight: float = 4.0


@dataclass(frozen=True)
class StegoSettings:
    """STEGO (commit eb4d6b5).

    Args:
        code_dim: Channels of the code, >= 1 (70).
        projection: ``nonlinear`` adds a one-hidden-layer head to the linear one (the reference's
            default), ``linear`` has the linear head alone.
        dropout: Feature dropout while training, 0..1 (0.1).
        steps: Optimiser steps, >= 1 (5000).
        batch_size: Images per step, >= 2 (16).
        lr, probe_lr: Adam learning rates of the head and of the cluster probe.
        samples: Random positions per side and image, S x S of them (11).
        neighbors: Nearest neighbours an image is paired with (7).
        neg_samples: Random pairings per step (5).
        weight_neg, weight_inter, weight_intra: Loss weights (random, neighbour, self).
        weight_rec: Weight of a decoder's loss: features are to be read off the code; 0 = off (the
            reference).
        shift_neg, shift_inter, shift_intra: Loss shifts b. Defaults: the published
            COCO-Stuff-27 values for ViT-S; those for ViT-B and for Cityscapes are in
            ``configs/semantics``.
        shifts: ``fixed`` uses these shifts; ``auto`` takes quantiles of the feature similarities
            instead, for features whose cosines are distributed otherwise than DINO's.
        quantile_neg, quantile_inter, quantile_intra: ``auto``: share of the (centred)
            similarities of random, neighbouring and self pairs that lies below the shift, 0..1.
        pointwise, zero_clamp, stabilize: Variants of the correspondence loss.
        dense_codes: Run the head on whole grids and sample its codes (the reference) instead of
            on sampled features, which is several times cheaper.
        probe_start: ``kmeans`` starts the cluster probe from K-means of the codes when a quarter
            of the steps is left; ``random`` from random directions (the reference).
    """

    code_dim: int = 70
    projection: str = "nonlinear"
    dropout: float = 0.1
    steps: int = 5000
    batch_size: int = 16
    lr: float = 5e-4
    probe_lr: float = 5e-3
    samples: int = 11
    neighbors: int = 7
    neg_samples: int = 5
    weight_neg: float = 0.63
    weight_inter: float = 0.25
    weight_intra: float = 0.67
    weight_rec: float = 0.0
    shift_neg: float = 0.66
    shift_inter: float = 0.02
    shift_intra: float = 0.08
    shifts: str = "fixed"
    quantile_neg: float = 0.85
    quantile_inter: float = 0.5
    quantile_intra: float = 0.5
    pointwise: bool = True
    zero_clamp: bool = True
    stabilize: bool = False
    dense_codes: bool = False
    probe_start: str = "kmeans"

    def __post_init__(self) -> None:
        name = "SEMANTICS.STEGO"
        require(0 <= self.dropout < 1, f"{name}.DROPOUT", self.dropout, "0 <= p < 1")
        one_of(f"{name}.PROBE_START", self.probe_start, ("kmeans", "random"))
        one_of(f"{name}.SHIFTS", self.shifts, ("fixed", "auto"))
        one_of(f"{name}.PROJECTION", self.projection, ("nonlinear", "linear"))
        shares(name, self, "quantile_neg", "quantile_inter", "quantile_intra")
        at_least(0, name, self, "weight_rec")
        at_least(1, name, self, "code_dim", "steps", "samples", "neighbors", "neg_samples")
        at_least(2, name, self, "batch_size")
        for key in ("lr", "probe_lr"):
            value = getattr(self, key)
            require(value > 0, f"{name}.{key.upper()}", value, "> 0")


@dataclass(frozen=True)
class SemanticSettings(Section):
    """A stuff label for every pixel.

    Args:
        segmenter: A registered semantic segmenter: ``stego``, or ``kmeans_probe`` (K-means on patch
            features, the baseline).
        model: Path of a ``model.safetensors`` of an earlier run to label with instead of fitting;
            empty = fit on these images.
        num_classes: S, 0..254 stuff clusters; the semantic head has S + 1 classes. 0 = no stuff.
        crops: Training images made of each photograph: ``none`` (itself) or ``five`` (its corners
            and its centre, the reference's training set; five times the features).
        crop_ratio: Side of such a crop over the photograph's, 0 < r <= 1 (0.5).
        resample: Filter that resizes photographs and crops for the features of stuff, as
            ``FEATURES.RESAMPLE`` (the reference: ``nearest``).
        max_pixels: Maps of larger images are computed at this many pixels and enlarged, >= 1
            (320 x 320, where the reference evaluates and its CRF is tuned).
        crf: Refine the predicted map with a dense CRF.
        flip: Average code over the image and its mirror image.
        seed: 0..2^32 - 1.
    """

    segmenter: str = "stego"
    model: str = ""
    num_classes: int = 27
    crops: str = "none"
    crop_ratio: float = 0.5
    resample: str = "lanczos"
    max_pixels: int = 102_400
    crf: bool = True
    flip: bool = True
    seed: int = 0
    stego: StegoSettings = StegoSettings()
    dense_crf: StuffCrfSettings = StuffCrfSettings()

    def __post_init__(self) -> None:
        require(0 <= self.num_classes <= 254, "SEMANTICS.NUM_CLASSES", self.num_classes, "0..254")
        one_of("SEMANTICS.CROPS", self.crops, ("none", "five"))
        one_of("SEMANTICS.RESAMPLE", self.resample, RESAMPLING)
        require(0 < self.crop_ratio <= 1, "SEMANTICS.CROP_RATIO", self.crop_ratio, "0 < r <= 1")
        require(self.max_pixels >= 1, "SEMANTICS.MAX_PIXELS", self.max_pixels, ">= 1")
        require(0 <= self.seed <= MAX_SEED, "SEMANTICS.SEED", self.seed, f"0..{MAX_SEED}")
