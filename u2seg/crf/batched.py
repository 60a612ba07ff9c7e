"""Dense CRFs of the two-label masks of many images at once, in torch, on any device.

The model and the lattice of ``DenseCrf``; its values are matched to rounding. The appearance
kernels of all images share one lattice (an image's number is part of a vertex' key), and the
smoothness kernel is one filter for all. Vertices are numbered by sorting their keys, so every
vertex sums its points in a fixed order: no atomic additions, the same bytes in every run.

Shapes: B images, N masks each, H x W pixels, P = H W; d dimensions, R rows (positions),
E = R (d + 1) entries, M vertices, C columns.
Source: as for ``u2seg.crf.dense_crf`` and ``u2seg.crf.permutohedral``.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from u2seg.crf.dense_crf import CrfKernels
from u2seg.crf.permutohedral import MAX_EXTENT, TOO_NARROW
from u2seg.crf.simplex import axis_factors
from u2seg.errors import UserError

Range = tuple[float, float]


class BatchDenseCrf:
    """The CRFs of several images of one size; build once, then refine any number of masks.

    The device is waited for once while building: the number of vertices is needed.

    Args:
        images: (B, H, W, 3) uint8, any channel order, on the device to be used; none of the
            sides 0.
        kernels: Widths and weights.

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
        self._bilateral = BatchLattice(positions, ranges, count)
        self._bilateral.normalize(kernels.bilateral_weight)

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
        groups: How many groups, >= 1.

    Raises:
        UserError: if the ranges are so wide that vertices cannot be numbered in 63 bits.

    Examples:
        As in ``PermutohedralLattice``, for d = 1 a point sees itself with (1 + 1/4) / 1.5; the
        second group lies in the same place, and sees nothing of the first.

        >>> lattice = BatchLattice(torch.zeros(2, 1), [(0.0, 1.0)], groups=2)
        >>> [round(v, 4) for v in lattice.filter(torch.tensor([[1.0], [0.0]]))[:, 0].tolist()]
        [0.8333, 0.0]
    """

    @torch.inference_mode()
    def __init__(self, positions: Tensor, ranges: list[Range], groups: int) -> None:
        rows, dims = positions.shape
        lowest, units = _key_layout(ranges, groups)
        elevated = _elevate(positions)
        corner, rank = _enclosing_simplex(elevated)
        weights = _barycentric(elevated, corner, rank)
        keys = _simplex_keys(corner, rank, lowest, units)
        group = torch.arange(rows, device=keys.device) * groups // rows
        keys = (keys + (group * units[-1])[:, None]).flatten()
        # Stable, so that every vertex sums its points in their order.
        keys, order = torch.sort(keys, stable=True)
        new = torch.ones_like(keys, dtype=torch.bool)
        new[1:] = keys[1:] != keys[:-1]
        starts = new.nonzero()[:, 0]  # waits for the device
        vertices = keys[starts]
        self._near = _find_neighbors(vertices, units[:-1])
        self._ids = torch.empty_like(order)
        self._ids[order] = new.long().cumsum(0) - 1
        self._ids = self._ids.reshape(rows, dims + 1)
        self._points = order // (dims + 1)
        self._entries = weights.flatten()[order][:, None]
        self._lengths = torch.diff(starts, append=starts.new_full((1,), len(keys)))
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
        sums = torch.segment_reduce(weighted, "sum", lengths=self._lengths, unsafe=True)
        lattice = torch.cat([sums, sums.new_zeros((1, sums.shape[1]))])
        for ahead, behind in self._near:
            lattice = lattice + 0.5 * (lattice[ahead] + lattice[behind])
            lattice[-1] = 0.0
        result = torch.zeros_like(values)
        for k in range(self._ids.shape[1]):
            result += self._weights[:, k, None] * lattice[self._ids[:, k]]
        return self._gain * result


def _pixel_positions(height: int, width: int, device: torch.device) -> Tensor:
    """Return (P, 2) float32: x, y of every pixel in row-major order."""
    x = torch.arange(width, device=device).expand(height, -1)
    y = torch.arange(height, device=device)[:, None].expand(-1, width)
    return torch.stack([x.flatten(), y.flatten()], dim=1).float()


def _space_ranges(height: int, width: int, sxy: float) -> list[Range]:
    return [(0.0, (width - 1) / sxy), (0.0, (height - 1) / sxy)]


@functools.lru_cache(maxsize=2)
def _smoothness_filter(
    height: int, width: int, sxy: float, weight: float, device: torch.device
) -> BatchLattice:
    positions = _pixel_positions(height, width, device) / sxy
    lattice = BatchLattice(positions, _space_ranges(height, width, sxy), 1)
    lattice.normalize(weight)
    return lattice


def _key_layout(ranges: list[Range], groups: int) -> tuple[list[int], list[int]]:
    """Return the lowest coordinates (d) and what one step of each adds to a key (d + 2).

    The unit of the last coordinate, which follows from the others, is 0; the last unit of all is
    that of a group.
    """
    factors = [float(f) for f in axis_factors(len(ranges))]
    size = len(ranges) + 1
    low, high = 0.0, 0.0  # of the sum of scaled coordinates so far
    extents: list[Range] = []
    for j in range(len(ranges), 0, -1):
        first, last = (v * factors[j - 1] for v in ranges[j - 1])
        extents.append((low - j * last, high - j * first))
        low, high = low + first, high + last
    extents = [(low, high), *reversed(extents)]
    if max(abs(v) for extent in extents for v in extent) > MAX_EXTENT:
        raise UserError(TOO_NARROW)
    # A corner is less than d + 1 away, a vertex d more, its neighbour another d; 1 for rounding.
    lowest = [math.floor(low) - 3 * size - 1 for low, _ in extents[:-1]]
    widths = [
        math.ceil(high) + 3 * size + 2 - first
        for (_, high), first in zip(extents[:-1], lowest, strict=True)
    ]
    units = list(itertools.accumulate(widths, lambda a, b: a * b, initial=1))
    if units[-1] * (groups + 1) >= 2**62:
        raise UserError(TOO_NARROW)
    return lowest, [*units[:-1], 0, units[-1]]


def _elevate(positions: Tensor) -> Tensor:
    """Return (R, d + 1) float32, see ``simplex.elevate``."""
    factors = axis_factors(positions.shape[1]).tolist()
    total = torch.zeros_like(positions[:, 0])
    columns = []
    for j in range(positions.shape[1], 0, -1):
        scaled = positions[:, j - 1] * factors[j - 1]
        columns.append(total - j * scaled)
        total = total + scaled
    return torch.stack([total, *reversed(columns)], dim=1)


def _enclosing_simplex(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``corner`` and ``rank``, (R, d + 1) int64, see ``simplex.enclosing_simplex``."""
    size = elevated.shape[1]
    nearest = torch.round(elevated * (1.0 / size))
    rest = elevated - nearest * size
    rank = torch.zeros_like(rest, dtype=torch.int64)
    for i in range(size):
        for j in range(i + 1, size):
            smaller = (rest[:, i] < rest[:, j]).long()
            rank[:, i] += smaller
            rank[:, j] += 1 - smaller
    rank += nearest.long().sum(dim=1, keepdim=True)
    step = (rank < 0).long() - (rank >= size).long()
    return (nearest.long() + step) * size, rank + step * size


def _barycentric(elevated: Tensor, corner: Tensor, rank: Tensor) -> Tensor:
    """Return (R, d + 1) float32, see ``simplex.barycentric``."""
    rest = (elevated - corner.float()) * (1.0 / elevated.shape[1])
    # By rank, highest first: vertex k lies between the coordinates of ranks d - k, d + 1 - k.
    falling = torch.empty_like(rest).scatter_(1, rank, rest).flip(1)
    weights = falling - falling.roll(1, dims=1)
    weights[:, 0] += 1.0
    return weights


def _simplex_keys(corner: Tensor, rank: Tensor, lowest: list[int], units: list[int]) -> Tensor:
    """Return (R, d + 1) int64, the keys of each simplex' vertices, by remainder."""
    size = corner.shape[1]
    keys = torch.zeros_like(corner)
    for i in range(size - 1):
        for k in range(size):
            fallen = (rank[:, i] >= size - k).long() * size
            keys[:, k] += (corner[:, i] - lowest[i] + k - fallen) * units[i]
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
