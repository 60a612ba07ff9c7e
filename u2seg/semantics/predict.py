"""From codes to a stuff map at the size of the photograph.

Shapes: D feature channels, K code channels, S clusters, h x w patches, H x W pixels.
Source: STEGO commit eb4d6b5, src/eval_segmentation.py and src/crf.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from u2seg.config.schema import CrfSettings, SemanticSettings
from u2seg.crf import CrfKernels, DenseCrf
from u2seg.io.images import resize_image
from u2seg.semantics.head import CodeHead, grid_tensor
from u2seg.structures.features import PatchFeatures

Float = npt.NDArray[np.float32]
Score = Callable[[Tensor], Tensor]


@torch.no_grad()
def code_of(head: CodeHead, features: PatchFeatures, flipped: PatchFeatures | None) -> Tensor:
    """Return the (1, K, h, w) code, averaged with the mirrored-back code of the mirror image."""
    code: Tensor = head(grid_tensor(features.grid))
    if flipped is None:
        return code
    mirrored: Tensor = head(grid_tensor(flipped.grid))
    return (code + mirrored.flip(dims=(3,))) / 2


def check_features(features: PatchFeatures, flipped: PatchFeatures | None, in_dim: int) -> None:
    """Raise ValueError if features have other channels than D, or the mirror image another grid."""
    if features.grid.shape[0] != in_dim:
        raise ValueError(f"features have {features.grid.shape[0]} channels, the model {in_dim}")
    if flipped is not None and flipped.grid.shape != features.grid.shape:
        raise ValueError(
            f"mirror image has features {flipped.grid.shape}, image {features.grid.shape}"
        )


@torch.no_grad()
def log_probabilities(score: Score, code: Tensor, size: tuple[int, int]) -> Float:
    """Return (S, H, W) float32 scores of the (1, K, h, w) code enlarged bilinearly to (H, W)."""
    large = functional.interpolate(code, size=size, mode="bilinear", align_corners=False)
    result: Float = score(large)[0].numpy()
    return result


def refine(log_probs: Float, image: npt.NDArray[np.uint8], settings: CrfSettings) -> Float:
    """Return (S, H, W) float32 probabilities after the dense CRF.

    Args:
        log_probs: (S, H, W) float32.
        image: (H, W, 3) uint8 RGB. (Upstream passes BGR, which changes nothing.)
        settings: Of the CRF.
    """
    crf = DenseCrf(image, CrfKernels.from_settings(settings))
    return crf.infer(-log_probs, settings.iterations)


def working_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """Return the size at which an image's labels are computed: same shape, bounded area.

    Examples:
        >>> working_size(240, 320, 102400)
        (240, 320)
        >>> working_size(1000, 4000, 102400)
        (160, 640)
    """
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    return max(1, int(height * scale)), max(1, int(width * scale))


def most_likely(scores: Float, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the cluster with the largest score, scores enlarged bilinearly to (H, W).

    One cluster at a time, so memory does not grow with S at full size.

    Args:
        scores: (S, h, w) float32, S <= 255.
        size: (H, W).

    Returns:
        (H, W) uint8, the lowest of equals.

    Examples:
        >>> most_likely(np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32), (1, 4)).tolist()
        [[0, 0, 1, 1]]
    """
    if scores.shape[1:] == size:
        same: npt.NDArray[np.uint8] = scores.argmax(axis=0).astype(np.uint8)
        return same
    best = np.full(size, -np.inf, dtype=np.float32)
    label = np.zeros(size, dtype=np.uint8)
    for index, score in enumerate(scores):
        large = np.asarray(
            Image.fromarray(score).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        )
        wins = large > best
        best[wins], label[wins] = large[wins], index
    return label


def label_map(
    score: Score, code: Tensor, image: npt.NDArray[np.uint8], settings: SemanticSettings
) -> npt.NDArray[np.uint8]:
    """Return the (H, W) uint8 stuff map of an image from its (1, K, h, w) code.

    Args:
        score: (1, K, h, w) code -> (1, S, h, w) log-probabilities.
        code: Of the image.
        image: (H, W, 3) uint8 RGB.
        settings: ``max_pixels`` and ``crf`` and ``dense_crf`` are used.
    """
    full = (image.shape[0], image.shape[1])
    work = working_size(*full, settings.max_pixels)
    scores = log_probabilities(score, code, work)
    if settings.crf:
        small = image if work == full else resize_image(image, work, Image.Resampling.BILINEAR)
        scores = refine(scores, small, settings.dense_crf)
    return most_likely(scores, full)
