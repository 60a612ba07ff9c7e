"""Variables that other codes read and this package does not are named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from u2seg.config import env
from u2seg.config.load import load_settings


def test_unread_variables_are_named_once_with_their_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    env._warn_once.cache_clear()
    monkeypatch.setenv("CLUSTER_NUM", "300")
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/sets")
    settings = load_settings(None, ["U2SEG.CLUSTERS.NUM_CLUSTERS", "800"])
    with caplog.at_level(logging.WARNING):
        env.warn_unread(settings)
        assert caplog.messages == [
            "CLUSTER_NUM=300 is not read: U2SEG.CLUSTERS.NUM_CLUSTERS is 800; set that key"
        ]
        env.warn_unread(settings, evaluates=True)
        env.warn_unread(settings, evaluates=True)
    assert len(caplog.messages) == 2
    assert caplog.messages[1].endswith("U2SEG.DATA.EVAL_ROOT /data/sets/coco")


def test_a_data_set_in_that_folder_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CLUSTER_NUM", raising=False)
    (tmp_path / "sets").symlink_to(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    settings = load_settings(None, ["U2SEG.DATA.EVAL_ROOT", str(tmp_path / "coco")])
    with caplog.at_level(logging.WARNING):
        env.warn_unread(settings, evaluates=True)
    assert not caplog.messages
