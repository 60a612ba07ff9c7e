"""Settings of the clusters: section ``CLUSTERS`` and its members."""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.config.section import MAX_SEED, RESAMPLING, Section, at_least, one_of, require


@dataclass(frozen=True)
class CropSettings:
    """How ``crop_cls`` and ``masked_crop`` cut the box of a mask out.

    Args:
        fit: How a crop becomes a square: ``squash``, or ``center``, which cuts off the ends of
            the longer side (the published choice).
        resample: Filter that resizes crops, as ``FEATURES.RESAMPLE`` (published: bilinear).
        padding: Share of the box's sides by which the crop grows on every side, 0..1.
    """

    fit: str = "squash"
    resample: str = "lanczos"
    padding: float = 0.0

    def __post_init__(self) -> None:
        one_of("CLUSTERS.CROPS.FIT", self.fit, ("squash", "center"))
        one_of("CLUSTERS.CROPS.RESAMPLE", self.resample, RESAMPLING)
        require(0 <= self.padding <= 1, "CLUSTERS.CROPS.PADDING", self.padding, "0..1")


@dataclass(frozen=True)
class KMeansSettings:
    """K-means.

    Args:
        init: ``k-means++`` or ``random`` (the published choice).
        iterations: Lloyd iterations at most, >= 1; with ``batch_size`` passes over the data.
        restarts: Starts of which the best is kept, >= 1.
        batch_size: Descriptors of a mini-batch; 0 = Lloyd's iterations over all.
    """

    init: str = "k-means++"
    iterations: int = 100
    restarts: int = 1
    batch_size: int = 0

    def __post_init__(self) -> None:
        one_of("CLUSTERS.KMEANS.INIT", self.init, ("k-means++", "random"))
        at_least(1, "CLUSTERS.KMEANS", self, "iterations", "restarts")
        at_least(0, "CLUSTERS.KMEANS", self, "batch_size")


@dataclass(frozen=True)
class ClusterSettings(Section):
    """One id for similar objects: K-means over the masks of the whole data set.

    Args:
        num_clusters: K: the one key from which NUM_CLASSES of the ROI heads follows. Published:
            300, 800, 2911. 0 = no things.
        descriptor: A registered descriptor: ``masked_mean`` (mean patch feature inside the
            mask), ``crop_cls`` (CLS token of the box crop; the published choice, needs a ViT) or
            ``masked_crop`` (the same with the background painted in ImageNet's mean colour).
        whiten: ``none``; ``scale`` divides every dimension by its standard deviation
            (MaskDistill); ``pca`` does so with the principal components, after centring.
        pca: Keep so many principal components; 0 = no PCA (with ``whiten: pca`` all of them).
        normalize: Scale descriptors to unit length, after whitening and PCA. The published
            clusters were made without.
        centroids: Path of a saved ``centroids.npy`` to assign to instead of fitting.
        seed: 0..2^32 - 1.
    """

    num_clusters: int = 300
    descriptor: str = "masked_mean"
    whiten: str = "none"
    pca: int = 0
    normalize: bool = True
    centroids: str = ""
    seed: int = 0
    crops: CropSettings = CropSettings()
    kmeans: KMeansSettings = KMeansSettings()

    def __post_init__(self) -> None:
        at_least(0, "CLUSTERS", self, "num_clusters", "pca")
        one_of("CLUSTERS.WHITEN", self.whiten, ("none", "scale", "pca"))
        require(0 <= self.seed <= MAX_SEED, "CLUSTERS.SEED", self.seed, f"0..{MAX_SEED}")
