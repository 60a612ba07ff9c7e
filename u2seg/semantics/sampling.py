"""What is drawn at random or cut out of images to learn stuff from.

Everything random in a training step is drawn beforehand, so that a step is a pure function. Loss
shifts can be had from the similarities of the features: a shift is that at which attraction turns
into repulsion; the published ones were found for the cosines of DINO, and a quantile cuts at the
same place of any distribution.

Shapes: n images, B of a step, D feature channels, m positions, s x s positions, S clusters,
H x W pixels.
Source: STEGO commit eb4d6b5, src/crop_datasets.py (five crops, ratio 0.5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from u2seg.config.schema import StegoSettings
from u2seg.errors import UserError
from u2seg.semantics.base import FeatureSource
from u2seg.semantics.head import draw_dropout, grid_tensor
from u2seg.semantics.losses import feature_similarity, sample, unit

POSITIONS = 20_000
"""Positions drawn evenly from up to ``IMAGES`` images."""
IMAGES = 500
RESTARTS = 3
ITERATIONS = 50
PAIRS = 64
"""Image pairs of each kind whose similarities make the shifts."""
SIDE = 8
"""Positions per side in each of these images."""
CROPS = {"none": 1, "five": 5}
"""``U2SEG.SEMANTICS.CROPS`` -> training images made of one photograph."""

Box = tuple[int, int, int, int]


@torch.no_grad()
def sample_rows(
    source: FeatureSource, encode: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Tensor:
    """Return what ``encode`` makes of features at random positions of evenly spaced images.

    Args:
        source: Features of n >= 1 images.
        encode: (1, D, m, 1) float32 features -> (1, K, m, 1) float32.
        generator: Draws the positions.

    Returns:
        (m, K) float32; an image gives no more positions than it has patches.
    """
    count = min(len(source), IMAGES)
    each = max(1, POSITIONS // count)
    rows = []
    for index in np.linspace(0, len(source) - 1, count).round().astype(int).tolist():
        grid = grid_tensor(source[index])
        taken = min(each, grid.shape[2] * grid.shape[3])
        coords = torch.rand((1, taken, 1, 2), generator=generator) * 2 - 1
        rows.append(encode(sample(grid, coords))[0, :, 0].T)
    return torch.cat(rows)


def unit_centers(rows: Tensor, count: int, seed: int) -> npt.NDArray[np.float32] | None:
    """Return the K-means centres of rows scaled to unit length.

    Args:
        rows: (m, K) float32.
        count: S.
        seed: Of the K-means++ starts.

    Returns:
        (S, K) float32, best of ``RESTARTS``; None if fewer than S rows differ.

    Raises:
        UserError: if there are fewer rows than clusters; says both numbers.

    Examples:
        >>> rows = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 3.0]])
        >>> sorted(unit_centers(rows, 2, seed=0).tolist())
        [[0.0, 1.0], [1.0, 0.0]]
        >>> unit_centers(rows[:2], 2, seed=0) is None
        True
    """
    from sklearn.cluster import KMeans

    if len(rows) < count:
        raise UserError(
            f"{len(rows)} patches cannot make {count} stuff clusters: lower "
            "U2SEG.SEMANTICS.NUM_CLASSES or give more images"
        )
    unit = functional.normalize(rows, dim=1).numpy()
    if len(np.unique(unit, axis=0)) < count:
        return None
    model = KMeans(count, n_init=RESTARTS, max_iter=ITERATIONS, random_state=seed).fit(unit)
    centers: npt.NDArray[np.float32] = model.cluster_centers_.astype(np.float32)
    return centers


@dataclasses.dataclass(frozen=True)
class StepDraws:
    """The random numbers of one step.

    Args:
        coords: (B, n, n, 2) float32 in -1..1: positions in the images (and in themselves).
        coords_paired: The same for the images they are paired with.
        permutations: (R, B) int64: R random pairings; R = 0 leaves the random term out.
        dropout: (3, B, D) float32 factors of the images, or None.
        dropout_paired: The same for the paired images.
    """

    coords: Tensor
    coords_paired: Tensor
    permutations: Tensor
    dropout: Tensor | None
    dropout_paired: Tensor | None


def draw_step(
    settings: StegoSettings, images: int, channels: int, generator: torch.Generator
) -> StepDraws:
    """Return the draws of one step for ``images`` images of ``channels`` feature channels."""
    shape = (images, settings.samples, settings.samples, 2)
    return StepDraws(
        coords=torch.rand(shape, generator=generator) * 2 - 1,
        coords_paired=torch.rand(shape, generator=generator) * 2 - 1,
        permutations=draw_pairings(images, settings.neg_samples, generator),
        dropout=draw_dropout(images, channels, settings.dropout, generator),
        dropout_paired=draw_dropout(images, channels, settings.dropout, generator),
    )


def draw_pairings(images: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random permutations of 0..B-1 without fixed points, (count, B) int64.

    Each is one cycle through all images in random order, so every other image is equally likely
    as partner. (Upstream adds 1 to fixed points, which often uses an image twice.) A single
    image has no partner: (0, 1).

    Examples:
        >>> draw_pairings(2, 1, torch.Generator()).tolist()
        [[1, 0]]
        >>> tuple(draw_pairings(1, 5, torch.Generator()).shape)
        (0, 1)
    """
    if images < 2:
        return torch.empty((0, images), dtype=torch.int64)
    rows = torch.empty((count, images), dtype=torch.int64)
    for row in rows:
        order = torch.randperm(images, generator=generator)
        row[order] = order.roll(1)
    return rows


def draw_batch(
    neighbors: Tensor, batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the images of a step and a random near neighbour of each.

    Args:
        neighbors: (n, k) int64, indices of similar images, k may be 0.
        batch_size: Images wanted; no image is drawn twice, so at most n come back.
        generator: Source of randomness.

    Returns:
        Two (B,) int64; an image without neighbours is paired with itself.
    """
    images = torch.randperm(len(neighbors), generator=generator)[:batch_size]
    if neighbors.shape[1] == 0:
        return images, images
    pick = torch.randint(neighbors.shape[1], images.shape, generator=generator)
    return images, neighbors[images, pick]


def settle_shifts(
    settings: StegoSettings,
    source: FeatureSource,
    neighbors: Tensor,
    generator: torch.Generator,
) -> StegoSettings:
    """Return settings whose ``shift_*`` are the ``quantile_*`` of this source's similarities.

    Args:
        settings: Returned as they are unless ``shifts`` is ``auto``.
        source: Features of n >= 1 images.
        neighbors: (n, k) int64.
        generator: Draws images and positions.
    """
    if settings.shifts != "auto":
        return settings
    images, partners = draw_batch(neighbors, PAIRS, generator)
    strangers = images[draw_pairings(len(images), 1, generator)]
    here = _sampled(source, images, generator)
    others = {
        "intra": here,
        "inter": _sampled(source, partners, generator),
        # One image has no stranger, and its random term is left out anyway.
        "neg": _sampled(source, strangers[0] if len(strangers) else images, generator),
    }
    shifts = {}
    for name, other in others.items():
        values = feature_similarity(here, other, settings.pointwise).flatten()
        shifts[name] = round(quantile(values, getattr(settings, f"quantile_{name}")), 4)
    return dataclasses.replace(
        settings,
        shift_intra=shifts["intra"],
        shift_inter=shifts["inter"],
        shift_neg=shifts["neg"],
    )


def quantile(values: Tensor, share: float) -> float:
    """Return the value below which ``share`` of the values lie: the nearest of them, no mean.

    Args:
        values: (m,) float32, any m >= 1 (``torch.quantile`` refuses more than 16 million).
        share: 0..1.

    Examples:
        >>> quantile(torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0]), 0.5)
        3.0
        >>> quantile(torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0]), 0.8)
        4.0
    """
    rank = 1 + round(share * (len(values) - 1))
    return float(values.kthvalue(rank).values)


def _sampled(source: FeatureSource, images: Tensor, generator: torch.Generator) -> Tensor:
    coords = torch.rand((len(images), SIDE, SIDE, 2), generator=generator) * 2 - 1
    grids = [grid_tensor(source[i]) for i in images.tolist()]
    return unit(torch.cat([sample(g, c[None]) for g, c in zip(grids, coords)]))


def crop_box(kind: str, index: int, height: int, width: int, ratio: float) -> Box:
    """Return what part of a photograph training image ``index`` of it shows.

    Args:
        kind: A key of ``CROPS``.
        index: 0 .. ``CROPS[kind]`` - 1; of five: top left, top right, bottom left, bottom right,
            centre.
        height: H >= 1.
        width: W >= 1.
        ratio: Side of a crop over the side of the photograph, 0 < r <= 1; rounded down to pixels,
            at least one.

    Returns:
        (top, left, bottom, right) in pixels, the latter two exclusive.

    Examples:
        >>> [crop_box("five", i, 10, 20, 0.5) for i in (0, 3, 4)]
        [(0, 0, 5, 10), (5, 10, 10, 20), (2, 5, 7, 15)]
        >>> crop_box("none", 0, 10, 20, 0.5)
        (0, 0, 10, 20)
    """
    if kind == "none":
        return 0, 0, height, width
    tall, wide = max(1, int(height * ratio)), max(1, int(width * ratio))
    lower, right = height - tall, width - wide
    corners = ((0, 0), (0, right), (lower, 0), (lower, right))
    # round() takes halves to the even number, as torchvision's centre crop does.
    middle = (round(lower / 2), round(right / 2))
    top, left = (*corners, middle)[index]
    return top, left, top + tall, left + wide
