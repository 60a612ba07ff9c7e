"""Whoever does the work, and however it is cut: the labels are the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.faults.harness import QuickExecutor
from tests.pipeline.conftest import changed, label, skips_of, tree
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json
from u2seg.shards.executors import build_pool
from u2seg.shards.pool import WorkerPool
from u2seg.structures.masks import InstanceMask

BAD_HEIGHT = 77


@pytest.mark.slow
def test_workers_leave_the_same_files(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    label(settings, photos, tmp_path, pool=build_pool("local", 2))
    assert tree(tmp_path) == tree(run)


def same_masks(one: Path, two: Path) -> bool:
    names = [p.relative_to(two) for p in two.glob("masks/part-*")]
    return len(names) > 2 and all((one / n).read_bytes() == (two / n).read_bytes() for n in names)


@pytest.mark.slow
def test_slurm_tasks_leave_the_same_files(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    """submitit runs what it would submit on a machine without Slurm."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    pool = build_pool("slurm", 2, ["cluster=local"])
    assert same_masks(label(settings, photos, tmp_path, "masks", pool=pool), run)


@pytest.mark.slow
def test_ray_workers_of_several_nodes_leave_the_same_files(
    run: Path, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    """A real cluster of two nodes with room for one worker each."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        pool = build_pool("ray", 2, [f"address={cluster.address}", "cpus=1"])
        label(settings, photos, tmp_path, "masks", pool=pool)
    finally:
        cluster.shutdown()
    assert same_masks(tmp_path, run)


@pytest.mark.parametrize("size", [3, 64])
def test_the_shard_size_changes_no_label(
    run: Path, photos: Path, settings: Settings, tmp_path: Path, size: int
) -> None:
    """What training reads, the stuff maps and the centroids: all that is not cut into shards."""
    label(changed(settings, "run", shard_size=size), photos, tmp_path)
    patterns = ("panoptic/*s*.json", "panoptic/**/*.png", "semantics/**/*.png")
    names = [p.relative_to(run) for pattern in patterns for p in run.glob(pattern)]
    names = [name for name in names if name.name not in ("manifest.json", "plan.json")]
    assert len(names) > 15
    for name in [*names, Path("clusters/centroids.npy")]:
        if "part-" not in name.name:
            assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), name


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises", "RuntimeError: cannot be multiplied"),
        ("dies", "killed by SIGKILL (out of memory?)"),
        ("hangs", "no progress for 1 s"),
    ],
)
def test_an_image_that_breaks_its_worker_is_set_aside_by_name(
    photos: Path, settings: Settings, tmp_path: Path, how: str, told: str
) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    Image.new("RGB", (60, BAD_HEIGHT), (9, 99, 9)).save(folder / "bad.png")
    wanted = changed(changed(settings, "run", lease_seconds=1.0), "masks", proposer="cutler")
    pool = None if how == "raises" else WorkerPool(QuickExecutor(), 2)
    output = label(wanted, folder, tmp_path / "run", "masks", detector=Trap(how), pool=pool)
    reason = f"set aside after it failed 3 times alone: {told}"
    assert skips_of(output) == [{"file_name": "bad.png", "reason": reason, "stage": "masks"}]
    counts = read_json(output / "masks/manifest.json")["counts"]
    assert counts == {"images": 6, "masks": 5, "images_without_masks": 1}


def test_what_was_set_aside_is_tried_again_on_demand(
    photos: Path, settings: Settings, tmp_path: Path
) -> None:
    """With the cause mended, the labels are those of a run that never failed."""
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    Image.open(photos / "scene 0.png").resize((60, BAD_HEIGHT)).save(folder / "bad.png")
    wanted = changed(settings, "masks", proposer="cutler")

    def made(output: str, how: str, **options: bool) -> dict[str, bytes]:
        return tree(label(wanted, folder, tmp_path / output, detector=Trap(how), **options))

    never, first = made("never", "works"), made("run", "raises")
    assert first["skipped.jsonl"].count(b"bad.png") == 2  # by masks, and so by semantics
    assert made("run", "works") == first  # set aside until somebody asks
    assert made("run", "raises", retry_failed=True) == first
    assert made("run", "works", retry_failed=True) == never


@pytest.mark.parametrize(
    ("executor", "workers", "options", "told"),
    [
        ("slurmm", 2, [], r"unknown executor 'slurmm': known are local, ray, slurm"),
        ("local", 0, [], r"--workers is 0"),
        ("local", 2, ["cpus=2"], "local has none"),
        ("local", 2, ["cpus"], "expected KEY=VALUE"),
        ("ray", 2, ["cpus=two"], "cpus=two: expected a whole number"),
        ("ray", 2, ["cpu=2"], "Ray knows address, cpus, gpus"),
        ("ray", 2, ["address=127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        ("slurm", 2, ["cluster=local", "partitionn=gpu"], r"Slurm takes no jobs:.*partitionn"),
    ],
)
def test_wrong_options_are_refused(
    photos: Path,
    settings: Settings,
    tmp_path: Path,
    executor: str,
    workers: int,
    options: list[str],
    told: str,
) -> None:
    if module := {"ray": "ray", "slurm": "submitit"}.get(executor):
        pytest.importorskip(module, reason=f"the extra {executor} is not installed")
    with pytest.raises(UserError, match=told):
        label(settings, photos, tmp_path, "masks", pool=build_pool(executor, workers, options))
