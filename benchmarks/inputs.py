"""What is measured on: seeded features and masks, one photograph, a ViT without its weights.

Shapes: C channels, g x g patches of 8 x 8 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from u2seg.config.schema import FeatureSettings, MaskCutSettings, MaskSettings, VitSettings
from u2seg.io.atomic import atomic_file
from u2seg.io.images import resize_image
from u2seg.structures.features import PatchFeatures

PATCH = 8
OBJECTS = ((0.30, 0.30, 0.16), (0.65, 0.62, 0.22), (0.2, 0.78, 0.14))
"""Centre (y, x) and radius of the objects, shares of the image's side."""
COMMON, SLOW, WHITE = 0.38, 0.35, 0.6
"""Strength of the shared direction, the slow noise and the white noise; an object's is 1."""
REFERENCE_MASKS = MaskSettings(maskcut=MaskCutSettings(rule="released"))
REFERENCE_CUTS = REFERENCE_MASKS.maskcut
"""Three cuts whatever happens, as the published code makes."""


@dataclass(frozen=True)
class Sizes:
    """How large the measured problems are; tests take small ones.

    Args:
        grid: Patches a side; images have 8 times as many pixels a side.
        channels: Of the synthetic features.
        vit: The ViT that is measured beside.
        batch: Images that a memory worker holds at a time.
        gpu_batch: Images of a forward pass on the GPU.
    """

    grid: int = 60
    channels: int = 384
    vit: str = "dino_vits8"
    batch: int = 4
    gpu_batch: int = 32

    @property
    def side(self) -> int:
        """Pixels a side."""
        return PATCH * self.grid


def object_maps(grid: int) -> npt.NDArray[np.float64]:
    """Return (3, g, g) float64, 1 within each object and 0 outside."""
    y, x = (np.mgrid[:grid, :grid] + 0.5) / grid
    return np.stack([(np.hypot(y - cy, x - cx) < r).astype(float) for cy, cx, r in OBJECTS])


def synthetic_features(sizes: Sizes, seed: int = 0) -> PatchFeatures:
    """Return features like those of a self-supervised ViT: smooth, with three objects.

    Three objects on one background, each with a direction of its own, a share that all patches
    have in common, and noise that varies slowly. At tau = 0.15 about two thirds of the pairs of
    60 x 60 patches are alike, as the facts of such features say.

    Args:
        sizes: ``grid`` and ``channels``.
        seed: Of the directions and the noise.

    Returns:
        (C, g, g) float32 for an image of 8 g x 8 g pixels.
    """
    rng = np.random.default_rng(seed)
    width = sizes.grid / 60
    inside = np.stack([gaussian_filter(m, 0.7 * width) for m in object_maps(sizes.grid)])
    outside = np.clip(1 - inside.sum(axis=0), 0, 1)[None]
    directions = rng.standard_normal((5, sizes.channels)) / np.sqrt(sizes.channels)
    parts = np.concatenate([inside, outside, np.full_like(outside, COMMON)])
    grid = np.einsum("khw,kc->chw", parts, directions)
    noise = rng.standard_normal((sizes.channels, sizes.grid, sizes.grid))
    for scale, amount in ((8.0 * width, SLOW), (0.0, WHITE)):
        layer = gaussian_filter(noise, (0, scale, scale))
        grid += amount / np.sqrt(sizes.channels) * layer / layer.std()
    return PatchFeatures(grid.astype(np.float32), (sizes.side, sizes.side))


def photograph(side: int) -> npt.NDArray[np.uint8]:
    """Return (side, side, 3) uint8 RGB: a cup of coffee, colours inverted within the objects.

    The photograph ships with scikit-image; the inversion gives the objects outlines that a CRF
    finds, in the texture of a photograph.
    """
    from skimage import data

    plain = resize_image(np.asarray(data.coffee()), (side, side), Image.Resampling.LANCZOS)
    inside: npt.NDArray[np.bool_] = np.any(object_maps(side) > 0, axis=0)
    composed: npt.NDArray[np.uint8] = np.where(inside[..., None], 255 - plain, plain)
    return composed


def save_photograph(path: Path, side: int) -> Path:
    """Write the photograph as JPEG and return its path."""
    with atomic_file(path) as file:
        Image.fromarray(photograph(side)).save(file, format="JPEG", quality=92)
    return path


def coarse_masks(sizes: Sizes) -> npt.NDArray[np.bool_]:
    """Return (3, 8 g, 8 g) bool masks with the outlines of patches."""
    maps = object_maps(sizes.grid) > 0.5
    return maps.repeat(PATCH, axis=1).repeat(PATCH, axis=2)


def bare_vit(name: str, seed: int = 0) -> Any:
    """Return the timm ViT that an extractor uses, with random weights, in evaluation mode."""
    import timm
    import torch

    from u2seg.features.vit import ARCHITECTURES

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(
            ARCHITECTURES[name], pretrained=False, dynamic_img_size=True, num_classes=0
        )
    return model.eval()


def vit_settings(
    sizes: Sizes, folder: Path, *, device: str = "cpu", precision: str = "fp32", batch: int = 1
) -> FeatureSettings:
    """Return settings of an extractor whose weights are random, saved under ``folder``.

    Time and memory of a ViT do not depend on its weights, so a benchmark needs no download.
    """
    from safetensors.torch import save

    path = folder / f"{sizes.vit}.safetensors"
    if not path.is_file():
        with atomic_file(path) as file:
            file.write(save(bare_vit(sizes.vit).state_dict()))
    return FeatureSettings(
        name=sizes.vit,
        image_size=sizes.side,
        device=device,
        batch_size=batch,
        vit=VitSettings(weights=str(path), precision=precision),
    )


def vit_flops(sizes: Sizes) -> float:
    """Return the multiply-adds, times two, of one forward pass of a ViT-S/8 or ViT-B/8.

    12 blocks of n (24 d^2) for the projections and the perceptron and 4 n^2 d for attention.

    Examples:
        >>> round(vit_flops(Sizes()) / 1e9)  # the facts sheet: 392 GFLOP
        392
    """
    n, d = sizes.grid**2 + 1, 768 if "vitb" in sizes.vit else 384
    return 12.0 * (24 * n * d * d + 4 * n * n * d)
