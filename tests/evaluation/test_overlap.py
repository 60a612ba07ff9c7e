"""Overlap tables: counts, and what becomes of them when clusters become classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from u2seg.evaluation.overlap import Overlap, count_overlaps, overlaps_of_files, relabel
from u2seg.io.png import write_panoptic_png
from u2seg.structures.panoptic import ids_to_rgb


def rows(table: Overlap) -> list[tuple[int, int, int]]:
    columns = (table.truth, table.predicted, table.pixels)
    return list(zip(*(c.tolist() for c in columns), strict=True))


FAST = pytest.mark.parametrize("fast", [False, True])


@FAST
def test_large_ids_survive(fast: bool) -> None:
    top = 2**24 - 1
    table = count_overlaps(
        np.array([[top, 0]], dtype=np.int32), np.array([[top, top]], dtype=np.int32), fast=fast
    )
    assert rows(table) == [(0, top, 1), (top, top, 1)]


def test_eight_bit_maps_do_not_overflow() -> None:
    table = count_overlaps(np.array([[255]], dtype=np.uint8), np.array([[200]], dtype=np.uint8))
    assert rows(table) == [(255, 200, 1)]


@FAST
@pytest.mark.parametrize("ids", [1, 3, 40, 5000])
def test_every_pixel_is_counted_once(ids: int, fast: bool) -> None:
    """Compared with a dictionary, pixel by pixel; 5000 ids are more than the quick table holds."""
    rng = np.random.default_rng(ids)
    names = rng.choice(2**24, ids, replace=False)
    truth, predicted = (np.repeat(rng.choice(names, (60, 50)), 2, axis=1) for _ in range(2))
    predicted = np.roll(predicted, 1)
    want: dict[tuple[int, int], int] = {}
    for pair in zip(truth.reshape(-1).tolist(), predicted.reshape(-1).tolist(), strict=True):
        want[pair] = want.get(pair, 0) + 1
    table = count_overlaps(truth, predicted, fast=fast)
    assert rows(table) == [(*pair, want[pair]) for pair in sorted(want)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (30, 41), (64, 64)])
@pytest.mark.parametrize("ids", [1, 2, 6, 60])
def test_files_are_counted_as_their_maps(shape: tuple[int, int], ids: int, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(ids)
    names = np.append(rng.choice(2**24, ids, replace=False), 0).astype(np.int32)
    maps = [np.repeat(rng.choice(names, shape), 3, axis=1) for _ in range(2)]
    paths = tmp_path / "t.png", tmp_path / "p.png"
    for path, ids_map in zip(paths, maps, strict=True):
        Image.fromarray(ids_to_rgb(ids_map)).save(path)
    found = overlaps_of_files(*paths)
    assert found is not None and found[1] == maps[0].shape
    assert rows(found[0]) == rows(count_overlaps(*maps))


def test_files_that_cannot_be_counted_so_are_left_to_others(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    many = np.arange(3600, dtype=np.int32).reshape(60, 60)
    for path, ids in zip(paths, (many[:30], many, many), strict=True):
        write_panoptic_png(path, ids)
    assert overlaps_of_files(paths[0], paths[1]) is None  # of two sizes
    assert overlaps_of_files(paths[1], paths[2]) is None  # more pairs than the table holds
    assert overlaps_of_files(paths[0], tmp_path / "gone.png") is None
    paths[0].write_bytes(b"no png")
    assert overlaps_of_files(paths[0], paths[1]) is None


@FAST
def test_an_empty_map_has_no_pairs(fast: bool) -> None:
    assert rows(count_overlaps(np.zeros((0, 3)), np.zeros((0, 3)), fast=fast)) == []


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
