"""True segments of one stuff class in an image, made one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from u2seg.evaluation.panoptic import TruthSegment


def merge_targets(segments: Mapping[int, TruthSegment], stuff: Collection[int]) -> dict[int, int]:
    """Return segment id -> id of the first segment of its class, for stuff; others keep theirs.

    Examples:
        >>> sea, river = TruthSegment(9, 4), TruthSegment(9, 2)
        >>> merge_targets({5: sea, 6: TruthSegment(1, 3), 7: river}, {9})
        {5: 5, 6: 6, 7: 5}
    """
    first: dict[int, int] = {}
    return {
        i: first.setdefault(s.category, i) if s.category in stuff and not s.crowd else i
        for i, s in segments.items()
    }


def joined_segments(
    segments: Mapping[int, TruthSegment], target: Mapping[int, int]
) -> dict[int, TruthSegment]:
    """Return the segments that are left, with the areas of those they took in."""
    joined: dict[int, TruthSegment] = {}
    for i, segment in segments.items():
        before = joined.get(target[i])
        area = segment.area + (before.area if before else 0)
        joined[target[i]] = replace(segment, area=area)
    return joined
