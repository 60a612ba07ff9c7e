"""Whoever does the work, and however it is cut: the labels are the same bytes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.faults.harness import QuickExecutor
from tests.pipeline.conftest import tree
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.io.lock import holder_of, may_live, only_run
from u2seg.pipeline import generate_labels
from u2seg.shards.pool import WorkerPool, build_pool
from u2seg.structures.masks import InstanceMask

BAD_HEIGHT = 77


@pytest.fixture(scope="module")
def plain(photos: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    return generate_labels(settings, photos, tmp_path_factory.mktemp("plain"), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray", "slurm"])
def test_every_executor_leaves_the_same_files(
    plain: Path, photos: Path, settings: Settings, tmp_path: Path, executor: str
) -> None:
    """Ray starts a real cluster of one node; submitit its executor for machines without Slurm."""
    for module in {"ray": ["ray"], "slurm": ["submitit"]}.get(executor, []):
        pytest.importorskip(module, reason=f"the extra {executor} is not installed")
    options = ["cluster=local"] if executor == "slurm" else []
    pool = build_pool(executor, 2, options)
    generate_labels(settings, photos, tmp_path / "run", progress=False, pool=pool)
    shutil.rmtree(tmp_path / "run/.slurm", ignore_errors=True)  # logs of the jobs
    assert tree(tmp_path / "run") == tree(plain)


def labels(folder: Path) -> dict[str, bytes]:
    """What training reads, and the centroids: everything that is not cut into shards."""
    return {
        name: content
        for name, content in tree(folder).items()
        if name.startswith(("panoptic/", "semantics/", "clusters/centroids"))
        and "/part-" not in name
        and "/ledger/" not in name
        and not name.endswith(("manifest.json", "plan.json"))
    }


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_shard_size_changes_no_label(
    plain: Path, photos: Path, settings: Settings, tmp_path: Path, size: int
) -> None:
    run = dataclasses.replace(settings.run, shard_size=size)
    other = dataclasses.replace(settings, run=run)
    generate_labels(other, photos, tmp_path / "run", progress=False)
    ours, theirs = labels(tmp_path / "run"), labels(plain)
    assert {"panoptic/panoptic.json", "panoptic/instances.json", "clusters/centroids.npy"} < set(
        ours
    )
    assert any(name.endswith(".png") for name in ours)
    assert ours == theirs


class Trap:
    """A detector that finds one corner; on images of one height it dies, hangs, raises or works."""

    def __init__(self, how: str) -> None:
        self.how = how

    def fingerprint(self) -> dict[str, str]:
        return {}

    def __call__(self, image: npt.NDArray[np.uint8]) -> list[InstanceMask]:
        if image.shape[0] == BAD_HEIGHT:
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "hangs":
                time.sleep(600)
            if self.how == "raises":
                raise RuntimeError("cannot be multiplied")
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[:8, :12] = True
        return [InstanceMask.from_array(mask, 0.5)]


@pytest.fixture
def trapped(photos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    Image.new("RGB", (60, BAD_HEIGHT), (9, 99, 9)).save(folder / "bad.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises", "RuntimeError: cannot be multiplied"),
        ("dies", "killed by SIGKILL (out of memory?)"),
        ("hangs", "no progress for 2 s"),
    ],
)
def test_an_image_that_breaks_its_worker_is_set_aside_by_name(
    trapped: Path, photos: Path, settings: Settings, tmp_path: Path, how: str, told: str
) -> None:
    run = dataclasses.replace(settings.run, lease_seconds=2.0)
    masks = dataclasses.replace(settings.masks, proposer="cutler")
    wanted = dataclasses.replace(settings, run=run, masks=masks)
    pool = None if how == "raises" else WorkerPool(QuickExecutor(), 2)
    generate_labels(
        wanted, trapped, tmp_path / "run", stages=["masks"], progress=False,
        detector=Trap(how), pool=pool,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/skipped.jsonl").read_text().splitlines()]
    reason = f"set aside after it failed 3 times alone: {told}"
    assert lines == [{"file_name": "bad.png", "reason": reason, "stage": "masks"}]
    counts = read_json(tmp_path / "run/masks/manifest.json")["counts"]
    assert counts == {"images": 6, "masks": 5, "images_without_masks": 1}


def test_damaged_parts_are_made_again(
    plain: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(plain, tmp_path / "run")
    before = tree(plain)
    pictures = [name for name in before if name.startswith("semantics/") and name.endswith(".png")]
    models = [name for name in before if name.endswith("model.safetensors")]
    flipped = ["masks/part-00001.json", "panoptic/panoptic.json", pictures[0], *models]
    for name in flipped:
        content = bytearray(before[name])
        content[len(content) // 2] ^= 4
        (tmp_path / "run" / name).write_bytes(content)
    (tmp_path / "run/clusters/part-00000.npy").write_bytes(b"")
    (tmp_path / "run/panoptic/part-00002.json").unlink()
    generate_labels(settings, photos, tmp_path / "run", progress=False)
    assert tree(tmp_path / "run") == before


def test_a_second_driver_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    lock = tmp_path / "out" / ".lock"
    with only_run(lock):
        assert may_live(holder_of(lock))
        who = rf"process {os.getpid()} on {socket.gethostname()}, since \d{{4}}-\d\d-\d\d .* UTC"
        with pytest.raises(UserError, match=who), only_run(lock):
            pass
    assert not may_live(holder_of(lock)) and not lock.parent.exists()  # nothing came


def test_where_files_cannot_be_locked_a_driver_of_this_machine_is_known_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("u2seg.io.lock.fcntl.flock", no_locks)
    lock = tmp_path / ".lock"
    with only_run(lock):
        content = lock.read_text()
        with pytest.raises(UserError, match=f"process {os.getpid()}"), only_run(lock):
            pass
    lock.write_text(content.replace(f'"{os.getpid()}"', f'"{2**22 + 1}"'))  # it was killed
    with only_run(lock):
        pass
    with pytest.raises(ZeroDivisionError), only_run(lock):
        _ = 1 / 0
    assert lock.read_bytes() == b""


def test_a_driver_of_another_machine_is_known_by_its_beats(tmp_path: Path) -> None:
    """Where locks do not cross machines; its clock does not matter."""
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"host": "node-3", "pid": "7", "since": "then", "machine": "x"}))
    with only_run(lock, patience=0.3):  # nobody touches it: its driver is dead
        pass
    lock.write_text(json.dumps({"host": "node-3", "pid": "7", "since": "then", "machine": "x"}))
    stop = threading.Event()

    def touch() -> None:
        stamp = 3600.0
        while not stop.wait(0.02):
            stamp += 1
            os.utime(lock, (stamp, stamp))

    other = threading.Thread(target=touch)
    other.start()
    try:
        with (
            pytest.raises(UserError, match="process 7 on node-3, since then"),
            only_run(lock, patience=30),
        ):
            pass
    finally:
        stop.set()
        other.join()


@pytest.mark.parametrize(("executor", "workers", "told"), [
    ("slurmm", 2, r"unknown executor 'slurmm': known are local, ray, slurm"),
    ("local", 0, r"--workers is 0"),
])  # fmt: skip
def test_unknown_executors_are_refused(executor: str, workers: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_pool(executor, workers)


@pytest.mark.slow
def test_ray_workers_of_several_nodes_are_reached_by_address(
    plain: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    """Two nodes with room for one worker each: both must work for two to run at a time."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        pool = build_pool("ray", 2, [f"address={cluster.address}", "cpus=1"])
        generate_labels(
            settings, photos, tmp_path / "run", stages=["masks"], progress=False, pool=pool
        )
    finally:
        cluster.shutdown()
    ours = {name: content for name, content in tree(tmp_path / "run").items() if "/" in name}
    theirs = {name: content for name, content in tree(plain).items() if name in ours}
    assert any(name.startswith("masks/part-") for name in ours)
    assert ours == theirs


@pytest.mark.parametrize(
    ("executor", "options", "told"),
    [
        ("local", ["cpus=2"], "local has none"),
        ("local", ["cpus"], "expected KEY=VALUE"),
        ("ray", ["cpus=two"], "cpus=two: expected a whole number"),
        ("ray", ["cpu=2"], "Ray knows address, cpus, gpus"),
        ("ray", ["address=127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_wrong_options_are_refused(executor: str, options: list[str], told: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="the extra ray is not installed")
    with pytest.raises(UserError, match=told):
        build_pool(executor, 2, options)


def test_slurm_s_refusal_is_told(photos: Path, settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    pool = build_pool("slurm", 2, ["cluster=local", "partitionn=gpu"])
    with pytest.raises(UserError, match=r"Slurm takes no jobs:.*partitionn"):
        generate_labels(settings, photos, tmp_path, stages=["masks"], progress=False, pool=pool)
