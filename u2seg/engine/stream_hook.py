"""Ties the training stream and the shared random generators to Detectron2's iterations."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from u2seg.data.stream import Sample, TrainStream, seed_everything, step_seed


def build_stream_hook(stream: TrainStream) -> Any:
    """Return a hook for all processes; the checkpoint then holds what the stream depends on.

    The generators are seeded before each iteration by its number, so nothing of theirs needs to
    be saved: whatever happened before, an iteration draws the same numbers.

    Args:
        stream: Of this process; it begins at the trainer's first iteration.
    """
    from detectron2.engine import HookBase
    from detectron2.utils import comm

    class StreamHook(HookBase):  # type: ignore[misc]
        def before_train(self) -> None:
            stream.start_iteration = self.trainer.start_iter

        def before_step(self) -> None:
            seed_everything(step_seed(stream.seed, self.trainer.iter, comm.get_rank()))

        def state_dict(self) -> dict[str, Any]:
            return stream.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            stream.load_state_dict(state)

    return StreamHook()


class FirstBatches:
    """Endless batches for PreciseBN: the first ones of a training, again and again.

    The host's hook keeps one iterator for all its calls, each of which takes ``number`` batches.
    As every call gets the same ones, the statistics depend on the weights alone, and not on how
    many calls there have been since the training was resumed.

    Args:
        stream: Of this process; its seed may still change.
        number: Batches until they begin anew, >= 1.
    """

    def __init__(self, stream: TrainStream, number: int) -> None:
        self.stream, self.number = stream, number

    def __iter__(self) -> Iterator[list[Sample]]:
        while True:
            first = copy.copy(self.stream)
            first.start_iteration = 0
            first.plan = replace(first.plan, workers=0)
            yield from itertools.islice(first, self.number)
