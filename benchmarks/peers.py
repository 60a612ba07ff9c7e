"""What others do, written from the description of their methods: the sides compared with.

Shapes: C channels, h x w patches, H x W pixels, N masks.
Source: Wang et al., 2023, section 3.2, and CutLER commit cca0a27 as described in its issues 14
and 74: a dense generalised eigen-solver per cut, the affinity rebuilt from the features each
time, one dense CRF per mask.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from u2seg.config.schema import CrfSettings, MaskCutSettings
from u2seg.masks.maskcut import cut_once, refused
from u2seg.masks.ncut import fix_sign
from u2seg.structures.features import PatchFeatures

Matrix = npt.NDArray[np.float64]
Grid = npt.NDArray[np.bool_]


def dense_cut(affinity: Matrix, degree: Matrix) -> tuple[Matrix, Matrix]:
    """Return eigenvalues (2,) and eigenvectors (n, 2) of (D - A) v = lambda D v, 2nd and 3rd.

    Args:
        affinity: (n, n) float64 A.
        degree: (n, n) float64 D, diagonal.
    """
    values, vectors = eigh(degree - affinity, degree, subset_by_index=[1, 2])
    return values, vectors


def dense_affinity(edges: Grid, eps: float) -> tuple[Matrix, Matrix]:
    """Return A (1 on edges, ``eps`` elsewhere) and D, both (n, n) float64."""
    affinity = np.where(edges, 1.0, eps)
    return affinity, np.diag(affinity.sum(axis=1))


def dense_maskcut(features: PatchFeatures, settings: MaskCutSettings) -> list[Grid]:
    """Return the masks of ``settings.num_masks`` cuts, each with an affinity of its own.

    The sign of the vector and ties of the seed, which the solver decides in the original, are
    settled by this project's rule, so that masks can be compared.

    Args:
        features: Patch features.
        settings: ``tau``, ``eps``, ``num_masks``, ``max_overlap`` and ``min_area`` are read.

    Returns:
        (h, w) bool masks that are not empty.
    """
    shape = features.shape
    grid = features.grid.reshape(features.grid.shape[0], -1).astype(np.float32)
    everywhere = np.ones(shape, dtype=bool)
    painted = np.zeros(shape, dtype=bool)
    previous: Grid | None = None
    masks = []
    for _ in range(settings.num_masks):
        live = grid * ~painted.ravel()
        length = np.linalg.norm(live, axis=0)
        unit = live / np.where(length > 0, length, 1)
        edges = unit.T @ unit > settings.tau
        vector = dense_cut(*dense_affinity(edges, settings.eps))[1][:, 0]
        component = cut_once(fix_sign(vector).reshape(shape), everywhere)
        if refused(component, previous, settings):
            component = np.zeros_like(component)
        previous = component
        masks.append(component & ~painted)
        painted |= component
    return [mask for mask in masks if mask.any()]


def compiled_crf(image: npt.NDArray[np.uint8], mask: Grid, settings: CrfSettings) -> Grid:
    """Return one (H, W) bool mask refined by pydensecrf2, the library CutLER calls.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        settings: Of the CRF.
    """
    from pydensecrf import densecrf

    height, width = mask.shape
    logits = np.stack([1.0 - mask, mask.astype(float)])
    energy = np.log(np.exp(logits).sum(axis=0)) - logits
    crf = densecrf.DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(energy.reshape(2, -1).astype(np.float32))
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=image.copy(),
        compat=settings.bilateral_weight,
    )
    marginals = np.asarray(crf.inference(settings.iterations))
    refined: Grid = (marginals[1] > marginals[0]).reshape(height, width)
    return refined
