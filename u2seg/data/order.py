"""Which image is drawn when: the order of training as arithmetic, without a state to keep.

Each epoch is a permutation of its own. Images of a group (wide or tall) wait until they fill a
batch, across epochs if need be, as in Detectron2's aspect ratio grouping; but the batches are
those of the whole run, so they do not depend on how many processes share them. Any iteration is
reached without going through the ones before.

Shapes: N images, G groups, B images per batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def epoch_permutation(count: int, seed: int, epoch: int) -> Indices:
    """Return a permutation of ``range(count)`` that depends on the three numbers alone.

    It sorts raw random words, whose values NumPy promises to keep in all versions.

    Examples:
        >>> sorted(epoch_permutation(5, seed=1, epoch=0).tolist())
        [0, 1, 2, 3, 4]
    """
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch)))
    words = np.asarray(bits.random_raw(count), dtype=np.uint64)
    return np.argsort(words, kind="stable").astype(np.int64)


class BatchOrder:
    """The batches of a run, by iteration.

    Args:
        groups: Group of each image; a batch holds images of one group.
        batch: B, images per batch of all processes together, >= 1.
        permutation: Epoch -> order of the N images.

    Raises:
        ValueError: if there is no image or ``batch`` is below 1.

    Examples:
        Three images, the last one of another group, in batches of two, never shuffled. The third
        one waits for its second epoch.

        >>> order = BatchOrder([0, 0, 1], 2, lambda epoch: np.arange(3))
        >>> [order.batch(iteration).tolist() for iteration in range(4)]
        [[0, 1], [0, 1], [2, 2], [0, 1]]
    """

    def __init__(
        self, groups: Sequence[int], batch: int, permutation: Callable[[int], Indices]
    ) -> None:
        if len(groups) == 0 or batch < 1:
            raise ValueError(f"{len(groups)} images in batches of {batch}: nothing to draw")
        self._groups = np.unique(np.asarray(groups), return_inverse=True)[1]
        self._counts = np.bincount(self._groups).tolist()
        self._batch = batch
        self._permutation = permutation
        # A batch may reach back by B / (smallest group) epochs; more than a few are rare.
        self._members = functools.lru_cache(maxsize=4)(self._split)
        self._closing = functools.lru_cache(maxsize=2)(self._closing_order)

    def batch(self, iteration: int) -> Indices:
        """Return the (B,) image indices of an iteration >= 0."""
        epoch = self._epoch_of(iteration)
        group, number = self._closing(epoch)[iteration - self._ended(epoch)]
        return self._slice(group, number)

    def _ended(self, epoch: int) -> int:
        """Return how many batches are complete before an epoch begins."""
        return sum(count * epoch // self._batch for count in self._counts)

    def _epoch_of(self, iteration: int) -> int:
        # ended(e) <= e * N / B, so this first guess is never too late
        epoch = iteration * self._batch // sum(self._counts)
        while self._ended(epoch + 1) <= iteration:
            epoch += 1
        return int(epoch)

    def _split(self, epoch: int) -> list[tuple[Indices, Indices]]:
        """Return the images of each group in the epoch's order, and their places in it."""
        drawn = self._permutation(epoch)
        kinds = self._groups[drawn]
        places = [np.flatnonzero(kinds == group) for group in range(len(self._counts))]
        return [(drawn[place], place) for place in places]

    def _closing_order(self, epoch: int) -> list[tuple[int, int]]:
        """Return (group, number of the batch in it) of the batches an epoch completes."""
        closed = []
        for group, (_, places) in enumerate(self._members(epoch)):
            before = self._counts[group] * epoch
            after = before + self._counts[group]
            for number in range(before // self._batch, after // self._batch):
                last = (number + 1) * self._batch - 1 - before
                closed.append((int(places[last]), group, number))
        return [(group, number) for _, group, number in sorted(closed)]

    def _slice(self, group: int, number: int) -> Indices:
        count, start = self._counts[group], number * self._batch
        epochs, offsets = np.divmod(np.arange(start, start + self._batch), count)
        result = np.empty(self._batch, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            result[here] = self._members(epoch)[group][0][offsets[here]]
        return result
