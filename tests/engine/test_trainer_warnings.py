"""What a trainer says of its labels before it trains."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.factories import BASE_CONFIG, data_words, make_labels
from u2seg.compat import prepare_host
from u2seg.data.stream import build_train_loader
from u2seg.engine.trainer import warn_without_things
from u2seg.host.setup import build_cfg

pytestmark = pytest.mark.d2
prepare_host()


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
