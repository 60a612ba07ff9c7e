"""Overlap tables: counts, and what becomes of them when clusters become classes."""

from __future__ import annotations

import numpy as np
import pytest

from u2seg.evaluation.metrics.overlap import Overlap, count_overlaps, relabel


def rows(table: Overlap) -> list[tuple[int, int, int]]:
    columns = (table.truth, table.predicted, table.pixels)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def test_large_ids_survive() -> None:
    top = 2**24 - 1
    table = count_overlaps(
        np.array([[top, 0]], dtype=np.int32), np.array([[top, top]], dtype=np.int32)
    )
    assert rows(table) == [(0, top, 1), (top, top, 1)]


def test_eight_bit_maps_do_not_overflow() -> None:
    table = count_overlaps(np.array([[255]], dtype=np.uint8), np.array([[200]], dtype=np.uint8))
    assert rows(table) == [(255, 200, 1)]


@pytest.mark.parametrize("ids", [1, 3, 40, 5000])
def test_every_pixel_is_counted_once(ids: int) -> None:
    """Compared with a dictionary, pixel by pixel."""
    rng = np.random.default_rng(ids)
    names = rng.choice(2**24, ids, replace=False)
    truth, predicted = (np.repeat(rng.choice(names, (60, 50)), 2, axis=1) for _ in range(2))
    predicted = np.roll(predicted, 1)
    want: dict[tuple[int, int], int] = {}
    for pair in zip(truth.reshape(-1).tolist(), predicted.reshape(-1).tolist(), strict=True):
        want[pair] = want.get(pair, 0) + 1
    table = count_overlaps(truth, predicted)
    assert rows(table) == [(*pair, want[pair]) for pair in sorted(want)]


def test_an_empty_map_has_no_pairs() -> None:
    assert rows(count_overlaps(np.zeros((0, 3)), np.zeros((0, 3)))) == []


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 1\)"):
        count_overlaps(np.zeros((1, 2), np.int32), np.zeros((2, 1), np.int32))


def test_relabel_drops_unmatched_and_merges_only_the_classes_asked_for() -> None:
    truth = np.array([[1, 1, 1, 1, 1]], dtype=np.int32)
    predicted = np.array([[10, 11, 12, 13, 14]], dtype=np.int32)
    categories = {10: 7, 12: 7, 11: 3, 13: 3}  # 14 has no class
    table, left = relabel(count_overlaps(truth, predicted), categories, merge={7})
    assert rows(table) == [(1, 0, 1), (1, 10, 2), (1, 11, 1), (1, 13, 1)]
    assert left == {10: 7, 11: 3, 13: 3}
    table, left = relabel(count_overlaps(truth, predicted), categories, merge=())
    assert left == categories
    assert table.pixels.sum() == 5
