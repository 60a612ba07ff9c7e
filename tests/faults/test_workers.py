"""Workers that hang, die or have wrong clocks, and drivers that meet: the labels stay the same."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import (
    dawdle,
    die_at,
    hang_once,
    results,
    run_with,
    skew_clock,
    start_driver,
)
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.pipeline import generate_labels
from u2seg.shards import driver
from u2seg.shards.driver import Watch

pytestmark = pytest.mark.faults


class HastyStopwatch:
    """Runs a thousand times too fast while the worker hangs that wrote its number to ``flag``."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag
        self.seconds = 0.0
        self.last = time.monotonic()

    def __call__(self) -> float:
        now = time.monotonic()
        self.seconds += (now - self.last) * (1000 if self._hangs() else 1)
        self.last = now
        return self.seconds

    def _hangs(self) -> bool:
        try:
            os.kill(int(self.flag.read_text() or os.getpid()), 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True


def test_a_worker_that_hangs_loses_its_shard(
    photos: Path,
    settings: Settings,
    calm: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flag = tmp_path / "hung"
    lease = settings.run.lease_seconds
    stopwatch = HastyStopwatch(flag)
    monkeypatch.setattr(driver, "Watch", lambda patience: Watch(patience, stopwatch))
    run_with(settings, photos, tmp_path / "run", setup=hang_once(flag))
    assert results(tmp_path / "run") == calm
    assert f"for {lease:g} s; it goes to another worker" in caplog.text
    with pytest.raises(ProcessLookupError):  # the driver ended it
        os.kill(int(flag.read_text()), 0)


def test_a_photograph_that_kills_its_worker_is_set_aside_by_name(
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    victim = "0/002.png"
    output = tmp_path / "run"
    run_with(settings, photos, output, setup=die_at(victim))
    entries = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert {entry["file_name"] for entry in entries} == {victim}
    assert all("alone: killed by SIGKILL (out of memory?)" in e["reason"] for e in entries)
    labelled = read_json(output / "panoptic/panoptic.json")["annotations"]
    # The image keeps an empty label, as any that a later stage cannot use.
    empty = [a["file_name"] for a in labelled if not a["segments_info"]]
    assert empty == [victim] and len(labelled) == 3
    killed = [r for r in caplog.records if "killed by SIGKILL" in r.getMessage()]
    record_property("workers killed", len(killed))
    assert len(killed) <= 6


def test_clocks_an_hour_off_change_nothing(
    photos: Path,
    settings: Settings,
    calm: dict[str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    flag, output = tmp_path / "skewed", tmp_path / "run"
    run_with(settings, photos, output, setup=skew_clock(flag))
    assert flag.exists()
    assert results(output) == calm
    assert "goes to another" not in caplog.text


def test_the_second_driver_is_told_who_holds_the_folder(
    photos: Path, settings: Settings, calm: dict[str, bytes], tmp_path: Path
) -> None:
    first = start_driver(settings, photos, tmp_path, workers=2, setup=dawdle)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/plan.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    told = (
        rf"{tmp_path} is in use by another run: process {first.pid} on {socket.gethostname()}, "
        r"since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    )
    with pytest.raises(UserError, match=told):
        generate_labels(settings, photos, tmp_path, progress=False)
    first.join()
    assert first.exitcode == 0
    assert results(tmp_path) == calm
