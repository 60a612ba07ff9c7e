"""Rows of the normalised cut: one eigenvector, three cuts, the dense CRF.

Shapes: g x g patches, n = g^2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.inputs import REFERENCE_CUTS, coarse_masks, photograph, synthetic_features
from benchmarks.peers import compiled_crf, dense_affinity, dense_cut, dense_maskcut
from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from u2seg.config.schema import CrfSettings
from u2seg.crf import CrfKernels, DenseCrf
from u2seg.masks.bitgraph import BitGraph
from u2seg.masks.maskcut import iou, maskcut
from u2seg.masks.ncut import cut_vector

Vector = npt.NDArray[np.float64]
FACTOR = Target(">=", 100)
CRF_FACTOR = Target(">=", 5)
PRODUCTS = 9
"""Products with the graph that a cut needs at least: the fewest seen (facts sheet)."""


def one_cut(setting: Setting) -> Row:
    """Return the row of one eigenvector beside SciPy's dense generalised solver.

    Both start from the graph in the form they keep it in: bits, and float64 A and D.
    """
    cuts = REFERENCE_CUTS
    graph = BitGraph.from_features(synthetic_features(setting.sizes), cuts.tau)
    edges, live = graph.edges(), np.ones(graph.size, dtype=bool)
    affinity, degree = dense_affinity(edges, cuts.eps)
    pair = alternate(
        "cut",
        lambda: cut_vector(graph, cuts.eps, live),
        lambda: dense_cut(affinity, degree),
        setting.repeats,
        warm_peer=False,
    )
    values, vectors = pair.peer_result
    cosine = weighted_cosine(pair.our_result, vectors[:, 0], affinity.sum(axis=1))
    overlap = partition_iou(pair.our_result, vectors[:, 0])
    n = len(edges)
    moved = PRODUCTS * n * n / 8
    return judged(
        "cut",
        pair.ours,
        pair.peer,
        ratio=pair.peer / pair.ours,
        unit="s",
        target=FACTOR,
        floor=moved / setting.rates.bytes,
        note=f"eigengap {values[1] - values[0]:.2g}, |cos| {cosine:.9f}, bipartition IoU "
        f"{overlap:.6f}, density {edges.mean():.2f}; each side starts "
        f"from its own ready graph; floor: {PRODUCTS} products as bits; peer not warmed up",
        correct=cosine >= 0.9999 and overlap >= 0.999,
    )


def three_cuts(setting: Setting) -> Row:
    """Return the row of an image's cuts beside as many dense ones, affinities rebuilt."""
    features = synthetic_features(setting.sizes)
    pair = alternate(
        "three_cuts",
        lambda: [mask.grid for mask in maskcut(features, REFERENCE_CUTS)],
        lambda: dense_maskcut(features, REFERENCE_CUTS),
        setting.repeats,
        warm_peer=False,
    )
    mine, theirs = pair.our_result, pair.peer_result
    agreement = [iou(a, b) for a, b in zip(mine, theirs)]
    n, cuts = features.shape[0] * features.shape[1], REFERENCE_CUTS.num_masks
    moved = 8 * n * n + cuts * PRODUCTS * n * n / 8
    product = float(n) * n * features.grid.shape[0]
    return judged(
        "three_cuts",
        pair.ours,
        pair.peer,
        ratio=pair.peer / pair.ours,
        unit="s",
        target=FACTOR,
        floor=product / setting.rates.flops + moved / setting.rates.bytes,
        note=f"{len(mine)} masks, the peer {len(theirs)}, IoU {_list(agreement)}; floor: half "
        "of X'X, written and read once, then bits; peer not warmed up",
        correct=len(mine) == len(theirs) > 0 and min(agreement) >= 0.99,
    )


def dense_crf(setting: Setting) -> Row:
    """Return the row of three refined masks beside three calls of pydensecrf2."""
    image, masks = photograph(setting.sizes.side), coarse_masks(setting.sizes)
    crf_settings = CrfSettings()

    def ours() -> npt.NDArray[np.bool_]:
        crf = DenseCrf(image, CrfKernels.from_settings(crf_settings))
        return crf.refine_masks(masks, crf_settings.iterations) > 0.5

    pair = alternate(
        "crf",
        ours,
        lambda: np.stack([compiled_crf(image, mask, crf_settings) for mask in masks]),
        setting.repeats,
    )
    agreement = [iou(a, b) for a, b in zip(pair.our_result, pair.peer_result, strict=True)]
    pixels = masks[0].size
    # Per update: 6 vertices with a weight of 4 and an index of 4 bytes, read to splat and again
    # to slice, and every mask read and written. Building the lattice and blurring come on top.
    moved = crf_settings.iterations * pixels * (2 * 6 * 8 + 2 * len(masks) * 4)
    return judged(
        "crf",
        pair.ours,
        pair.peer,
        ratio=pair.peer / pair.ours,
        unit="s",
        target=CRF_FACTOR,
        floor=moved / setting.rates.bytes,
        note=f"IoU {_list(agreement)}; the peer uses one thread; floor: memory moved by splat "
        "and slice alone",
        correct=min(agreement) >= 0.995,
    )


def weighted_cosine(a: Vector, b: Vector, degree: Vector) -> float:
    """Return |cos| of two vectors in the inner product x' D y.

    Examples:
        >>> one, d = np.array([1.0, 1.0]), np.array([1.0, 3.0])
        >>> weighted_cosine(one, -2 * one, d), weighted_cosine(one, np.array([3.0, -1.0]), d)
        (1.0, 0.0)
    """
    products = [float(np.sum(degree * x * y)) for x, y in ((a, b), (a, a), (b, b))]
    return abs(products[0]) / float(np.sqrt(products[1] * products[2]))


def partition_iou(a: Vector, b: Vector) -> float:
    """Return the IoU of two bipartitions at the mean, the better of both ways of naming sides.

    Examples:
        >>> v = np.array([1.0, 0.0, 0.0])
        >>> partition_iou(v, -v), partition_iou(v, np.array([0.0, 1.0, 0.0]))
        (1.0, 0.5)
    """
    first, second = a > a.mean(), b > b.mean()
    return max(min(iou(first, s), iou(~first, ~s)) for s in (second, ~second))


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values) or "none"
