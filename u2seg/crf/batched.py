"""Dense CRFs of the two-label masks of many images at once, in torch, on any device.

The model and the lattice of ``DenseCrf``; its values are matched to rounding. The appearance
kernels of all images share one lattice (an image's number is part of a vertex' key), and the
smoothness kernel is one filter for all. Vertices are numbered by sorting their keys, so every
vertex sums its points in a fixed order: no atomic additions, the same bytes in every run.

The device is never waited for: how many vertices there are is not asked. There is room for a
fixed number, and ``fits`` says which images found it; the others are left to ``DenseCrf``.

Shapes: B images, N masks each, H x W pixels, P = H W; d dimensions, R rows (positions),
E = R (d + 1) entries, M vertices that there is room for, C columns.
Source: as for ``u2seg.crf.dense_crf`` and ``u2seg.crf.lattice``.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from u2seg.crf.dense_crf import CrfKernels
from u2seg.crf.lattice import PermutohedralLattice
from u2seg.crf.parallel import Threads
from u2seg.crf.simplex import Range, axis_factors, key_layout

ROOM = 0.18
"""Vertices there is room for, share of a batch's entries. At 480 x 480 64 photographs of COCO need
0.12 on average and 0.35 at most, 200 others 0.08 and 0.49."""
ROOM_ALONE = 0.6
"""The same as a share of one image's entries; small batches have at least this much."""
PIECE = 256
"""Entries that one thread sums up; in even areas a vertex has thousands."""
NO_KEY = 2**62
"""Larger than every key."""


class BatchDenseCrf:
    """The CRFs of several images of one size; build once, then refine any number of masks.

    Args:
        images: (B, H, W, 3) uint8, any channel order, on the device to be used; none of the
            sides 0.
        kernels: Widths and weights.

    Attributes:
        fits: (B,) bool on that device: whether there was room for an image's vertices. The last
            images of a batch go short first; probabilities of one that does not fit mean nothing.

    Raises:
        ValueError: if ``images`` is no such tensor.
        UserError: if the kernels are far too narrow for the images.

    Examples:
        A hole in a uniform square is filled, as by ``DenseCrf``:

        >>> images = torch.zeros((1, 8, 8, 3), dtype=torch.uint8)
        >>> images[:, 2:7, 2:7] = 255
        >>> mask = (images[..., 0] > 0)[:, None]
        >>> holed = mask.clone()
        >>> holed[..., 4, 4] = False
        >>> crf = BatchDenseCrf(images, CrfKernels(1.0, 1.0, 50.0, 5.0, 10.0))
        >>> torch.equal(crf.refine_masks(holed, 10) > 0.5, mask)
        True
    """

    def __init__(self, images: Tensor, kernels: CrfKernels) -> None:
        if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise ValueError(f"images must be (B, H, W, 3), got {tuple(images.shape)}")
        if images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, got {images.dtype}")
        count, height, width = images.shape[:3]
        self.shape = (count, height, width)
        self._smooth = _smoothness_filter(
            height, width, kernels.gaussian_sxy, kernels.gaussian_weight, images.device
        )
        sxy, srgb = kernels.bilateral_sxy, kernels.bilateral_srgb
        space = _pixel_positions(height, width, images.device) / sxy
        colours = images.flatten(1, 2).float() / srgb
        positions = torch.cat([space.expand(count, -1, -1), colours], dim=2).flatten(0, 1)
        ranges = _space_ranges(height, width, sxy) + [(0.0, 255.0 / srgb)] * 3
        entries = 6 * height * width
        room = min(entries * count, math.ceil(max(ROOM * count, ROOM_ALONE) * entries))
        self._bilateral = BatchLattice(positions, ranges, count, room)
        self._bilateral.normalize(kernels.bilateral_weight)
        self.fits = self._bilateral.fits & self._smooth.fits

    @torch.inference_mode()
    def refine_masks(self, masks: Tensor, iterations: int) -> Tensor:
        """Return the foreground probabilities, as ``DenseCrf.refine_masks`` of every image.

        Args:
            masks: (B, N, H, W) bool, or float in 0..1 (not checked), on the images' device; N >= 1.
            iterations: Mean-field updates, >= 0.

        Returns:
            (B, N, H, W) float32 in 0..1.

        Raises:
            ValueError: if the shape does not fit the images.
        """
        count, height, width = self.shape
        if masks.ndim != 4 or (masks.shape[0], *masks.shape[2:]) != self.shape or 0 in masks.shape:
            raise ValueError(f"masks {tuple(masks.shape)} do not fit images {self.shape}")
        number = masks.shape[1]
        # Rows are pixels, columns masks.
        score = 2.0 * masks.float().flatten(2).permute(2, 0, 1) - 1.0
        q = torch.tanh(score / 2)
        for _ in range(iterations):
            smooth = self._smooth.filter(q.flatten(1)).reshape(q.shape)
            rows = q.transpose(0, 1).flatten(0, 1)
            bilateral = self._bilateral.filter(rows).reshape(count, -1, number).transpose(0, 1)
            q = torch.tanh((score + smooth + bilateral) / 2)
        return (0.5 + 0.5 * q).permute(1, 2, 0).reshape(count, number, height, width)


class BatchLattice:
    """Gaussian filters of standard deviation 1 on groups of positions that do not mix.

    Args:
        positions: (R, d) float32; group g has rows g R / groups to (g + 1) R / groups.
        ranges: Least and largest value of each dimension, so that keys need no look at the data.
        groups: How many groups, >= 1; a divisor of R.
        room: M >= 1; default: as many as there can be, R (d + 1).

    Attributes:
        fits: (groups,) bool: whether all vertices of a group are among the first M.

    Raises:
        UserError: if the ranges are so wide that vertices cannot be numbered in 63 bits.

    Examples:
        As in ``PermutohedralLattice``, for d = 1 a point sees itself with (1 + 1/4) / 1.5; the
        second group lies in the same place, and sees nothing of the first.

        >>> lattice = BatchLattice(torch.zeros(2, 1), [(0.0, 1.0)], groups=2)
        >>> [round(v, 4) for v in lattice.filter(torch.tensor([[1.0], [0.0]]))[:, 0].tolist()]
        [0.8333, 0.0]
        >>> BatchLattice(torch.zeros(2, 1), [(0.0, 1.0)], groups=2, room=3).fits.tolist()
        [True, False]
    """

    @torch.inference_mode()
    def __init__(
        self, positions: Tensor, ranges: list[Range], groups: int, room: int | None = None
    ) -> None:
        rows, dims = positions.shape
        lowest, units = key_layout(ranges, groups)
        elevated = _elevate(positions)
        corner, rank = _enclosing_simplex(elevated)
        weights = _barycentric(elevated, corner, rank)
        keys = _simplex_keys(corner, rank, lowest, units)
        group = torch.arange(rows, device=keys.device) * groups // rows
        keys = (keys + group * units[-1]).T.flatten()
        room = len(keys) if room is None else room
        # Stable, so that every vertex sums its points in their order.
        keys, order = torch.sort(keys, stable=True)
        new = torch.ones_like(keys, dtype=torch.bool)
        new[1:] = keys[1:] != keys[:-1]
        numbers = new.cumsum(0) - 1
        self.fits = numbers.reshape(groups, -1)[:, -1] < room
        ids = numbers.clamp(max=room)  # the row beyond the last is of nobody
        starts = torch.searchsorted(ids, torch.arange(room + 1, device=ids.device))
        first = starts[:-1]
        vertices = keys[first.clamp(max=len(keys) - 1)].masked_fill(first == len(keys), NO_KEY)
        self._near = _find_neighbors(vertices, units[:-1])
        self._pieces, self._pieces_of = _cut_pieces(ids, starts)
        found = torch.empty_like(order)
        found[order] = ids
        self._ids = found.reshape(rows, dims + 1).T.contiguous()
        self._points = order // (dims + 1)
        self._entries = weights.T.flatten()[order][:, None]
        self._weights = weights
        self._gain = weights.new_full((rows, 1), 1.0 / (1.0 + 2.0**-dims))

    @torch.inference_mode()
    def normalize(self, weight: float) -> None:
        """Turn the filter K, once, into ``weight`` D K D with D = diag(K 1)^(-1/2)."""
        norm = self.filter(torch.ones_like(self._gain))
        scale = 1.0 / torch.sqrt(norm + 1e-20)
        self._gain = self._gain * weight * scale
        self._entries = self._entries * scale[self._points]

    @torch.inference_mode()
    def filter(self, values: Tensor) -> Tensor:
        """Return the filtered values of (R, C) float32 ``values``, (R, C) float32."""
        weighted = values[self._points] * self._entries
        for lengths in (self._pieces, self._pieces_of):
            weighted = torch.segment_reduce(weighted, "sum", lengths=lengths, unsafe=True)
        # Rows of no vertex, the last among them, have no neighbours and stay 0.
        lattice = torch.cat([weighted, weighted.new_zeros((1, weighted.shape[1]))])
        for ahead, behind in self._near:
            lattice = lattice.add(lattice[ahead] + lattice[behind], alpha=0.5)
        result = torch.zeros_like(values)
        for weights, ids in zip(self._weights, self._ids, strict=True):
            result.addcmul_(weights[:, None], lattice[ids])
        return self._gain * result


def _cut_pieces(ids: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the entries of every vertex into pieces of at most ``PIECE``.

    Args:
        ids: (E,) int64, the vertex of each entry, rising; those above M - 1 are nobody's.
        starts: (M + 1,) int64, the first entry of each vertex.

    Returns:
        How many entries each piece has, and how many pieces each vertex: (pieces,), of which
        the last may be 0, and (M,) int64.

    Examples:
        >>> sizes, counts = _cut_pieces(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 3]))
        >>> sizes.tolist(), counts.tolist()
        ([2, 1, 0, 0], [1, 1])
    """
    place = torch.arange(len(ids), device=ids.device)
    new = place % PIECE == 0
    new[1:] |= ids[1:] != ids[:-1]
    piece = new.cumsum(0) - 1
    # Every vertex, and nobody, starts one; so does every PIECE-th entry.
    most = len(starts) + math.ceil(len(ids) / PIECE)
    bounds = torch.searchsorted(piece, torch.arange(most + 1, device=ids.device))
    piece = torch.cat([piece, piece[-1:] + 1])
    return torch.diff(bounds), torch.diff(piece[starts])


def _pixel_positions(height: int, width: int, device: torch.device) -> Tensor:
    """Return (P, 2) float32: x, y of every pixel in row-major order."""
    x = torch.arange(width, device=device).expand(height, -1)
    y = torch.arange(height, device=device)[:, None].expand(-1, width)
    return torch.stack([x.flatten(), y.flatten()], dim=1).float()


def _space_ranges(height: int, width: int, sxy: float) -> list[Range]:
    return [(0.0, (width - 1) / sxy), (0.0, (height - 1) / sxy)]


@functools.lru_cache(maxsize=8)
def _smoothness_filter(
    height: int, width: int, sxy: float, weight: float, device: torch.device
) -> BatchLattice:
    positions = _pixel_positions(height, width, device) / sxy
    room = min(3 * height * width, _count_vertices(height, width, sxy))
    lattice = BatchLattice(positions, _space_ranges(height, width, sxy), 1, room)
    lattice.normalize(weight)
    return lattice


def _count_vertices(height: int, width: int, sxy: float) -> int:
    """Return the vertices of the smoothness kernel, and some more: a device rounds otherwise."""
    y, x = np.mgrid[:height, :width].astype(np.float32).reshape(2, -1)
    with Threads(1) as threads:
        lattice = PermutohedralLattice(np.stack([x, y]) / np.float32(sxy), threads)
    return lattice.num_vertices + lattice.num_vertices // 16 + 64


def _elevate(positions: Tensor) -> Tensor:
    """Return (d + 1, R) float32, see ``simplex.elevate``."""
    factors = axis_factors(positions.shape[1]).tolist()
    total = torch.zeros_like(positions[:, 0])
    columns = []
    for j in range(positions.shape[1], 0, -1):
        scaled = positions[:, j - 1] * factors[j - 1]
        columns.append(total - j * scaled)
        total = total + scaled
    return torch.stack([total, *reversed(columns)])


def _enclosing_simplex(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``corner`` and ``rank``, (d + 1, R) int64, see ``simplex.enclosing_simplex``."""
    size = len(elevated)
    nearest = torch.round(elevated * (1.0 / size))
    rest = elevated - nearest * size
    # Every coordinate ranks after those before it, until it is found to be larger.
    rank = torch.arange(size, device=rest.device)[:, None].expand(rest.shape).contiguous()
    for i in range(size):
        for j in range(i + 1, size):
            smaller = rest[i] < rest[j]
            rank[i].add_(smaller)
            rank[j].add_(smaller, alpha=-1)
    nearest = nearest.long()
    rank += nearest.sum(dim=0)
    step = (rank < 0).long().add_(rank >= size, alpha=-1)
    return (nearest + step) * size, rank.add_(step, alpha=size)


def _barycentric(elevated: Tensor, corner: Tensor, rank: Tensor) -> Tensor:
    """Return (d + 1, R) float32, see ``simplex.barycentric``."""
    rest = (elevated - corner.float()) * (1.0 / len(elevated))
    # By rank, highest first: vertex k lies between the coordinates of ranks d - k, d + 1 - k.
    falling = torch.empty_like(rest).scatter_(0, rank, rest).flip(0)
    weights = falling - falling.roll(1, dims=0)
    weights[0] += 1.0
    return weights


def _simplex_keys(corner: Tensor, rank: Tensor, lowest: list[int], units: list[int]) -> Tensor:
    """Return (d + 1, R) int64, the keys of each simplex' vertices, by remainder."""
    size = len(corner)
    first = torch.zeros_like(corner[0])
    for coordinate, low, unit in zip(corner, lowest, units, strict=False):
        first += (coordinate - low) * unit
    keys = torch.arange(size, device=corner.device)[:, None] * sum(units[: size - 1]) + first
    for k in range(1, size):
        for i in range(size - 1):
            keys[k].add_(rank[i] >= size - k, alpha=-size * units[i])
    return keys


def _find_neighbors(vertices: Tensor, units: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Return for every direction the vertices ahead and behind, (M + 1,) int64; M: none."""
    count = len(vertices)
    size = len(units)
    none = vertices.new_full((1,), count)

    def find(step: int) -> Tensor:
        wanted = vertices + step
        at = torch.searchsorted(vertices, wanted).clamp(max=count - 1)
        return torch.cat([at.masked_fill(vertices[at] != wanted, count), none])

    steps = [size * unit - sum(units) for unit in units]
    return [(find(step), find(-step)) for step in steps]
