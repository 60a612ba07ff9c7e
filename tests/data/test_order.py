"""Order of training: by hand, against a replay with buffers, and shared by processes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from u2seg.data.stream import BatchOrder, Indices, epoch_permutation


def replay(
    groups: Sequence[int], batch: int, permutation: Callable[[int], Indices], count: int
) -> list[list[int]]:
    """The rule as it reads: draw images one by one, hand out a group's batch when it is full."""
    waiting: dict[int, list[int]] = {}
    result: list[list[int]] = []
    for epoch in itertools.count():
        for image in permutation(epoch).tolist():
            members = waiting.setdefault(groups[image], [])
            members.append(image)
            if len(members) == batch:
                result.append(members[:])
                members.clear()
            if len(result) == count:
                return result
    raise AssertionError


def test_order_by_hand() -> None:
    """Wide 0, 2, 3 and tall 1, 4; epoch 0 forwards, epoch 1 backwards, and so on; two per batch.

    Drawn: 0 1 2 3 4 | 4 3 2 1 0 | 0 1 ...
    wide waits 0, [0 2] at the third draw, then 3; tall 1, [1 4] at the fifth;
    epoch 1: tall 4; wide [3 3] at its second, 2; tall [4 1] at its fourth; wide [2 0] at its last;
    epoch 2: wide 0, tall 1, wide [0 2].
    """
    order = BatchOrder(
        [0, 1, 0, 0, 1], 2, lambda epoch: np.arange(5) if epoch % 2 == 0 else np.arange(5)[::-1]
    )
    expected = [[0, 2], [1, 4], [3, 3], [4, 1], [2, 0], [0, 2]]
    assert [order.batch(i).tolist() for i in range(6)] == expected
    # any iteration at once, in any sequence
    fresh = BatchOrder(
        [0, 1, 0, 0, 1], 2, lambda epoch: np.arange(5) if epoch % 2 == 0 else np.arange(5)[::-1]
    )
    assert [fresh.batch(i).tolist() for i in (4, 0, 5, 2)] == [[2, 0], [0, 2], [0, 2], [3, 3]]


@pytest.mark.parametrize(
    ("images", "batch"), [(1, 16), (3, 16), (7, 4), (50, 16), (5, 1), (100, 3)]
)
def test_the_arithmetic_equals_the_replay(images: int, batch: int) -> None:
    groups = np.random.default_rng(images).integers(0, 2, images).tolist()
    permutation = functools.partial(epoch_permutation, images, 5)
    order = BatchOrder(groups, batch, permutation)
    expected = replay(groups, batch, permutation, 60)
    assert [order.batch(i).tolist() for i in range(60)] == expected
    assert BatchOrder(groups, batch, permutation).batch(59).tolist() == expected[59]


def test_every_image_once_per_epoch_and_each_epoch_anew() -> None:
    order = BatchOrder([0] * 12, 4, functools.partial(epoch_permutation, 12, 7))
    epochs = [np.concatenate([order.batch(3 * e + i) for i in range(3)]).tolist() for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_permutations_stay_the_same_in_all_versions() -> None:
    """A resumed training must go on in the same order; these are raw words of PCG64, sorted."""
    words = np.random.PCG64(np.random.SeedSequence((3, 1))).random_raw(6)
    expected = sorted(range(6), key=lambda i: int(words[i]))
    assert epoch_permutation(6, 3, 1).tolist() == expected == [0, 2, 1, 3, 4, 5]
