"""Galleries of what a cluster holds: masked crops of the photographs.

Images are (H, W, 3) uint8 RGB; boxes are COCO's (x, y, width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from u2seg.errors import UserError
from u2seg.visualization.text import Color

Rgb = npt.NDArray[np.uint8]
MARGIN = 0.12
"""Share of the box added on every side, so that a crop shows a little of its surroundings."""


def masked_crop(
    image: Rgb, mask: npt.NDArray[np.bool_], *, side: int = 96, rim: Color | None = None
) -> Rgb:
    """Return a square crop around a mask, everything outside the mask faded to pale grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool with at least one pixel.
        side: Side of the result in pixels.
        rim: RGB of a line of one pixel around the mask; None = no line. Without it a mask in a
            grey photograph is hard to tell from its faded surroundings.

    Returns:
        (side, side, 3) uint8; where the square leaves the photograph it is pale grey.

    Raises:
        UserError: if the sizes differ or the mask is empty.
    """
    if mask.shape != image.shape[:2]:
        raise UserError(f"mask {mask.shape} and image {image.shape[:2]} differ in size")
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise UserError("an empty mask has no crop")
    top, left = int(rows[0]), int(cols[0])
    height, width = int(rows[-1]) - top + 1, int(cols[-1]) - left + 1
    reach = max(1, round(max(height, width) * (1 + 2 * MARGIN)))
    y, x = top + (height - reach) // 2, left + (width - reach) // 2
    window = (slice(max(0, y), y + reach), slice(max(0, x), x + reach))
    part, inside = image[window].astype(np.uint16), mask[window]
    grey = (part.sum(axis=2, keepdims=True) // 3 + 3 * 225) // 4
    part = np.where(inside[..., None], part, grey).astype(np.uint8)
    square = np.full((reach, reach, 3), 236, dtype=np.uint8)
    y0, x0 = max(0, -y), max(0, -x)
    place = (slice(y0, y0 + part.shape[0]), slice(x0, x0 + part.shape[1]))
    square[place] = part
    crop = np.array(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))
    if rim is not None:
        shape = np.zeros((reach, reach), dtype=np.uint8)
        shape[place] = inside
        small = Image.fromarray(shape).resize((side, side), Image.Resampling.NEAREST)
        filled = np.asarray(small) > 0
        crop[ndimage.binary_dilation(filled) & ~filled] = rim
    return crop


def exemplars(
    cluster_ids: Sequence[int],
    *,
    per_cluster: int,
    distances: Sequence[float] | None = None,
) -> dict[int, list[int]]:
    """Return which masks stand for each cluster.

    Args:
        cluster_ids: Cluster of every mask, in a fixed order.
        per_cluster: At most this many per cluster, >= 1.
        distances: Distance of every mask to its centroid. With it the nearest are taken;
            without it masks are taken at equal steps through the cluster, so that the choice
            flatters nobody.

    Returns:
        Cluster id -> indices into ``cluster_ids``; clusters from large to small, ties by id.

    Examples:
        >>> exemplars([5, 5, 2, 5, 5], per_cluster=2)
        {5: [0, 3], 2: [2]}
        >>> exemplars([0, 0, 0], per_cluster=2, distances=[0.9, 0.1, 0.3])
        {0: [1, 2]}
    """
    members: dict[int, list[int]] = {}
    for index, cluster in enumerate(cluster_ids):
        members.setdefault(cluster, []).append(index)
    chosen = {}
    for cluster in sorted(members, key=lambda c: (-len(members[c]), c)):
        mine = members[cluster]
        if distances is not None:
            chosen[cluster] = sorted(mine, key=lambda i: (distances[i], i))[:per_cluster]
        else:
            count = min(per_cluster, len(mine))
            chosen[cluster] = [mine[i * len(mine) // count] for i in range(count)]
    return chosen


def contact_sheet(crops: Mapping[int, Sequence[Rgb]], *, columns: int, gap: int = 4) -> Rgb:
    """Return all crops on one sheet: one row per cluster, in the order of the mapping.

    Args:
        crops: Cluster id -> crops of one common size; at least one crop in all.
        columns: Crops per row; further ones are left out.
        gap: Pixels between crops.

    Raises:
        UserError: if there is no crop.
    """
    rows = [list(row)[:columns] for row in crops.values()]
    first = next((crop for row in rows for crop in row), None)
    if first is None:
        raise UserError("a contact sheet needs at least one crop")
    side = first.shape[0] + gap
    sheet = np.full((side * len(rows) - gap, side * columns - gap, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, crop in enumerate(row):
            sheet[i * side : (i + 1) * side - gap, j * side : (j + 1) * side - gap] = crop
    return sheet
