"""The batches that PreciseBN gets."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from u2seg.data.stream import StreamPlan, TrainStream
from u2seg.engine.trainer import FirstBatches

pytestmark = pytest.mark.d2


def stream(seed: int) -> TrainStream:
    """Return batches of two of five records."""
    records = [{"width": 2, "height": 1, "id": number} for number in range(5)]
    return TrainStream(records, dict, StreamPlan(seed, batch=2))


def ids(batches: list[Any]) -> list[list[int]]:
    return [[sample["id"] for sample in batch] for batch in batches]


def test_the_first_batches_come_again_and_again() -> None:
    first = list(itertools.islice(stream(7), 3))
    running = stream(7)
    running.start_iteration = 40  # of a resumed training
    found = list(itertools.islice(FirstBatches(running, 3), 9))
    assert ids(found) == ids(first) * 3
    assert [batch[0]["draw"] for batch in found] == [0, 2, 4] * 3
    assert running.start_iteration == 40


def test_they_follow_a_seed_that_is_resumed_later() -> None:
    running = stream(1)
    batches = iter(FirstBatches(running, 2))
    assert ids([next(batches), next(batches)]) == ids(list(itertools.islice(stream(1), 2)))
    running.load_state_dict({**running.state_dict(), "seed": 7})
    assert ids([next(batches), next(batches)]) == ids(list(itertools.islice(stream(7), 2)))
    assert ids(list(itertools.islice(stream(1), 2))) != ids(list(itertools.islice(stream(7), 2)))
