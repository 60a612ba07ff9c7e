"""Dense CRF: mean-field inference with a smoothness and an appearance kernel.

Energy of a labelling x: sum of unaries plus, over all pairs of pixels with different labels
(Potts), the weighted kernels exp(-|p_i - p_j|^2 / 2 sxy^2) and
exp(-|p_i - p_j|^2 / 2 sxy^2 - |I_i - I_j|^2 / 2 srgb^2).

Shapes: L labels, N masks, H x W pixels, P = H W.
Source: Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge
potentials", 2011; symmetric normalisation and the order of the update as in pydensecrf (commit
2723c7f), whose results this module matches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import CrfSettings
from u2seg.crf.lattice import NARROW, PermutohedralLattice
from u2seg.crf.parallel import Threads, default_threads
from u2seg.io.jit import compiled

Float = npt.NDArray[np.float32]
TILE = 512
"""Points whose values stay in the cache."""
LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts (Cody and Waite); the first has so few bits that its products are exact.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
ROUNDING = np.float32(1.5 * 2**23)
LEAST, ZERO, HALF, ONE = np.float32(-87.0), np.float32(0.0), np.float32(0.5), np.float32(1.0)


@dataclass(frozen=True)
class CrfKernels:
    """Widths and weights of the two kernels.

    Args:
        gaussian_sxy: Standard deviation of the smoothness kernel, pixels, > 0.
        gaussian_weight: Its weight.
        bilateral_sxy: Standard deviation of the appearance kernel in space, pixels, > 0.
        bilateral_srgb: The same in colour, grey levels of 0..255, > 0.
        bilateral_weight: Its weight.
    """

    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float

    @classmethod
    def from_settings(cls, settings: CrfSettings) -> CrfKernels:
        """Return the kernels of some settings."""
        return cls(
            gaussian_sxy=settings.gaussian_sxy,
            gaussian_weight=settings.gaussian_weight,
            bilateral_sxy=settings.bilateral_sxy,
            bilateral_srgb=settings.bilateral_srgb,
            bilateral_weight=settings.bilateral_weight,
        )


class DenseCrf:
    """The CRF of one image; build once, then refine any number of maps of it.

    Args:
        image: (H, W, 3) uint8, any channel order, H, W >= 1.
        kernels: Widths and weights.
        threads: How many threads may run, >= 1; the result does not depend on it. Default:
            ``default_threads()``.

    Raises:
        ValueError: if ``image`` is not (H, W, 3) uint8 or is empty, or ``threads`` below 1.
        UserError: if the kernels are far too narrow for the image (``PermutohedralLattice``).

    Examples:
        A mask with a hole in a uniform square: the CRF fills the hole.

        >>> image = np.zeros((8, 8, 3), dtype=np.uint8)
        >>> image[2:7, 2:7] = 255
        >>> mask = image[..., 0] > 0
        >>> holed = mask.copy()
        >>> holed[4, 4] = False
        >>> crf = DenseCrf(image, CrfKernels(1.0, 1.0, 50.0, 5.0, 10.0))
        >>> bool(np.array_equal(crf.refine_masks(holed[None], 10)[0] > 0.5, mask))
        True

    Notes:
        Measured on a photograph of 1600 x 1600 pixels with CutLER's widths: 230 bytes per pixel
        while building, then 175, plus 13 per pixel and label while inferring; richer colours
        and narrower kernels make more lattice vertices and cost up to twice that. The same
        bytes on every machine and for any number of threads.
    """

    def __init__(
        self, image: npt.NDArray[np.uint8], kernels: CrfKernels, threads: int | None = None
    ) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        self.shape = (height, width)
        self._threads = default_threads() if threads is None else threads
        positions = np.concatenate(
            [
                _pixel_positions(height, width) / np.float32(kernels.bilateral_sxy),
                image.reshape(-1, 3).T.astype(np.float32) / np.float32(kernels.bilateral_srgb),
            ]
        )
        smooth = _smoothness_filter(
            height, width, kernels.gaussian_sxy, kernels.gaussian_weight, self._threads
        )
        bilateral = _normalized(positions, kernels.bilateral_weight, self._threads)
        self._filters = (smooth, bilateral)

    def infer(self, unary: Float, iterations: int) -> Float:
        """Return the label probabilities of every pixel after mean-field inference.

        Args:
            unary: (L, H, W) float32, negative log-probability (any offset per pixel), L >= 1.
            iterations: Mean-field updates, >= 0; 0 returns softmax(-unary).

        Returns:
            (L, H, W) float32, sums to 1 over L.

        Raises:
            ValueError: if the shape does not fit the image, a value is not finite or L is 0.
        """
        self._check("unary", unary)
        if len(unary) == 0:
            raise ValueError("unary must have at least one label")
        score = -_columns(unary)
        return _maps(self._iterate(score, iterations, softmax, len(unary)), unary.shape)

    def refine_masks(self, masks: npt.NDArray[np.bool_] | Float, iterations: int) -> Float:
        """Return the foreground probability of several masks, each a two-label CRF of its own.

        The unary is CutLER's: softmax over the logits (1 - m, m), that is 0.731 against 0.269
        for a binary mask.

        Args:
            masks: (N, H, W) bool, or float in 0..1; N may be 0.
            iterations: Mean-field updates, >= 0.

        Returns:
            (N, H, W) float32 in 0..1.

        Raises:
            ValueError: if the shape does not fit the image or a value is not finite.
        """
        self._check("masks", masks)
        if len(masks) == 0:
            return np.empty(masks.shape, dtype=np.float32)
        # With two labels one column per mask is enough, of t = q_fg - q_bg = tanh(score / 2).
        score = _columns(np.float32(2.0) * masks.astype(np.float32) - np.float32(1.0))
        q: Float = np.float32(0.5) + np.float32(0.5) * self._iterate(score, iterations, half_tanh)
        return _maps(q, masks.shape)

    def _iterate(
        self, score: Float, iterations: int, link: Callable[..., None], *args: int
    ) -> Float:
        """Return (P, C) q = link(score + messages(q)), starting from link(score)."""
        pixels = len(score)
        with Threads(self._threads) as threads:
            q, updated = score.copy(), np.empty_like(score)
            threads.run(link, pixels, *args, q)
            for _ in range(iterations):
                base = score
                for kernel in self._filters:
                    kernel.add_filtered(q, threads, base, updated)
                    base = updated
                threads.run(link, pixels, *args, updated)
                q, updated = updated, q
        return q

    def _check(self, name: str, values: npt.NDArray[np.generic]) -> None:
        if values.ndim != 3 or values.shape[1:] != self.shape:
            raise ValueError(f"{name} must be (n, {self.shape}), got shape {values.shape}")
        if values.dtype != np.bool_ and not np.isfinite(values).all():
            raise ValueError(f"{name} hold NaN or infinity")


def _columns(maps: Float) -> Float:
    """Return (n, H, W) maps as (H W, C) float32, C >= NARROW, with zeros after column n."""
    count = len(maps)
    columns = np.zeros((maps[0].size, max(count, NARROW)), dtype=np.float32)
    columns[:, :count] = maps.reshape(count, -1).T
    return columns


def _maps(columns: Float, shape: tuple[int, ...]) -> Float:
    """Return the first columns of (H W, C) as maps of the (n, H, W) given."""
    return np.ascontiguousarray(columns[:, : shape[0]].T).reshape(shape)


def _pixel_positions(height: int, width: int) -> Float:
    """Return (2, H W) float32: x, y of every pixel in row-major order."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x.ravel(), y.ravel()])


def _normalized(positions: Float, weight: float, count: int) -> PermutohedralLattice:
    with Threads(count) as threads:
        lattice = PermutohedralLattice(positions, threads)
        lattice.normalize(weight, threads)
    return lattice


@functools.lru_cache(maxsize=2)
def _smoothness_filter(
    height: int, width: int, sxy: float, weight: float, threads: int
) -> PermutohedralLattice:
    # Depends on the size alone; all images squashed to one square share it.
    return _normalized(_pixel_positions(height, width) / np.float32(sxy), weight, threads)


@compiled
def exp_of_negative(x: np.float32) -> np.float32:
    """Return e^x of a float32 x <= 0, to 2e-7 of the result; e^-87 for smaller x.

    The system's exponential differs between machines in the last bit; this one does not.

    Examples:
        >>> [float(exp_of_negative(np.float32(x))) for x in (0.0, -1.0, -1e9)]
        [1.0, 0.3678794503211975, 1.6458114537543937e-38]
    """
    clipped = x if x > LEAST else LEAST
    whole = (clipped * LOG2_E + ROUNDING) - ROUNDING
    r = (clipped - whole * LN2_HIGH) - whole * LN2_LOW
    # Taylor series to r^7, |r| <= ln 2 / 2.
    series = np.float32(1 / 5040)
    series = series * r + np.float32(1 / 720)
    series = series * r + np.float32(1 / 120)
    series = series * r + np.float32(1 / 24)
    series = series * r + np.float32(1 / 6)
    series = series * r + HALF
    series = series * r + ONE
    series = series * r + ONE
    power = (np.int32(whole) + np.int32(127)) << np.int32(23)
    return series * np.int32(power).view(np.float32)


@compiled
def half_tanh(first: int, last: int, values: Float) -> None:
    """Replace x in a range of points by tanh(x / 2) = 2 sigmoid(x) - 1."""
    flat = values[first:last].reshape(-1)
    for i in range(len(flat)):
        small = exp_of_negative(-abs(flat[i]))
        size = (ONE - small) / (ONE + small)
        flat[i] = size if flat[i] > 0 else -size


@compiled
def softmax(first: int, last: int, labels: int, values: Float) -> None:
    """Replace the first ``labels`` columns of a range by their softmax, later ones by 0."""
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for p in range(start, stop):
            largest = values[p, 0]
            for c in range(1, labels):
                largest = max(largest, values[p, c])
            for c in range(values.shape[1]):
                values[p, c] = min(values[p, c] - largest, ZERO)
        flat = values[start:stop].reshape(-1)
        for i in range(len(flat)):
            flat[i] = exp_of_negative(flat[i])
        for p in range(start, stop):
            total = ZERO
            for c in range(labels):
                total += values[p, c]
            for c in range(labels):
                values[p, c] /= total
            for c in range(labels, values.shape[1]):
                values[p, c] = ZERO
