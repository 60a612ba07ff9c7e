"""MaskCut on the patch features of many images at once, in torch, on any device.

The rules of ``u2seg.masks.maskcut`` on tensors, with nothing that makes a GPU wait for the host:
every image goes through every round, and flags say what counts (numbers enter by ``masked_fill``:
``torch.where`` would copy them to the device, and wait). Where the fixed number of steps did not
settle an image, the result says so: that image is left to ``maskcut``, so both give the same masks.

Shapes: B images, D channels, h x w patches, n = h w, N rounds.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from u2seg.config.schema import MaskCutSettings
from u2seg.masks.batched_ncut import BatchGraph, cut_vectors, first_index
from u2seg.masks.maskcut import TIE, ncut
from u2seg.masks.ncut import DENSE_LIMIT


@dataclasses.dataclass(frozen=True)
class BatchMasks:
    """Masks of several images at patch resolution, on the features' device.

    Args:
        grids: (B, N, h, w) bool.
        scores: (B, N) float64, see ``maskcut.cut_score``; 0 where not valid.
        valid: (B, N) bool: whether a round gave a mask.
        settled: (B,) bool: whether all rounds converged, none on a graph so small that
            ``maskcut`` solves it densely; the rest of the row counts only then.
        finite: (B,) bool: whether the features were finite; if not there are no masks.
    """

    grids: Tensor
    scores: Tensor
    valid: Tensor
    settled: Tensor
    finite: Tensor


@dataclasses.dataclass
class _State:
    """What a round leaves to the next. (B, n) bool ``painted``, ``previous``; (B,) the others."""

    painted: Tensor
    previous: Tensor
    active: Tensor
    settled: Tensor


@torch.inference_mode()
def maskcut_batch(features: Tensor, settings: MaskCutSettings) -> BatchMasks:
    """Return up to ``settings.num_masks`` disjoint object masks of every image.

    Args:
        features: (B, D, h, w) float of any precision, facet ``key``.
        settings: As for ``maskcut``.

    Raises:
        ValueError: if the features are not (B, D, h, w) or a side is 0.
    """
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(f"features must be (B, D, h, w), none 0, got {tuple(features.shape)}")
    count, _, height, width = features.shape
    finite = torch.isfinite(features).flatten(1).all(dim=1)
    flat = features.flatten(2).float().masked_fill(~finite[:, None, None], 0.0)
    graph = BatchGraph.from_features(flat, settings.tau)
    degrees = graph.multiply(flat.new_ones((count, height * width), dtype=torch.float64))
    nothing = torch.zeros((count, height * width), dtype=torch.bool, device=flat.device)
    state = _State(nothing, nothing, finite, torch.ones_like(finite))
    grids, scores, valid = [], [], []
    for index in range(settings.num_masks):
        component = _next_component(graph, state, (height, width), settings)
        mask, counts = _paint(component, state, settings, first=index == 0)
        grids.append(mask.reshape(-1, height, width) & counts[:, None, None])
        valid.append(counts)
        score = cut_scores(graph, degrees, component, settings.eps)
        scores.append(score.masked_fill(~counts, 0.0))
    masks, quality, counted = (torch.stack(part, dim=1) for part in (grids, scores, valid))
    return BatchMasks(masks, quality, counted, state.settled, finite)


def _next_component(
    graph: BatchGraph, state: _State, shape: tuple[int, int], settings: MaskCutSettings
) -> Tensor:
    """Return the component of this round's cut, (B, n) bool; images without a cut end here."""
    live = ~state.painted
    linked = live
    if settings.painted != "exclude":
        live = torch.ones_like(live)
    vector, converged = cut_vectors(graph, settings.eps, live, linked)
    component, joined = cut_once(vector, live, shape)
    state.active = state.active & ~is_trivial(graph, live, linked)
    small = live.sum(dim=1) <= DENSE_LIMIT
    state.settled = state.settled & (~state.active | (converged & joined & ~small))
    return component


def _paint(
    component: Tensor, state: _State, settings: MaskCutSettings, first: bool
) -> tuple[Tensor, Tensor]:
    """Refuse or accept this round's components; return the masks and which of them count."""
    no = refused(component, state.previous, settings) & state.active
    if first:
        no = torch.zeros_like(no)
    yes = state.active & ~no
    exclude = settings.painted == "exclude"
    if not exclude and settings.rule != "released":
        state.active = yes  # the same graph would be cut again
    # After a refused round the reference compares with an empty mask.
    again = component if exclude else torch.zeros_like(component)
    seen = torch.where(no[:, None], again, component)
    mask = component & ~state.painted
    state.previous = torch.where((yes | no)[:, None], seen, state.previous)
    state.painted = state.painted | (seen & (yes | no)[:, None])
    return mask, yes & mask.any(dim=1) & (_share(component) <= settings.max_area)


def _share(mask: Tensor) -> Tensor:
    return mask.sum(dim=1).double() / mask.shape[1]


def is_trivial(graph: BatchGraph, live: Tensor, linked: Tensor) -> Tensor:
    """Return (B,) bool, as ``maskcut.is_trivial`` for graphs restricted to some patches."""
    keep = linked.double()
    total = (keep * graph.multiply(keep)).sum(dim=1)
    nodes = live.sum(dim=1)
    return (nodes < 2) | (total == 0) | (total == nodes * nodes)


def cut_once(vector: Tensor, live: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the object components of eigenvectors, as ``maskcut.cut_once``.

    Args:
        vector: (B, n) float64.
        live: (B, n) bool, patches that take part.
        shape: (h, w) of the patches.

    Returns:
        ``component`` (B, n) bool, and (B,) bool whether components were followed to their end.
    """
    nodes = live.sum(dim=1, keepdim=True).clamp(min=1)
    mean = vector.masked_fill(~live, 0.0).sum(dim=1, keepdim=True) / nodes
    partition = live & (vector > mean)
    turn = is_reversed(partition, vector, live, shape)[:, None]
    partition = torch.where(turn, live & ~partition, partition)
    return seed_component(partition, torch.where(turn, -vector, vector), shape)


def is_reversed(partition: Tensor, vector: Tensor, live: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return (B,) bool, whether the foreground is the other side, as ``maskcut.is_reversed``."""
    grid = partition.reshape(-1, *shape)
    corners = sum(grid[:, y, x].int() for y in (0, -1) for x in (0, -1))
    seed = first_index(_plateau(vector.abs().masked_fill(~live, -1.0)))
    return (corners >= 3) | ~partition.gather(1, seed[:, None])[:, 0]


def seed_component(
    partition: Tensor, vector: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return what ``cut_once`` does of foreground sides, as ``maskcut.seed_component``."""
    labels, joined = label_components(partition, shape)
    ones = partition.long()
    sizes = torch.zeros_like(labels).scatter_add_(1, labels, ones).gather(1, labels)
    tied = partition & _plateau(vector.masked_fill(~partition, -math.inf))
    sizes = sizes.masked_fill(~tied, -1)
    seed = first_index(sizes == sizes.amax(dim=1, keepdim=True))
    return partition & (labels == labels.gather(1, seed[:, None])), joined


def _plateau(values: Tensor) -> Tensor:
    top = values.amax(dim=1, keepdim=True)
    return values >= top - top.abs() * TIE


def label_components(mask: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the 4-connected components of masks, each named by its first patch.

    Labels are trees that point to lower indices. In each round a patch passes the lowest label
    around it to its root, then halves its way there (FastSV: Zhang, Azad and Hu, 2020).

    Args:
        mask: (B, n) bool.
        shape: (h, w), h w = n.

    Returns:
        ``labels`` (B, n) int64, a patch outside the mask is its own label; and ``joined`` (B,)
        bool: whether the fixed number of rounds was enough.

    Examples:
        >>> labels, joined = label_components(torch.tensor([[1, 0, 1, 1, 0, 1]]).bool(), (2, 3))
        >>> labels.tolist(), joined.tolist()
        ([[0, 1, 2, 0, 4, 2]], [True])
    """
    size = mask.shape[1]
    labels = torch.arange(size, device=mask.device).expand(mask.shape).contiguous()
    for _ in range(math.ceil(math.log2(max(2, size))) + 4):
        lowest = _lowest_around(labels.gather(1, labels), mask, shape)
        labels = labels.scatter_reduce(1, labels, lowest, "amin").minimum(lowest)
        labels = labels.gather(1, labels)
    same = (_lowest_around(labels, mask, shape) == labels) & (labels.gather(1, labels) == labels)
    return labels, same.all(dim=1)


def _lowest_around(labels: Tensor, mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the lowest label of every patch and its neighbours in the mask."""
    outside = labels.shape[1]
    grid = labels.masked_fill(~mask, outside).reshape(-1, *shape)
    padded = torch.nn.functional.pad(grid, (1, 1, 1, 1), value=outside)
    lowest = grid
    for near in (
        padded[:, :-2, 1:-1],
        padded[:, 2:, 1:-1],
        padded[:, 1:-1, :-2],
        padded[:, 1:-1, 2:],
    ):
        lowest = torch.minimum(lowest, near)
    return torch.where(mask, lowest.flatten(1), labels)


def refused(component: Tensor, previous: Tensor, settings: MaskCutSettings) -> Tensor:
    """Return (B,) bool, whether cuts after the first are refused, as ``maskcut.refused``."""
    common = (component & previous).sum(dim=1).double()
    union = (component | previous).sum(dim=1)
    overlap = common / union.clamp(min=1)
    return (_share(component) <= settings.min_area) | (overlap > settings.max_overlap)


def cut_scores(graph: BatchGraph, degrees: Tensor, side: Tensor, eps: float) -> Tensor:
    """Return (B,) float64, 1 - NCut / 2 of each side, as ``maskcut.cut_score``.

    Args:
        graph: The whole graphs.
        degrees: (B, n) float64, their degrees.
        side: (B, n) bool.
        eps: Affinity of pairs without an edge.
    """
    n = side.shape[1]
    size = side.sum(dim=1)
    inside = side.double()
    total, touching = degrees.sum(dim=1), (degrees * inside).sum(dim=1)
    crossing = ((1 - inside) * graph.multiply(inside)).sum(dim=1)
    quality: Tensor = 1 - 0.5 * ncut(n, size, total, touching, crossing, eps)
    return quality.clamp(0.0, 1.0).masked_fill((size == 0) | (size == n), 0.0)
