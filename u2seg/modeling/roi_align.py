"""ROIAlign on a CPU as sums over the rows of a feature map, many times as fast as torchvision's.

A pooled value is a weighted sum of feature vectors, with the same weights in every channel. The
host's layer (torchvision's kernel, one thread) works out the weights anew for every channel, and
in the backward pass for every value too. Here they are worked out once per box; pooling and its
gradient are then sums of whole feature vectors, in all threads.

Shapes: N images, C channels, H x W cells of a feature map, R boxes of all images, P x Q bins of a
box, E pairs of a bin and a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import scipy.sparse
import torch
import torch.nn.functional as F  # noqa: N812
from detectron2.layers import ROIAlign
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class PoolingWeights:
    """How much each cell counts in each bin: a sparse matrix of bins x cells, row by row.

    Args:
        cells: (E,) int32, number of the cell (n x H + y) x W + x, grouped by bin.
        starts: (bins + 1,) int32, where each bin's cells begin.
        weights: (E,) float.
    """

    cells: Tensor
    starts: Tensor
    weights: Tensor

    def pool(self, rows: Tensor) -> Tensor:
        """Return the weighted sum of each bin: (bins, C), of ``rows`` (cells, C)."""
        return F.embedding_bag(
            self.cells,
            rows,
            self.starts,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )

    def transposed(self, cells: int) -> PoolingWeights:
        """Return the matrix of cells x bins, for gradients.

        Examples:
            >>> one = PoolingWeights(
            ...     torch.tensor([2, 0], dtype=torch.int32),
            ...     torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([0.5, 4.0]))
            >>> other = one.transposed(3)
            >>> other.cells.tolist(), other.starts.tolist(), other.weights.tolist()
            ([1, 0], [0, 1, 1, 2], [4.0, 0.5])
        """
        parts = (self.weights.numpy(), self.cells.numpy(), self.starts.numpy())
        columns = scipy.sparse.csr_matrix(parts, shape=(len(self.starts) - 1, cells)).tocsc()
        found = (columns.indices, columns.indptr, columns.data)
        return PoolingWeights(*(torch.from_numpy(part) for part in found))


@dataclass(frozen=True)
class _Axis:
    """Along one axis: the cells that each bin of each box covers, a run of them.

    Args:
        first: (R, P) int64, the run's first cell.
        length: (R, P) int64, its cells; 0 = the bin lies outside.
        weights: (R, P, longest run) float, 0 beyond the run.
    """

    first: Tensor
    length: Tensor
    weights: Tensor


def pooling_weights(
    rois: Tensor,
    size: Sequence[int],
    output: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> PoolingWeights:
    """Return the weights of ROIAlign, those of torchvision's ``roi_align``.

    A bin is the mean of sample points on a regular grid, each interpolated between four cells.
    Points more than a cell outside count 0; nearer ones are moved to the border.

    Args:
        rois: (R, 5) float: number of the image, then x0, y0, x1, y1 in pixels of the image.
        size: (N, H, W) of the feature map.
        output: (P, Q) bins along y and x.
        scale: Cells per pixel.
        ratio: Sample points a side of a bin; 0 = as many as it has cells, rounded up.
        aligned: The centre of the first cell is at 0.5, as it should; False = at 0.

    Examples:
        A map of 1 x 3 cells, a box from x = 0.5 to 2.5 in one bin: two points, at the centres of
        half of cell 0 and 1, and half of cell 1 and 2.

        >>> box = torch.tensor([[0, 0.5, 0.0, 2.5, 1.0]])
        >>> found = pooling_weights(box, (1, 1, 3), (1, 1), 1.0, 0, True)
        >>> found.cells.tolist(), found.weights.tolist()
        ([0, 1, 2], [0.25, 0.5, 0.25])
    """
    if not bool(torch.isfinite(rois).all()):
        raise FloatingPointError("the boxes to pool features of are not finite")
    _, height, width = size
    edges = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    extent = edges[:, 2:] - edges[:, :2]
    if not aligned:
        extent = extent.clamp(min=1.0)
    y = _axis(edges[:, 1], extent[:, 1], output[0], height, ratio)
    x = _axis(edges[:, 0], extent[:, 0], output[1], width, ratio)
    first = rois[:, 0].long()[:, None] * height + y.first
    first = first[:, :, None] * width + x.first[:, None]
    counts = (y.length[:, :, None] * x.length[:, None]).flatten()
    starts = F.pad(counts.cumsum(0), (1, 0))
    bins = torch.repeat_interleave(counts)
    place = torch.arange(len(bins)) - starts[bins]
    box_row = bins // output[1]
    box_column = box_row // output[0] * output[1] + bins % output[1]
    columns = x.length.flatten()[box_column]
    row = place // columns
    column = place - row * columns
    weights = (
        y.weights.flatten()[box_row * y.weights.shape[2] + row]
        * x.weights.flatten()[box_column * x.weights.shape[2] + column]
    )
    cells = first.flatten()[bins] + row * width + column
    return PoolingWeights(cells.int(), starts.int(), weights)


def _axis(start: Tensor, extent: Tensor, bins: int, cells: int, ratio: int) -> _Axis:
    """Return the runs of cells of the bins of R boxes along one axis.

    Args:
        start: (R,) first edge of the boxes, in cells.
        extent: (R,) their lengths.
        bins: Of a box.
        cells: Of the map.
        ratio: Sample points of a bin; 0 = by its length.
    """
    step = extent / bins
    points = torch.full_like(start, ratio) if ratio > 0 else step.ceil().clamp(min=0)
    most = max(int(points.max()) if len(points) else 0, 1)
    number = torch.arange(most, dtype=start.dtype)
    # In the order of torchvision's sums, so that points fall on the same side of a cell's centre.
    at = start[:, None] + torch.arange(bins, dtype=start.dtype) * step[:, None]
    at = at[:, :, None] + ((number + 0.5) * step[:, None] / points.clamp(min=1)[:, None])[:, None]
    counts = (number < points[:, None])[:, None] & (at >= -1) & (at <= cells)
    at = at.clamp(min=0, max=cells - 1)
    low = at.long().clamp(max=max(cells - 2, 0))
    share = (at - low) / points.clamp(min=1)[:, None, None]
    rest = (1 - (at - low)) / points.clamp(min=1)[:, None, None]
    high = (low + 1).clamp(max=cells - 1)
    first = torch.where(counts, low, cells).amin(2)
    length = (torch.where(counts, high, -1).amax(2) + 1 - first).clamp(min=0)
    weights = at.new_zeros(*first.shape, max(int(length.max()) if len(length) else 0, 1))
    for cell, weight in ((low, rest), (high, share)):
        place = (cell - first[:, :, None]).clamp(min=0, max=weights.shape[2] - 1)
        weights.scatter_add_(2, place, torch.where(counts, weight, 0))
    return _Axis(torch.where(length > 0, first, 0), length, weights)


class _Pool(torch.autograd.Function):
    """Pools the rows of a feature map."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weights: PoolingWeights, output: tuple[int, int]
    ) -> Tensor:
        ctx.weights, ctx.size = weights, features.shape
        return _maps(weights.pool(_rows(features)), output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        count, _, height, width = ctx.size
        transposed = ctx.weights.transposed(count * height * width)
        return _maps(transposed.pool(_rows(gradients[0])), (height, width)), None, None


def _rows(maps: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N x H x W, C); a view, if C is the last in memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N x H x W, C) as (N, C, H, W), a view."""
    return rows.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2)


class RowROIAlign(ROIAlign):  # type: ignore[misc]
    """The host's ``ROIAlign``; on a CPU the same values, but for rounding, as sums of rows.

    A trace keeps the host's operator: the sums are Python's, of sizes that follow from the boxes.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Return (R, C, P, Q) pooled features.

        Args:
            input: (N, C, H, W); fastest with C last in memory.
            rois: (R, 5): number of the image, then x0, y0, x1, y1 in pixels of the image.
        """
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if traced or input.device.type != "cpu" or input.dtype not in DTYPES:
            plain: Tensor = super().forward(input, rois)
            return plain
        count, _, height, width = input.shape
        with torch.no_grad():
            weights = pooling_weights(
                rois.float(), (count, height, width), self.output_size, self.spatial_scale,
                self.sampling_ratio, self.aligned,
            )  # fmt: skip
        pooled: Tensor = _Pool.apply(input.float(), weights, self.output_size)  # type: ignore[no-untyped-call]
        return pooled.to(input.dtype)


def sum_rows(heads: nn.Module) -> None:
    """Let the poolers of ROI heads sum rows, in place. No parameter is added or renamed."""
    for part in list(heads.modules()):
        for name, layer in part.named_children():
            if type(layer) is ROIAlign:
                args = layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
                setattr(part, name, RowROIAlign(*args))


def channels_last(features: Tensor) -> Tensor:
    """Return features of a CPU with C as the last dimension in memory; others as they are."""
    if features.device.type != "cpu":
        return features
    return features.contiguous(memory_format=torch.channels_last)
