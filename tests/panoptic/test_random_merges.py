"""2,000 random merges by each rule: what must hold whatever the masks are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from u2seg.config.schema import PanopticSettings
from u2seg.panoptic.merger import merge_panoptic
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.panoptic import PanopticLabel

SPACE = LabelSpace(num_things=4, num_stuff=3)
MERGES = 2_000
BATCH = 250
SHARES = (0.0, 0.3, 0.7, 1.0)


def _masks(rng: np.random.Generator, shape: tuple[int, int]) -> list[InstanceMask]:
    """0 to 5 rectangles with ragged insides, possibly equal, hidden or empty."""
    masks = []
    for _ in range(rng.integers(0, 6)):
        y, x = rng.integers(0, shape)
        mask = np.zeros(shape, dtype=bool)
        mask[y : y + rng.integers(0, 8), x : x + rng.integers(1, 8)] = True
        mask &= rng.random(shape) < rng.choice([0.6, 1.0])
        masks.append(InstanceMask.from_array(mask, rng.choice([0.2, 0.5, 0.9])))
    return masks


def _rules(rng: np.random.Generator, rule: str) -> PanopticSettings:
    return PanopticSettings(
        rule=rule,
        max_stuff_covered=rng.choice(SHARES),
        stuff_covered=tuple(rng.choice(SHARES, 3)) if rng.random() < 0.3 else (),
        min_thing_area=rng.choice([0.0, 0.02, 0.1]),
        min_stuff_area=rng.choice([0.0, 0.02, 0.1]),
        min_visible=rng.choice([0.0, 0.5, 1.0]),
        max_hole=rng.choice([0.0, 0.05]),
    )


def _check(
    label: PanopticLabel, masks: list[InstanceMask], stuff: np.ndarray, rules: PanopticSettings
) -> None:
    ids = label.ids
    assert ids.shape == stuff.shape and ids.dtype == np.int32
    found, areas = np.unique(ids, return_counts=True)
    seen = dict(zip(found.tolist(), areas.tolist(), strict=True))
    void = seen.pop(0, 0)
    # Every pixel has one id, which has one record, with its area.
    assert [s.id for s in label.segments] == sorted(seen)
    assert {s.id: s.area for s in label.segments} == seen
    assert sum(s.area for s in label.segments) + void == ids.size
    scored = rules.rule == "scored"
    for segment in label.segments:
        ys, xs = np.nonzero(ids == segment.id)
        x, y = xs.min(), ys.min()
        assert segment.bbox == (x, y, xs.max() + 1 - x, ys.max() + 1 - y)
        share = rules.min_thing_area if segment.isthing else rules.min_stuff_area
        assert segment.area >= max(1, share * ids.size if scored else 0)
        assert segment.isthing == SPACE.is_thing(segment.category_id)
        if segment.isthing:
            filled = scored and rules.max_hole > 0
            assert filled or any(m.to_array()[ys, xs].all() for m in masks)
        else:
            assert set(stuff[ys, xs].tolist()) == {segment.category_id - 5}
    ours = [s.category_id for s in label.segments if not s.isthing]
    assert ours == sorted(set(ours))
    if scored:
        scores = [s.score for s in label.segments if s.isthing]
        assert scores == sorted(scores)


@pytest.mark.parametrize("rule", ["scored", "released"])
def test_random_merges(rule: str) -> None:
    rng = np.random.default_rng(0)
    kept = dropped = 0
    for number in range(MERGES):
        if number % BATCH == 0:  # masks are costly to encode: merged in many ways
            shape = tuple(rng.integers(1, 13, 2).tolist())
            pool = [_masks(rng, shape) for _ in range(8)]
        masks = pool[rng.integers(len(pool))]
        clusters = rng.integers(0, 4, len(masks)).tolist()
        stuff = rng.choice([0, 1, 2, 255], size=shape).astype(np.uint8)
        rules = _rules(rng, rule)
        label = merge_panoptic(masks, clusters, stuff, SPACE, rules)
        _check(label, masks, stuff, rules)
        things = sum(s.isthing for s in label.segments)
        kept, dropped = kept + things, dropped + len(masks) - things
        if number % 10 == 0:
            again = merge_panoptic(masks, clusters, stuff, SPACE, replace(rules))
            np.testing.assert_array_equal(label.ids, again.ids)
            assert label.segments == again.segments
    assert min(kept, dropped) > MERGES / 10  # both happened often
