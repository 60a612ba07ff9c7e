"""Patch features without any weights: colour, oriented texture energy, position.

Per patch a short vector x: CIELAB means, log energies of a bank of oriented quadrature (Gabor)
filters, and the position. It is lifted by random Fourier features so that the cosine
similarity of two lifted vectors is a Gaussian kernel of their distance; every method written
for ViT features (cosine affinity, correspondence losses, K-means) then applies unchanged.

Shapes: D lifted channels, h x w patches of p pixels, F filters.
Source: Rahimi and Recht, "Random features for large-scale kernel machines", 2007; Yu et al.,
"Orthogonal random features", 2016; Gabor energies as in Malik et al., "Contour and texture
analysis for image segmentation", 2001.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy import ndimage
from skimage.color import rgb2lab

from u2seg.config.schema import FeatureSettings
from u2seg.features.base import (
    FEATURE_EXTRACTORS,
    Image,
    check_facets,
    image_inputs,
    target_size,
)
from u2seg.io.images import FILTERS, resize_image
from u2seg.structures.features import ImageInputs

Array = npt.NDArray[np.float32]
KNOWN = ("key", "token", "cls")
"""Facets; there is no attention."""

WAVELENGTHS = (4.0, 8.0, 16.0)
ORIENTATIONS = 4
FREQUENCIES = 128
"""Random frequencies; D is twice as many (cosine and sine)."""

# Scales in units of one kernel width: two patches that differ by 1 in the weighted vector have
# similarity exp(-1/2) = 0.61. Found on 60 COCO train images, see benchmarks/results/README.md.
LIGHTNESS_SCALE = 22.0
CHROMA_SCALE = 11.0
TEXTURE_SCALE = 1.6
TOKEN_POSITION_SCALE = 4.0
"""Position hardly counts where the same thing may stand anywhere."""
SMOOTHING = 0.5
"""Gaussian smoothing of the patch grid, standard deviation in patches."""


@FEATURE_EXTRACTORS.register("filter_bank")
class FilterBank:
    """The embedded default extractor: runs anywhere, needs nothing, is deterministic.

    Examples:
        >>> bank = FilterBank(FeatureSettings(image_size=32))
        >>> (inputs,) = bank.extract([np.zeros((20, 30, 3), dtype=np.uint8)], ["key"])
        >>> features = inputs.facets["key"]
        >>> features.grid.shape, features.image_size
        ((256, 4, 4), (20, 30))
        >>> bool(np.allclose(np.linalg.norm(features.grid, axis=0), 1, atol=1e-5))
        True
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        self.patch_size = settings.filter_bank.patch_size
        self.dim = 2 * FREQUENCIES

    def extract(
        self, images: Sequence[Image], facets: Sequence[str] = ("key",), resample: str = ""
    ) -> list[ImageInputs]:
        """Return lifted features, see ``FeatureExtractor.extract``; ``cls`` is the mean token."""
        check_facets(facets, KNOWN)
        return [self._one(image, facets, resample or self.settings.resample) for image in images]

    def _one(self, image: Image, facets: Sequence[str], resample: str) -> ImageInputs:
        size = target_size(image.shape[0], image.shape[1], self.patch_size, self.settings)
        looks = describe_looks(resize_image(image, size, FILTERS[resample]), self.patch_size)
        scales = {"key": self.settings.filter_bank.position_scale, "token": TOKEN_POSITION_SCALE}
        arrays = {}
        for facet, scale in scales.items():
            if facet in facets or (facet == "token" and "cls" in facets):
                place = positions(looks.shape[1], looks.shape[2], scale)
                arrays[facet] = lift(np.concatenate([looks, place]))
        if "cls" in facets:
            arrays["cls"] = arrays["token"].mean(axis=(1, 2))
        return image_inputs(image, {facet: arrays[facet] for facet in facets})


def describe_looks(image: Image, patch: int) -> Array:
    """Return (3 + F, h, w) float32 colour and texture of every patch, in kernel widths.

    The sides of the (H, W, 3) uint8 RGB image are multiples of ``patch``.
    """
    lab = rgb2lab(image).astype(np.float32)
    light = lab[..., 0]
    colour = pool(np.moveaxis(lab, -1, 0), patch)
    colour[0] /= LIGHTNESS_SCALE
    colour[1:] /= CHROMA_SCALE
    texture = np.log1p(pool(gabor_energies(light), patch)) / TEXTURE_SCALE
    looks = np.concatenate([colour, texture])
    smooth: Array = ndimage.gaussian_filter(looks, sigma=(0, SMOOTHING, SMOOTHING), mode="nearest")
    return smooth


def pool(channels: Array, patch: int) -> Array:
    """Return (C, H / p, W / p) means over p x p patches of (C, H, W).

    Examples:
        >>> pool(np.array([[[1, 3], [5, 7]]], dtype=np.float32), 2).tolist()
        [[[4.0]]]
    """
    count, height, width = channels.shape
    split = channels.reshape(count, height // patch, patch, width // patch, patch)
    means: Array = split.mean(axis=(2, 4), dtype=np.float32)
    return means


def positions(height: int, width: int, scale: float) -> Array:
    """Return (2, h, w) float32 patch centres (y, x) in -0.5..0.5, divided by ``scale``.

    Examples:
        >>> positions(1, 2, 0.5).tolist()
        [[[0.0, 0.0]], [[-0.5, 0.5]]]
    """
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    return (np.stack(np.meshgrid(y, x, indexing="ij")) / scale).astype(np.float32)


def gabor_energies(light: Array) -> Array:
    """Return (F, H, W) float32 local energy of oriented band-pass filters, in lightness units.

    F = wavelengths x orientations: the modulus of the response of (H, W) CIELAB lightness to
    one-sided (quadrature) Gabor filters of about one octave; mirrored at the borders.
    """
    pad = int(WAVELENGTHS[-1])
    mirrored = np.pad(light, pad, mode="symmetric")
    spectrum = scipy.fft.fft2(mirrored.astype(np.complex64))
    bank = _gabor_bank(*mirrored.shape)
    response = scipy.fft.ifft2(spectrum[None] * bank, axes=(-2, -1))
    energy: Array = np.abs(response)[:, pad:-pad, pad:-pad].astype(np.float32)
    return energy


@functools.lru_cache(maxsize=8)
def _gabor_bank(height: int, width: int) -> Array:
    """Return (F, H, W) transfer functions; log-Gabor radially, Gaussian in angle."""
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.fftfreq(width)[None, :]
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0  # avoids log 0; the mean is set to zero response below
    angle = np.arctan2(fy, fx)
    filters = []
    for wavelength in WAVELENGTHS:
        radial = np.exp(-(np.log(radius * wavelength) ** 2) / (2 * np.log(0.65) ** 2))
        radial[0, 0] = 0.0
        for k in range(ORIENTATIONS):
            # Wrapped to -pi..pi, so only one half plane answers: the response is analytic.
            turn = np.angle(np.exp(1j * (angle - np.pi * k / ORIENTATIONS)))
            filters.append(2 * radial * np.exp(-(turn**2) / (2 * (np.pi / 8) ** 2)))
    return np.stack(filters).astype(np.float32)


def lift(vector: Array) -> Array:
    """Return (2 x FREQUENCIES, h, w) float32 unit features of vectors (C, h, w) in kernel widths.

    For two patches a, b the inner product is about exp(-|x_a - x_b|^2 / 2).
    """
    channels = vector.shape[0]
    phase = np.tensordot(_frequencies(channels), vector, axes=1)
    lifted = np.concatenate([np.cos(phase), np.sin(phase)]) / np.sqrt(FREQUENCIES)
    result: Array = lifted.astype(np.float32)
    return result


@functools.lru_cache(maxsize=4)
def _frequencies(channels: int) -> Array:
    """Return (FREQUENCIES, C) orthogonal Gaussian frequencies, always the same ones."""
    rng = np.random.default_rng(20231217)
    blocks = []
    for _ in range(-(-FREQUENCIES // channels)):
        basis, triangle = np.linalg.qr(rng.standard_normal((channels, channels)))
        basis *= np.sign(np.diag(triangle))
        length = np.sqrt(rng.chisquare(channels, size=channels))
        blocks.append(length[:, None] * basis)
    return np.concatenate(blocks)[:FREQUENCIES].astype(np.float32)
