"""Which cuts of an image are worth refining, and how sure each is.

An object seldom runs along the image's border; sky, ground and walls do. Features that know no
objects (``filter_bank``) cut those off first, and cleanly. Both rules here are off by default:
the reference has neither.

Shapes: h x w patches.
Source: the border as background, Zhu et al., "Saliency Optimization from Robust Background
Detection", 2014, section 3; these two rules are of this project, measured in benchmarks/results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from u2seg.config.schema import MaskSettings
from u2seg.masks.maskcut import Grid, PatchMask


def select(cuts: Sequence[PatchMask], settings: MaskSettings) -> list[PatchMask]:
    """Return the cuts that are kept, in the order they were cut, with their scores.

    Args:
        cuts: Of one image.
        settings: ``max_border`` and ``score`` are used.

    Examples:
        Two of the six patches along the border:

        >>> cut = PatchMask(np.array([[1, 1, 0], [0, 0, 0]], dtype=bool), 0.9)
        >>> [round(c.score, 3) for c in select([cut], MaskSettings(score="border"))]
        [0.6]
        >>> select([cut], MaskSettings(max_border=0.3))
        []
    """
    kept = []
    for cut in cuts:
        share = border_share(cut.grid)
        if share <= settings.max_border:
            score = cut.score * (1 - share) if settings.score == "border" else cut.score
            kept.append(PatchMask(cut.grid, score))
    return kept


def border_share(grid: Grid) -> float:
    """Return the share of the patches along the image's border that a mask covers, 0..1.

    Examples:
        Four of the eight border patches; the patch in the middle does not count:

        >>> border_share(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=bool))
        0.5
    """
    inside = grid[1:-1, 1:-1]
    covered = int(np.count_nonzero(grid)) - int(np.count_nonzero(inside))
    return covered / (grid.size - inside.size)
