"""The benchmark of a part of training: pooling features of boxes, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from benchmarks.timing import alternate

if TYPE_CHECKING:
    from torch import Tensor

TARGET = Target(">=", 5)
SAME = 1e-5
"""Largest difference of pooled values and of gradients, each relative to the largest one."""


@dataclass(frozen=True)
class PoolingSizes:
    """Boxes and the feature map they are pooled from.

    Args:
        images: In the batch.
        channels: Of the map.
        height: Cells of the map.
        width: Cells.
        boxes: Of all images.
        side: Mean side of a box, pixels.
        bins: A side of the pooled features.
        scale: Cells per pixel.
    """

    images: int = 2
    channels: int = 256
    height: int = 200
    width: int = 304
    boxes: int = 512
    side: float = 80.0
    bins: int = 7
    scale: float = 0.25


def roi_align(setting: Setting, sizes: PoolingSizes | None = None) -> Row:
    """Return the row of ROIAlign beside torchvision's kernel, in seconds.

    Args:
        setting: ``repeats`` and ``rates`` are used.
        sizes: By default the largest map of the published recipe at two images of 800 x 1216,
            and half of their 1024 proposals.
    """
    from u2seg.compat import prepare_host

    prepare_host()
    from detectron2.layers import ROIAlign

    from u2seg.modeling.roi_align import RowROIAlign, pooling_weights

    sizes = sizes or PoolingSizes()
    features, rois = _problem(sizes)
    kinds = (RowROIAlign, ROIAlign)
    layers = [kind((sizes.bins, sizes.bins), sizes.scale, 0) for kind in kinds]
    # Each side has the order in memory that it works on.
    mine, theirs = features, features.contiguous()
    gradient = layers[1](theirs, rois)  # any will do
    pair = alternate(
        "roi_align",
        lambda: _both_ways(layers[0], mine, rois, gradient),
        lambda: _both_ways(layers[1], theirs, rois, gradient),
        setting.repeats,
    )
    values, gradients = (
        float((ours - peer).abs().max() / max(float(peer.abs().max()), 1e-9))
        for ours, peer in zip(pair.our_result, pair.peer_result, strict=True)
    )
    bins = (sizes.bins, sizes.bins)
    shape = (sizes.images, sizes.height, sizes.width)
    pairs = len(pooling_weights(rois, shape, bins, sizes.scale, 0, True).cells)
    # Both passes multiply and add each pair once per channel, and touch map and bins once.
    work = 2 * 2 * pairs * sizes.channels / setting.rates.flops
    touched = 2 * 4 * (features.numel() + sizes.boxes * sizes.bins**2 * sizes.channels)
    return judged(
        "roi_align",
        pair.ours,
        pair.peer,
        ratio=pair.peer / pair.ours,
        unit="s",
        target=TARGET,
        floor=max(work, touched / setting.rates.bytes),
        note=f"{sizes.boxes} boxes of about {sizes.side:g} pixels on {sizes.images} maps of "
        f"{sizes.channels} x {sizes.height} x {sizes.width}, forward and backward; {pairs} pairs "
        f"of bin and cell; values differ by {values:.1e}, gradients by {gradients:.1e}, relative "
        "to the largest",
        correct=max(values, gradients) <= SAME,
    )


def _problem(sizes: PoolingSizes) -> tuple[Tensor, Tensor]:
    """Return the map, channels last in memory, and the boxes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (sizes.images, sizes.channels, sizes.height, sizes.width)
    features = torch.randn(shape, generator=generator)
    size = torch.tensor([sizes.width, sizes.height]) / sizes.scale
    centre = torch.rand(sizes.boxes, 2, generator=generator) * size
    half = sizes.side * (0.3 + 1.4 * torch.rand(sizes.boxes, 2, generator=generator)) / 2
    corners = [(centre - half).clamp(min=0), torch.minimum(centre + half, size)]
    image = torch.arange(sizes.boxes)[:, None] * sizes.images // sizes.boxes
    rois = torch.cat([image.float(), *corners], dim=1)
    return features.contiguous(memory_format=torch.channels_last), rois


def _both_ways(
    layer: Any, features: Tensor, rois: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the pooled features, and the gradient of the map for theirs."""
    import torch

    leaf = features.detach().requires_grad_()
    pooled = layer(leaf, rois)
    return pooled.detach(), torch.autograd.grad(pooled, leaf, gradient)[0]
