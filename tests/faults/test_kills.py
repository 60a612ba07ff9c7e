"""SIGKILL at random moments, of workers and of the driver: nothing lost, nothing twice."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import write_photos
from tests.faults.harness import dawdle, receipts, results, start_driver, workers_at
from u2seg.config.schema import Settings
from u2seg.io.jsonfile import read_json
from u2seg.pipeline import generate_labels

pytestmark = pytest.mark.faults


def kill_some_worker(output: Path, rng: np.random.Generator, deadline: float) -> bool:
    """Kill a worker at its shard, chosen by chance; return whether there was one in time."""
    while time.monotonic() < deadline:
        pids = sorted(set(workers_at(output)))
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[rng.integers(len(pids))], signal.SIGKILL)
                return True
        time.sleep(0.002)
    return False


def survive(
    settings: Settings, photos: Path, output: Path, shards: int, kills: int, seed: int
) -> collections.Counter[str]:
    """Run to the end; kill ``kills`` times, a driver each fifth time, spread over all shards."""
    rng = np.random.default_rng(seed)
    killed: collections.Counter[str] = collections.Counter()
    driver = start_driver(settings, photos, output, workers=2, setup=dawdle)
    while True:
        total = killed.total()
        due = total < kills and receipts(output) >= 0.9 * total * shards / kills
        if due:
            time.sleep(rng.uniform(0, 0.1))
        if due and total % 5 == 4:
            driver.kill()
            killed["drivers"] += 1
        elif due:
            killed["workers"] += kill_some_worker(output, rng, time.monotonic() + 1)
        driver.join(0.005)
        if driver.exitcode == 0:
            return killed
        if driver.exitcode is not None:
            assert driver.exitcode == -signal.SIGKILL
            driver = start_driver(settings, photos, output, workers=2, setup=dawdle)


@pytest.mark.parametrize(
    ("images", "shard", "kills"),
    [
        (8, 1, 5),
        pytest.param(60, 2, 50, marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_random_kills_lose_and_repeat_nothing(
    settings: Settings,
    tmp_path: Path,
    images: int,
    shard: int,
    kills: int,
    record_property: Callable[[str, object], None],
) -> None:
    run = dataclasses.replace(settings.run, shard_size=shard)
    settings = dataclasses.replace(settings, run=run)
    photos = write_photos(tmp_path / "photos", images)
    calm = generate_labels(settings, photos, tmp_path / "calm", progress=False)
    start = time.monotonic()
    output = tmp_path / "run"
    killed = survive(settings, photos, output, receipts(calm), kills, seed=images)
    record_property("seconds", round(time.monotonic() - start, 1))
    for what, count in sorted(killed.items()):
        record_property(f"{what} killed", count)
    assert killed.total() >= 0.8 * kills  # a run may end before the last are due

    expected = {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")}
    panoptic = read_json(output / "panoptic/panoptic.json")
    names = collections.Counter(a["file_name"] for a in panoptic["annotations"])
    record_property("images lost", len(expected - names.keys()))
    record_property("images twice", sum(count - 1 for count in names.values()))
    assert names == collections.Counter(expected)
    assert (output / "skipped.jsonl").read_bytes() == b""
    instances = read_json(output / "panoptic/instances.json")["annotations"]
    assert len({i["id"] for i in instances}) == len(instances)
    assert results(output) == results(calm)
