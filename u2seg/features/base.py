"""What a feature extractor is, and the table of them.

Shapes: D channels, h x w patches, H x W pixels of the photograph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import FeatureSettings
from u2seg.errors import UserError
from u2seg.registry import Registry
from u2seg.structures.features import ImageInputs, PatchFeatures

FACETS = ("key", "token", "attention", "cls")
"""``key``: what MaskCut compares; ``token``: what STEGO and the clustering compare; ``attention``:
of the CLS token to every patch, by head; ``cls``: a descriptor of the whole image."""
Image = npt.NDArray[np.uint8]
MAX_STRETCH = 4
"""With ``resize: keep``, no side is longer than this many times ``image_size``."""

FEATURE_EXTRACTORS = Registry(
    "feature extractor", locations=("u2seg.features.filter_bank", "u2seg.features.vit")
)


class FeatureExtractor(Protocol):
    """Turns photographs into patch features. Members of ``FEATURE_EXTRACTORS`` build one."""

    patch_size: int
    dim: int

    def extract(
        self, images: Sequence[Image], facets: Sequence[str] = ("key",), resample: str = ""
    ) -> list[ImageInputs]:
        """Return for every image all facets, from one pass over it.

        Args:
            images: (H, W, 3) uint8 RGB, any sizes.
            facets: Of ``FACETS``; keys, tokens and the descriptor have ``dim`` channels.
            resample: Filter that resizes the images; empty = ``FEATURES.RESAMPLE``.
        """
        ...


def build_extractor(settings: FeatureSettings) -> FeatureExtractor:
    """Return the extractor of ``settings.name``; UserError if it or its weights are unknown."""
    extractor: FeatureExtractor = check_name(settings)(settings)
    return extractor


def check_name(settings: FeatureSettings) -> Callable[..., Any]:
    """Return the factory of ``settings.name``; UserError if the name is unknown."""
    known = "timm:*" if settings.name.startswith("timm:") else settings.name
    return FEATURE_EXTRACTORS.get(known)


def check_facets(facets: Sequence[str], known: Sequence[str] = FACETS) -> None:
    """Raise UserError if one of the facets is not known."""
    for facet in facets:
        if facet not in known:
            raise UserError(f"unknown facet {facet!r}: known are {', '.join(known)}")


def image_inputs(pixels: Image, arrays: dict[str, npt.NDArray[np.float32]]) -> ImageInputs:
    """Return an image with those of its facets, (D, h, w) or for ``cls`` (D,), that are finite."""
    finite = {f: np.ascontiguousarray(a) for f, a in arrays.items() if np.isfinite(a).all()}
    cls = finite.pop("cls", None)
    size = (pixels.shape[0], pixels.shape[1])
    return ImageInputs(pixels, {f: PatchFeatures(a, size) for f, a in finite.items()}, cls)


def target_size(height: int, width: int, patch: int, settings: FeatureSettings) -> tuple[int, int]:
    """Return the size in pixels to which an image is resized before patches are cut.

    ``square``: ``image_size`` on both sides, rounded to patches (MaskCut). ``keep``: the aspect
    ratio is kept at about the same number of pixels; extreme ratios are bounded.

    Returns:
        (height, width) in pixels, multiples of ``patch``, at least two patches each.

    Examples:
        >>> from u2seg.config.schema import FeatureSettings
        >>> target_size(427, 640, 8, FeatureSettings(image_size=480))
        (480, 480)
        >>> target_size(400, 800, 8, FeatureSettings(image_size=480, resize="keep"))
        (336, 680)
    """
    side = settings.image_size
    if settings.resize == "square":
        tall, wide = float(side), float(side)
    else:
        scale = side / math.sqrt(height * width)
        tall, wide = height * scale, width * scale
    limit = MAX_STRETCH * side

    def rounded(length: float) -> int:
        return max(2, round(min(length, limit) / patch)) * patch

    return rounded(tall), rounded(wide)
