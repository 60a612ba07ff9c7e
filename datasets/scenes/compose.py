"""Compose one scene: stuff regions, things on top, light, noise; and its exact truth.

The truth is taken from the same masks that paint the picture, before light, blur and noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from scenes.kinds import SCENE_LABELS, STUFF, THINGS, ThingKind
from scenes.shapes import Pose, object_coordinates, shape_mask
from scenes.textures import STUFF_TEXTURES, THING_TEXTURES
from u2seg.structures.masks import mask_box
from u2seg.structures.panoptic import PanopticLabel, Segment

REFERENCE_SIDE = 128
"""Lengths below are in pixels of an image of this side."""
THING_COUNTS = (0.35, 0.35, 0.2, 0.1)
"""Probability of 1, 2, 3, 4 things."""
REGION_COUNTS = (0.2, 0.5, 0.3)
"""Probability of 1, 2, 3 stuff regions."""
RADIUS = (13.0, 27.0)
"""Smallest and largest radius of a thing; drawn log-uniformly."""
MIN_VISIBLE_PIXELS = 60.0
MIN_VISIBLE_SHARE = 0.35
BLUR, NOISE = 0.5, 4.0
"""Lens blur in pixels; sensor noise in grey levels."""

Image = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A picture and its truth.

    Args:
        image: (H, W, 3) uint8 sRGB.
        label: Panoptic truth; every pixel belongs to one segment, ids 1, 2, ... (stuff first).
    """

    image: npt.NDArray[np.uint8]
    label: PanopticLabel


def compose_scene(rng: np.random.Generator, side: int = REFERENCE_SIDE) -> Scene:
    """Return a random square scene.

    Args:
        rng: Decides everything; the same state gives the same scene.
        side: Height and width in pixels, >= 32.

    Raises:
        ValueError: if ``side`` is too small for things to be told apart.
    """
    if side < 32:
        raise ValueError(f"a scene needs a side of at least 32 pixels, got {side}")
    image, regions = _background(rng, side)
    count = 1 + int(rng.choice(len(THING_COUNTS), p=THING_COUNTS))
    placed = [_place(rng, side) for _ in range(count)]
    outlines = [shape_mask(kind.shape, pose, (side, side)) for kind, pose in placed]
    unit = side / REFERENCE_SIDE
    visible = visible_parts(outlines, MIN_VISIBLE_PIXELS * unit**2, MIN_VISIBLE_SHARE)
    things = []
    for (kind, pose), part in zip(placed, visible, strict=True):
        if part is not None:
            image[part] = _thing_colors(rng, kind, pose, side)[part]
            things.append((THINGS.index(kind), part))
    return Scene(_photograph(rng, image), _label(regions, things))


def visible_parts(
    outlines: Sequence[Mask], min_pixels: float, min_share: float
) -> list[Mask | None]:
    """Return what is left of each outline when later ones lie on top of earlier ones.

    Args:
        outlines: (H, W) masks from the farthest to the nearest.
        min_pixels: A thing that shows fewer pixels is dropped and hides nothing.
        min_share: Likewise for the share of its own outline that shows, 0..1.

    Returns:
        Disjoint masks in the same order; None for a dropped thing.

    Examples:
        >>> far, near = np.array([[1, 1, 1, 0]]) > 0, np.array([[0, 1, 1, 1]]) > 0
        >>> [m.astype(int).tolist() for m in visible_parts([far, near], 1, 0.3)]
        [[[1, 0, 0, 0]], [[0, 1, 1, 1]]]
        >>> visible_parts([far, near], 1, 0.5)[0] is None
        True
    """
    covered: Mask | None = None
    parts: list[Mask | None] = []
    for outline in reversed(outlines):
        part = outline if covered is None else outline & ~covered
        pixels = np.count_nonzero(part)
        if pixels == 0 or pixels < min_pixels or pixels < min_share * np.count_nonzero(outline):
            parts.append(None)
            continue
        covered = outline if covered is None else covered | outline
        parts.append(part)
    return parts[::-1]


def _place(rng: np.random.Generator, side: int) -> tuple[ThingKind, Pose]:
    kind = THINGS[int(rng.integers(len(THINGS)))]
    unit = side / REFERENCE_SIDE
    low, high = (math.log(r * unit) for r in RADIUS)
    radius = math.exp(rng.uniform(low, high))
    x, y = rng.uniform(0.12 * side, 0.88 * side, size=2)
    return kind, Pose(float(x), float(y), radius, float(rng.uniform(0, 2 * math.pi)))


def _thing_colors(rng: np.random.Generator, kind: ThingKind, pose: Pose, side: int) -> Image:
    """Return the (H, W, 3) colours of a thing's texture, jittered for this instance."""
    unit = side / REFERENCE_SIDE
    u, v = object_coordinates(pose, (side, side))
    period = rng.uniform(4.0, 6.0) * unit / pose.radius
    weight = THING_TEXTURES[kind.texture](u, v, period)[..., None]
    main, second = (np.array(color, dtype=np.float64) for color in kind.colors)
    tint = rng.normal(0.0, 7.0, size=3)
    gain = rng.uniform(0.85, 1.1)
    shade = (1.0 - 0.12 * (u + v))[..., None]  # lit from the upper left of the object
    return ((1 - weight) * main + weight * second + tint) * gain * shade


def _background(rng: np.random.Generator, side: int) -> tuple[Image, list[tuple[int, Mask]]]:
    """Return the stuff picture and (stuff cluster, region mask) from top to bottom."""
    count = 1 + int(rng.choice(len(REGION_COUNTS), p=REGION_COUNTS))
    chosen = sorted(rng.permutation(len(STUFF))[:count].tolist(), key=lambda s: s != 0)
    index = _region_index(rng, side, count)
    image = np.zeros((side, side, 3))
    regions = []
    for position, stuff in enumerate(chosen):
        region = index == position
        texture = STUFF_TEXTURES[STUFF[stuff]](rng, (side, side), side / REFERENCE_SIDE)
        image[region] = (texture * rng.uniform(0.92, 1.08))[region]
        regions.append((int(stuff), region))
    return image, regions


def _region_index(rng: np.random.Generator, side: int, count: int) -> npt.NDArray[np.int64]:
    """Return an (H, W) map 0..count-1 from top to bottom, cut by tilted, wavy horizons."""
    rows, cols = np.mgrid[:side, :side] / side
    index = np.zeros((side, side), dtype=np.int64)
    for cut in range(1, count):
        level = cut / count + rng.uniform(-0.09, 0.09)
        tilt = rng.uniform(-0.18, 0.18)
        wave = rng.uniform(0.0, 0.05) * np.sin(
            2 * np.pi * (rng.uniform(0.6, 1.8) * cols + rng.uniform())
        )
        below = rows > level + tilt * (cols - 0.5) + wave
        index = np.where(below & (index == cut - 1), cut, index)
    return index


def _photograph(rng: np.random.Generator, image: Image) -> npt.NDArray[np.uint8]:
    """Return the picture under uneven, tinted light, through a soft lens and a noisy sensor."""
    side = image.shape[0]
    rows, cols = np.mgrid[:side, :side] / side - 0.5
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.2)
    light = rng.uniform(0.88, 1.08) + slope * (math.cos(angle) * cols + math.sin(angle) * rows)
    tint = 1.0 + rng.uniform(-0.03, 0.03, size=3)
    lit = gaussian_filter(image * light[..., None] * tint, (BLUR, BLUR, 0))
    noisy = lit + rng.normal(0.0, NOISE, size=image.shape)
    picture: npt.NDArray[np.uint8] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return picture


def _label(
    regions: Sequence[tuple[int, Mask]], things: Sequence[tuple[int, Mask]]
) -> PanopticLabel:
    ids = np.zeros(regions[0][1].shape, dtype=np.int32)
    painted: list[tuple[int, Mask]] = []
    for stuff, mask in regions:
        painted.append((SCENE_LABELS.stuff_category(stuff), mask))
    for thing, mask in things:
        painted.append((SCENE_LABELS.thing_category(thing), mask))
    categories: dict[int, int] = {}
    for category, mask in painted:
        identity = len(categories) + 1
        categories[identity] = category
        ids[mask] = identity
    segments = []
    for identity, category in categories.items():
        mask = ids == identity
        area = int(np.count_nonzero(mask))
        if area:  # things may hide a whole stuff region
            thing = SCENE_LABELS.is_thing(category)
            segments.append(Segment(identity, category, thing, area, mask_box(mask)))
    return PanopticLabel(ids, tuple(segments))
