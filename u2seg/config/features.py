"""Settings of the patch features: section ``FEATURES`` and its members."""

from __future__ import annotations

from dataclasses import dataclass

from u2seg.config.section import RESAMPLING, Section, one_of, require


@dataclass(frozen=True)
class VitSettings:
    """A self-supervised vision transformer.

    Args:
        weights: Local file or URL of its weights; empty = from a cache of this machine, or the
            hub.
        sha256: Expected digest of ``weights``; empty = unchecked.
        precision: ``fp32`` or ``bf16`` for the forward pass.
    """

    weights: str = ""
    sha256: str = ""
    precision: str = "fp32"

    def __post_init__(self) -> None:
        one_of("FEATURES.VIT.PRECISION", self.precision, ("fp32", "bf16"))


@dataclass(frozen=True)
class FilterBankSettings:
    """Colour and texture, without weights.

    Args:
        patch_size: Side of a patch in pixels, 1..64.
        position_scale: Share of the image's side that counts as one kernel width in the ``key``
            facet; smaller = more compact masks, > 0.
    """

    patch_size: int = 8
    position_scale: float = 0.33

    def __post_init__(self) -> None:
        name = "FEATURES.FILTER_BANK"
        require(1 <= self.patch_size <= 64, f"{name}.PATCH_SIZE", self.patch_size, "1..64")
        require(self.position_scale > 0, f"{name}.POSITION_SCALE", self.position_scale, "> 0")


@dataclass(frozen=True)
class FeatureSettings(Section):
    """Patch features.

    Args:
        name: A registered extractor: ``filter_bank`` (no weights) or a ViT such as
            ``dino_vitb8`` (the paper's), ``dino_vits8``, ``dinov2_vits14``, ``dinov3_vits16``;
            ``auto``: the best ViT whose weights can be had when a run begins, else
            ``filter_bank``.
        image_size: Side of the resized image in pixels (MaskCut: 480); rounded to patches.
        resize: ``square`` squashes to image_size x image_size (the reference), ``keep`` keeps
            the aspect ratio with about the same number of patches.
        resample: Filter of that resizing: ``lanczos`` (MaskCut), ``bicubic``, ``bilinear``,
            ``nearest``.
        batch_size: Images per forward pass of a GPU, and read at a time, >= 1.
        device: ``auto`` (GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` ...
    """

    name: str = "filter_bank"
    image_size: int = 480
    resize: str = "square"
    resample: str = "lanczos"
    batch_size: int = 4
    device: str = "auto"
    vit: VitSettings = VitSettings()
    filter_bank: FilterBankSettings = FilterBankSettings()

    def __post_init__(self) -> None:
        require(self.image_size >= 16, "FEATURES.IMAGE_SIZE", self.image_size, ">= 16")
        one_of("FEATURES.RESIZE", self.resize, ("square", "keep"))
        one_of("FEATURES.RESAMPLE", self.resample, RESAMPLING)
        require(self.batch_size >= 1, "FEATURES.BATCH_SIZE", self.batch_size, ">= 1")
