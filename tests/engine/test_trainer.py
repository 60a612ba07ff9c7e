"""What a trainer says of its labels before it trains, and the batches that PreciseBN gets."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.data.stream import StreamPlan, TrainStream, build_train_loader
from u2seg.engine.trainer import FirstBatches, warn_without_things
from u2seg.host.setup import build_cfg

pytestmark = pytest.mark.d2


def warnings(labels: Path, caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    cfg = build_cfg(BASE_CONFIG, [*data_words(labels, labels / "out"), *words], register=True)
    with caplog.at_level(logging.WARNING, logger="u2seg"):
        caplog.clear()
        warn_without_things(cfg, build_train_loader(cfg).records)
    return [record.getMessage() for record in caplog.records]


def test_labels_without_a_thing_are_warned_of_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = make_labels(tmp_path)
    path = labels / "panoptic" / "instances.json"
    content = json.loads(path.read_text())
    assert content["annotations"]
    assert not warnings(labels, caplog)
    crowds = [{**record, "iscrowd": 1} for record in content["annotations"]]
    for things in ([], crowds):
        path.write_text(json.dumps({**content, "annotations": things}))
        (told,) = warnings(labels, caplog)
        assert told.startswith(f"{path} has no thing (crowds aside), but PanopticCascadeRCNN ")
    one = [*crowds[1:], content["annotations"][0]]
    path.write_text(json.dumps({**content, "annotations": one}))
    assert not warnings(labels, caplog)


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
