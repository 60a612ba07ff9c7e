"""Checkpoints: flipped bits are noticed, kills and full disks leave one that loads."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from u2seg.errors import UserError
from u2seg.io import atomic
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.checksums import LAST, intact, remove_leftovers, save_checkpoint, sidecar, verify

pytestmark = pytest.mark.faults
VALUES = 200_000
"""Numbers in a checkpoint of these tests: 0.8 MB."""


def write(folder: Path, name: str, iteration: int, keep: int = 0, size: int = VALUES) -> None:
    content = {"model": {"w": torch.full((size,), float(iteration))}, "iteration": iteration}
    save_checkpoint(folder, name, lambda file: torch.save(content, file), keep=keep)


def last(folder: Path) -> dict[str, Any]:
    """Return the checkpoint that the note names; its parts must belong together."""
    content = load_checkpoint(folder / (folder / LAST).read_text())
    assert content["model"]["w"].eq(content["iteration"]).all()
    return content


def test_a_flipped_bit_anywhere_is_noticed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Seeded places: the first and last bytes, 80 others in the file, 18 in its checksum."""
    write(tmp_path, "model_0000001.pth", 1, size=5000)
    write(tmp_path, "model_0000002.pth", 2, size=5000)
    path = tmp_path / "model_0000002.pth"
    rng = np.random.default_rng(0)
    size = path.stat().st_size
    places = [(path, 0), (path, size - 1)]
    places += [(path, int(p)) for p in rng.choice(size, 80, replace=False)]
    note = sidecar(path)
    places += [(note, int(p)) for p in rng.choice(note.stat().st_size, 18, replace=False)]
    noticed = 0
    for target, place in places:
        whole = target.read_bytes()
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        target.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged.* Intact beside it: model_0000001\.pth"):
            load_checkpoint(path)
        noticed += 1
        target.write_bytes(whole)
    assert last(tmp_path)["iteration"] == 2
    record_property("bits flipped", len(places))
    record_property("noticed", noticed)
    assert noticed == len(places) == 100


def train(folder: Path, pause: float, begun: Any) -> None:
    """Write checkpoints without end, as a training does; between the steps of a write it waits."""
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        time.sleep(pause)
        real(source, target)
        time.sleep(pause)

    atomic.os.replace = replace  # type: ignore[attr-defined]
    remove_leftovers(folder)
    iteration = last(folder)["iteration"] if (folder / LAST).is_file() else -1
    while True:
        iteration += 1
        write(folder, f"model_{iteration:07d}.pth", iteration, keep=3)
        if iteration % 3 == 2:
            write(folder, "model_final.pth", iteration)
        if not begun.closed:
            begun.send(iteration)
            begun.close()


def start(folder: Path, pause: float) -> BaseProcess:
    """Start a process and return when it has written its first checkpoint."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "u2seg.io.checksums", "u2seg.io.checkpoints"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(folder, pause, sender))
    process.start()
    sender.close()
    assert receiver.poll(60), "the writing process does not write"
    receiver.close()
    return process


@pytest.mark.parametrize(
    ("kills", "pause"),
    [
        pytest.param(30, 0.003, marks=pytest.mark.slow),
        pytest.param(300, 0.001, marks=pytest.mark.long),
    ],
)
def test_kills_while_checkpoints_are_written_leave_one_that_loads(
    tmp_path: Path, kills: int, pause: float, record_property: Callable[[str, object], None]
) -> None:
    write(tmp_path, "model_0000000.pth", 0)
    rng = np.random.default_rng(kills)
    unfinished = torn = written = 0
    for _ in range(kills):
        before = last(tmp_path)["iteration"]
        process = start(tmp_path, pause)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        unfinished += any(p.name.endswith(".tmp") for p in tmp_path.iterdir())
        notes = [p for p in tmp_path.glob("*.sha256") if len(p.read_text().splitlines()) == 2]
        torn += bool(notes)
        after = last(tmp_path)["iteration"]
        assert after >= before
        written += after - before
        # and not the named one alone: whatever has its final name is whole
        assert all(verify(path) for path in tmp_path.glob("*.pth"))
    record_property("kills", kills)
    record_property("of these within a file", unfinished)
    record_property("while a file was replaced", torn)
    record_property("checkpoints written", written)
    record_property("without a loadable checkpoint", 0)
    assert unfinished > kills // 10
    remove_leftovers(tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def fill_the_disk(folder: Path) -> None:
    """Run in a process of its own: files cannot grow beyond half a checkpoint any more."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (VALUES * 2, VALUES * 2))
    for name in ("model_0000002.pth", "model_0000001.pth"):
        try:
            write(folder, name, 2)
        except UserError as error:
            if f"cannot write {folder / name}" not in str(error):
                raise
        else:
            raise AssertionError("the disk was not full")


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path: Path) -> None:
    """A new file cannot be written, nor one that would replace an older one."""
    write(tmp_path, "model_0000000.pth", 0)
    write(tmp_path, "model_0000001.pth", 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=fill_the_disk, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert last(tmp_path)["iteration"] == 1
    assert intact(tmp_path) == ["model_0000000.pth", "model_0000001.pth"]
