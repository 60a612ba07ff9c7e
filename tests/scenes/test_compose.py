"""Scenes: truth agrees with the picture, occlusion by hand, every class occurs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scenes import SCENE_LABELS, compose_scene
from scenes.compose import visible_parts

from u2seg.structures.masks import mask_box


def row(*pixels: int) -> np.ndarray:
    return np.array([pixels], dtype=bool)


def test_the_nearest_thing_hides_the_others() -> None:
    far, middle, near = row(1, 1, 1, 1, 0), row(0, 1, 1, 0, 0), row(0, 0, 1, 1, 1)
    parts = visible_parts([far, middle, near], min_pixels=1, min_share=0.0)
    expected = [row(1, 0, 0, 0, 0), row(0, 1, 0, 0, 0), row(0, 0, 1, 1, 1)]
    for part, want in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part, want)


def test_a_dropped_thing_hides_nothing() -> None:
    far, middle, near = row(1, 1, 1, 1), row(0, 1, 1, 1), row(0, 0, 1, 1)
    # middle shows 1 of 3 pixels: dropped by share 0.4; far then shows 2 of 4, not 1.
    parts = visible_parts([far, middle, near], min_pixels=1, min_share=0.4)
    assert parts[1] is None
    np.testing.assert_array_equal(parts[0], row(1, 1, 0, 0))
    # by pixels: the nearest has 2, so the middle one shows all its 3 and the far one 1
    parts = visible_parts([far, middle, near], min_pixels=3, min_share=0.0)
    assert parts[0] is None and parts[2] is None
    np.testing.assert_array_equal(parts[1], middle)


def test_truth_is_consistent() -> None:
    for seed in range(12):
        scene = compose_scene(np.random.default_rng(seed), 64)
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        ids = scene.label.ids
        assert set(np.unique(ids)) == {s.id for s in scene.label.segments}
        assert ids.min() > 0
        for segment in scene.label.segments:
            mask = ids == segment.id
            assert segment.area == np.count_nonzero(mask)
            assert segment.bbox == mask_box(mask)
            assert segment.isthing == SCENE_LABELS.is_thing(segment.category_id)
        stuff = [s.category_id for s in scene.label.segments if not s.isthing]
        assert len(stuff) == len(set(stuff))


def test_the_picture_shows_what_the_truth_says() -> None:
    """Mean colours per class, over scenes, are those of the class (red ball, green grass)."""
    sums: dict[str, list[np.ndarray]] = {}
    for seed in range(30):
        scene = compose_scene(np.random.default_rng(seed), 64)
        for segment in scene.label.segments:
            pixels = scene.image[scene.label.ids == segment.id].astype(float)
            sums.setdefault(SCENE_LABELS.name(segment.category_id), []).append(pixels.mean(axis=0))
    mean = {name: np.mean(rows, axis=0) for name, rows in sums.items()}
    assert set(mean) == {*SCENE_LABELS.thing_names, *SCENE_LABELS.stuff_names}
    red, green, blue = range(3)
    assert mean["ball"][red] > 3 * mean["ball"][green]
    assert mean["crate"][blue] < 0.4 * mean["crate"][green] < 0.4 * mean["crate"][red]
    assert mean["tent"][green] < 0.5 * min(mean["tent"][[red, blue]])
    assert np.ptp(mean["star"]) < 15
    assert mean["cross"][red] > 1.5 * mean["cross"][green] > 3 * mean["cross"][blue]
    assert mean["grass"][green] > max(mean["grass"][[red, blue]])
    assert mean["sky"][blue] > mean["sky"][red] > mean["water"][red]
    assert mean["sand"][red] > mean["sand"][blue]


def test_same_seed_same_scene_and_another_seed_another() -> None:
    first, again, other = (compose_scene(np.random.default_rng(s), 48) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label.ids, again.label.ids)
    assert first.label.segments == again.label.segments
    assert not np.array_equal(first.image, other.image)


def test_variety() -> None:
    things, regions = Counter(), Counter()
    for seed in range(60):
        segments = compose_scene(np.random.default_rng(seed), 64).label.segments
        things[sum(s.isthing for s in segments)] += 1
        regions[sum(not s.isthing for s in segments)] += 1
    assert set(regions) == {1, 2, 3}
    assert {1, 2, 3} <= set(things) <= {1, 2, 3, 4}


def test_too_small_a_side_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 pixels, got 31"):
        compose_scene(np.random.default_rng(0), 31)
