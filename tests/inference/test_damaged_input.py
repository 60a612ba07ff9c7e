"""Photographs that the demo and the segmenter refuse."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.damaged_jpeg import write_damaged_jpeg
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.host.setup import label_space
from u2seg.inference.demo import segment_images
from u2seg.inference.segmenter import Segmenter
from u2seg.io.paths import ImageFile


def test_a_damaged_jpeg_is_skipped_as_it_is_in_labelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_damaged_jpeg(tmp_path / "x.jpg")
    cfg = SimpleNamespace(U2SEG=SimpleNamespace(IMAGES=SimpleNamespace(MAX_PIXELS=4096)))
    segmenter = Segmenter(cfg, "", label_space(Settings()))
    with pytest.raises(UserError, match=r"x\.jpg: damaged JPEG: Corrupt JPEG data"):
        segmenter.predict(tmp_path / "x.jpg")
    monkeypatch.setattr(Segmenter, "from_config", lambda *_: segmenter)
    args = argparse.Namespace(
        config_file="", weights="", opts=[], confidence_threshold=None, output=tmp_path / "out"
    )
    with pytest.raises(UserError, match="none of the 1 inputs could be read"):
        segment_images(args, [("x.jpg", ImageFile(tmp_path / "x.jpg"))])
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8")
    assert '"damaged JPEG: Corrupt JPEG data' in skipped
