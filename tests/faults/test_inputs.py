"""Photographs that are broken: the run completes, and each one is named with its reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import write_photos
from tests.faults.harness import results
from tests.io.shards import shard_of
from u2seg.config.schema import Settings
from u2seg.io.jsonfile import read_json
from u2seg.labels.check import check_labels
from u2seg.pipeline import generate_labels

pytestmark = pytest.mark.faults
COUNT = 40


def corrupt(content: bytes, way: int, rng: np.random.Generator) -> bytes:
    """Return a PNG file spoilt in one of four ways."""
    spoilt = bytearray(content)
    if way == 0:
        return bytes(spoilt[: rng.integers(40, len(spoilt) - 40)])  # a copy that broke off
    if way == 1:
        return rng.bytes(len(spoilt))
    if way == 2:
        return bytes(len(spoilt))  # blocks that were never written
    start = spoilt.index(b"IDAT") + 4
    for position in rng.integers(start, start + 200, 20):
        spoilt[position] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


@pytest.mark.parametrize(("kind", "ways"), [("folder", (0, 3)), ("shard", (1, 2))])
def test_a_twentieth_of_the_photographs_is_corrupt(
    settings: Settings,
    tmp_path: Path,
    kind: str,
    ways: tuple[int, ...],
    record_property: Callable[[str, object], None],
) -> None:
    large = dataclasses.replace(settings.run, shard_size=16)
    settings = dataclasses.replace(settings, run=large)
    rng = np.random.default_rng(7)
    source = write_photos(tmp_path / "photos", COUNT, 48)
    paths = sorted(source.rglob("*.png"))
    broken = [paths[i] for i in rng.choice(COUNT, COUNT // 20, replace=False)]
    for way, path in zip(ways, broken, strict=True):
        path.write_bytes(corrupt(path.read_bytes(), way, rng))
    names = {path.relative_to(source).as_posix() for path in broken}
    if kind == "shard":
        source = shard_of(source, tmp_path / "photos.tar")
    output = tmp_path / "run"
    generate_labels(settings, source, output, progress=False)
    skipped = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert sorted(entry["file_name"] for entry in skipped) == sorted(names)
    assert all(entry["reason"] and entry["stage"] == "images" for entry in skipped)
    assert read_json(output / "manifest.json")["counts"]["images.images"] == COUNT - len(names)
    assert check_labels(output / "panoptic")["images"] == COUNT - len(names)
    record_property(f"corrupt of {COUNT}, all listed", len(skipped))
    # The others get the labels they get without the broken ones.
    if kind == "folder":
        for path in broken:
            path.unlink()
        clean = tmp_path / "clean"
        generate_labels(settings, source, clean, progress=False)
        labels = [
            {n: c for n, c in results(f).items() if n.endswith(".png")} for f in (output, clean)
        ]
        assert labels[0] == labels[1]
