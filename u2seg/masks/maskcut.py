"""MaskCut: repeated normalised cuts on one image's patch features.

Shapes: h x w patches. Every rule is one function; constants come with ``MaskCutSettings``.
Source: Wang et al., "Cut and Learn for Unsupervised Object Detection and Instance
Segmentation", 2023, section 3.2; CutLER commit cca0a27, maskcut/maskcut.py; the seed component
from TokenCut. Deliberate differences from that code:

* the sign of the eigenvector is fixed (theirs is the solver's), ties of the seed are broken by
  rule (theirs by rounding), see ``pick_seed``;
* a round whose mask is refused ends the search: their next round solves the same graph again
  and accepts what was just refused (``rule: released`` does the same);
* ``painted: exclude`` takes painted patches out of the graph. Left in as isolated nodes (the
  reference), they attract later cuts: the eigenvector concentrates on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from u2seg.config.schema import MaskCutSettings
from u2seg.masks.bitgraph import BitGraph
from u2seg.masks.ncut import cut_vector
from u2seg.structures.features import PatchFeatures

Grid = npt.NDArray[np.bool_]
TIE = 1e-9
"""Moduli of the eigenvector within this share of the largest count as equal."""


@dataclass(frozen=True)
class PatchMask:
    """One cut, at patch resolution.

    Args:
        grid: (h, w) bool.
        score: Mean cut quality 0..1: 1 - (cut value of the bipartition), see ``cut_score``.
    """

    grid: Grid
    score: float


def maskcut(
    features: PatchFeatures, settings: MaskCutSettings, name: str = "an image"
) -> list[PatchMask]:
    """Return up to ``settings.num_masks`` disjoint object masks of one image.

    Args:
        features: Patch features, facet ``key``.
        settings: tau, eps, num_masks, max_overlap, min_area, max_area.
        name: Of the image, for messages.

    Returns:
        Masks in the order they were cut; possibly none (a constant image has no cut).
    """
    graph = BitGraph.from_features(features, settings.tau)
    exclude = settings.painted == "exclude"
    painted = np.zeros(features.shape, dtype=bool)
    previous: Grid | None = None
    found: list[PatchMask] = []
    for _ in range(settings.num_masks):
        live = ~painted if exclude else np.ones_like(painted)
        vector = cut_graph(graph, painted, live, settings.eps, name)
        if vector is None:
            break
        component = cut_once(vector, live)
        if refused(component, previous, settings):
            if not exclude and settings.rule != "released":
                break  # the same graph would be cut again
            # The reference compares the round after a refused one with an empty mask.
            previous = component if exclude else np.zeros_like(component)
            painted |= previous
            continue
        previous = component
        mask = component & ~painted
        painted |= component
        if mask.any() and float(component.mean()) <= settings.max_area:
            found.append(PatchMask(mask, cut_score(graph, component.ravel(), settings.eps)))
    return found


def cut_graph(
    graph: BitGraph, painted: Grid, live: Grid, eps: float, name: str = "an image"
) -> npt.NDArray[np.float64] | None:
    """Return the second eigenvector of what is left of a graph, or None if nothing can be cut.

    Args:
        graph: The graph of the whole image.
        painted: (h, w) bool, patches under earlier masks; their edges are cleared.
        live: (h, w) bool, patches that are nodes of the graph.
        eps: Affinity of patches that are not alike.
        name: Of the image, for messages.

    Returns:
        (h, w) float64; patches that are no nodes hold the mean of the others.
    """
    rest = graph.without((painted | ~live).ravel())
    if is_trivial(rest, int(np.count_nonzero(live))):
        return None
    vector = cut_vector(rest, eps, live.ravel(), name).reshape(live.shape)
    return np.where(live, vector, vector[live].mean())


def is_trivial(graph: BitGraph, nodes: int) -> bool:
    """Return whether a graph has nothing to cut: no edges, or every pair of nodes an edge.

    In both cases all eigenvalues but the first are equal and any "cut" would be noise.

    Examples:
        >>> full = BitGraph.from_edges(np.ones((3, 3), dtype=bool))
        >>> is_trivial(full, 3), is_trivial(BitGraph.from_edges(np.eye(3, dtype=bool)), 3)
        (True, False)
    """
    return nodes < 2 or int(graph.degrees.sum()) in (0, nodes * nodes)


def cut_once(vector: npt.NDArray[np.float64], live: Grid) -> Grid:
    """Return the object component of one eigenvector.

    Args:
        vector: (h, w) float64, the second eigenvector.
        live: (h, w) bool, patches that take part.

    Returns:
        (h, w) bool: bipartition at the mean, foreground side, component of the seed.
    """
    partition = bipartition(vector, live)
    if is_reversed(partition, vector, live):
        partition = live & ~partition
        vector = -vector
    return seed_component(partition, vector)


def bipartition(vector: npt.NDArray[np.float64], live: Grid) -> Grid:
    """Return where the eigenvector is above its mean over the live patches.

    Examples:
        >>> bipartition(np.array([[0.0, 1.0, 5.0]]), np.ones((1, 3), dtype=bool)).tolist()
        [[False, False, True]]
    """
    above: Grid = live & (vector > vector[live].mean())
    return above


def is_reversed(partition: Grid, vector: npt.NDArray[np.float64], live: Grid) -> bool:
    """Return whether the foreground is the other side of the bipartition.

    Three or four of the image's corners on a side make it background; otherwise the patch of
    largest modulus is foreground.

    Examples:
        >>> v = np.array([[1.0, 1.0, 1.0], [1.0, -9.0, 1.0], [1.0, 1.0, 1.0]])
        >>> is_reversed(v > v.mean(), v, np.ones((3, 3), dtype=bool))
        True
    """
    corners = partition[[0, 0, -1, -1], [0, -1, 0, -1]]
    if np.count_nonzero(corners) >= 3:
        return True
    return not bool(partition.flat[int(np.argmax(_plateau(np.where(live, np.abs(vector), -1))))])


def seed_component(partition: Grid, vector: npt.NDArray[np.float64]) -> Grid:
    """Return the 4-connected component of the partition that holds the seed.

    The seed is the foreground patch with the largest value. Binary graphs make exact plateaus
    of equal values; among tied patches the one in the largest component wins, then the first in
    row-major order, so that rounding decides nothing.

    Args:
        partition: (h, w) bool, the foreground side.
        vector: (h, w) float64, oriented so that the foreground is large.

    Returns:
        (h, w) bool; empty if the partition is.

    Examples:
        >>> part = np.array([[1, 0, 1, 1]], dtype=bool)
        >>> seed_component(part, np.array([[5.0, 0.0, 5.0, 4.0]])).astype(int).tolist()
        [[0, 0, 1, 1]]
        >>> seed_component(part, np.array([[6.0, 0.0, 5.0, 4.0]])).astype(int).tolist()
        [[1, 0, 0, 0]]
    """
    labels, count = ndimage.label(partition)
    if count == 0:
        return np.zeros_like(partition)
    seed = pick_seed(np.where(partition, vector, -np.inf), labels)
    component: Grid = labels == labels.flat[seed]
    return component


def pick_seed(values: npt.NDArray[np.float64], labels: npt.NDArray[np.int32]) -> int:
    """Return the flat index of the seed: largest value, then largest component, then first."""
    tied = np.flatnonzero(_plateau(values))
    sizes = np.bincount(labels.ravel())
    return int(tied[np.argmax(sizes[labels.flat[tied]])])


def _plateau(values: npt.NDArray[np.float64]) -> Grid:
    top = values.max()
    tied: Grid = values >= top - abs(top) * TIE
    return tied


def refused(component: Grid, previous: Grid | None, settings: MaskCutSettings) -> bool:
    """Return whether a cut after the first repeats the previous one or is too small.

    Args:
        component: (h, w) bool, this round's component.
        previous: The round's before; None in the first round, which is never refused.
        settings: ``max_overlap`` and ``min_area``.

    Examples:
        >>> a = np.array([[1, 1, 0, 0]], dtype=bool)
        >>> refused(a, a, MaskCutSettings()), refused(a, ~a, MaskCutSettings())
        (True, False)
        >>> refused(a, ~a, MaskCutSettings(min_area=0.5)), refused(a, None, MaskCutSettings())
        (True, False)
    """
    if previous is None:
        return False
    too_small = float(component.mean()) <= settings.min_area
    return too_small or iou(component, previous) > settings.max_overlap


def iou(a: Grid, b: Grid) -> float:
    """Return intersection over union of two masks; 0 for two empty ones.

    Examples:
        >>> iou(np.array([True, True, False]), np.array([False, True, True]))
        0.3333333333333333
    """
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0


def cut_score(graph: BitGraph, side: npt.NDArray[np.bool_], eps: float) -> float:
    """Return how cleanly a component is cut off: 1 - NCut / 2, in 0..1, 1 is best.

    NCut = cut / assoc(side) + cut / assoc(rest) (Shi and Malik, equation 2).

    Args:
        graph: Edges.
        side: (n,) bool.
        eps: Affinity of pairs without an edge.

    Examples:
        Two separate cliques cut apart: almost no cut.

        >>> g = np.kron(np.eye(2, dtype=bool), np.ones((2, 2), dtype=bool))
        >>> score = cut_score(BitGraph.from_edges(g), np.array([True, True, False, False]), 1e-5)
        >>> round(score, 3)
        1.0
    """
    n = len(side)
    size = int(np.count_nonzero(side))
    if size in (0, n):
        return 0.0
    degrees = graph.degrees
    total, touching = int(degrees.sum()), int(degrees[side].sum())
    crossing = round(float(graph.multiply(side.astype(np.float64))[~side].sum()))
    return float(np.clip(1 - 0.5 * ncut(n, size, total, touching, crossing, eps), 0.0, 1.0))


def ncut(n: int, size: Any, total: Any, touching: Any, crossing: Any, eps: float) -> Any:
    """Return NCut of a side, from counts (numbers, arrays or tensors).

    Args:
        n: Patches.
        size: Of them on the side.
        total: Entries of the graph's matrix that are edges.
        touching: Those in rows of the side.
        crossing: Those in columns of the other side too.
        eps: Affinity of pairs without an edge.
    """
    cut = crossing + eps * (size * (n - size) - crossing)
    assoc = touching + eps * (size * n - touching)
    rest = total - touching + eps * ((n - size) * n - (total - touching))
    return cut / assoc + cut / rest
