"""One pass, shared by any number of processes: the same tables, the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.datasets import relabelled, write_predictions, write_truth
from tests.shared import SHARED, needs_shared
from u2seg.config.schema import EvalSettings
from u2seg.errors import StageError, UserError
from u2seg.evaluation import GroundTruth, evaluate_folder
from u2seg.evaluation import collect as collecting
from u2seg.evaluation.collect import ProcessGroup
from u2seg.io.png import write_panoptic_png
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask

SPACE = LabelSpace(num_things=3, num_stuff=2)
GOLDEN = SHARED / "golden" / "pq"


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, GroundTruth]:
    maps = relabelled({1: 3, 2: 1, 3: 5, 4: 4})
    maps[21][0][2, 2] = 111
    return write_predictions(tmp_path / "p", maps, SPACE), write_truth(tmp_path)


def outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".json", ".csv")}


class Meeting:
    """ProcessGroup as threads of this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self.values: list[Any] = [None] * size

    def rank(self, rank: int) -> ProcessGroup:
        def everybody(value: Any) -> list[Any]:
            self.values[rank] = value
            self.barrier.wait()
            found = list(self.values)
            self.barrier.wait()
            return found

        def first(value: Any) -> list[Any]:
            found = everybody(value)
            return found if rank == 0 else []

        return ProcessGroup(rank, self.size, everybody, first)

    def run(self, call: Any) -> list[Any]:
        """Return what ``call(ranks)`` gave or raised, by rank."""
        found: list[Any] = [None] * self.size

        def work(rank: int) -> None:
            try:
                found[rank] = call(self.rank(rank))
            except (UserError, StageError) as error:
                found[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_the_first_rank_writes_what_one_process_writes(sides: tuple[Path, GroundTruth]) -> None:
    folder, truth = sides
    metrics = evaluate_folder(folder, truth, EvalSettings())
    alone = outputs(folder)
    assert {"metrics.json", "mapping.json"} <= set(alone)
    (folder / "metrics.json").unlink()
    found = Meeting(2).run(
        lambda group: evaluate_folder(folder, truth, EvalSettings(), group=group)
    )
    assert json.dumps(found[0]) == json.dumps(metrics) and found[1] == {}
    assert outputs(folder) == alone


def test_what_one_rank_finds_wrong_ends_all(sides: tuple[Path, GroundTruth]) -> None:
    """Image 22 belongs to the second rank alone."""
    folder, truth = sides
    write_panoptic_png(folder / "panoptic" / "second.png", np.full((4, 6), 9, np.int32))
    found = Meeting(2).run(
        lambda group: evaluate_folder(folder, truth, EvalSettings(), group=group)
    )
    assert [str(error) for error in found] == [str(found[1])] * 2
    assert isinstance(found[0], UserError) and "holds segment id 9" in str(found[0])
    assert not (folder / "metrics.json").exists()


def test_workers_must_be_at_least_one(sides: tuple[Path, GroundTruth]) -> None:
    with pytest.raises(UserError, match="workers is 0, expected at least 1"):
        evaluate_folder(*sides, EvalSettings(), workers=0)


def test_workers_give_the_same_bytes_and_pass_errors_on(
    sides: tuple[Path, GroundTruth], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CHUNK", 1)
    folder, truth = sides
    evaluate_folder(folder, truth, EvalSettings())
    alone = outputs(folder)
    evaluate_folder(folder, truth, EvalSettings(), workers=2)
    assert outputs(folder) == alone
    write_panoptic_png(folder / "panoptic" / "a" / "first.png", np.full((4, 6), 9, np.int32))
    with pytest.raises(UserError, match=r"first\.png holds segment id 9"):
        evaluate_folder(folder, truth, EvalSettings(), workers=2)


def test_a_worker_that_dies_is_told_of(
    sides: tuple[Path, GroundTruth], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CHUNK", 1)
    monkeypatch.setattr(collecting, "_start", sys.exit)
    with pytest.raises(StageError, match=r"died .*: use fewer workers"):
        evaluate_folder(*sides, EvalSettings(), workers=2)


def real_folder(folder: Path, images: int) -> GroundTruth:
    """Write golden predictions with instances made from their segments; return the truth."""
    from u2seg.evaluation.truth.coco import read_panoptic_set

    truth = json.loads((GOLDEN / "coco_gt.json").read_text())
    truth["annotations"] = truth["annotations"][:images]
    keep = {a["image_id"] for a in truth["annotations"]}
    predicted = json.loads((GOLDEN / "coco_pred.json").read_text())
    predicted["annotations"] = [a for a in predicted["annotations"] if a["image_id"] in keep]
    predicted |= {"images": truth["images"], "categories": truth["categories"]}
    folder.mkdir(parents=True)
    (folder.parent / "truth.json").write_text(json.dumps(truth))
    (folder / "panoptic.json").write_text(json.dumps(predicted))
    (folder / "panoptic").symlink_to(GOLDEN / "coco_pred")
    found = read_panoptic_set(folder / "panoptic.json", folder / "panoptic")
    results = [
        InstanceMask.from_array(found.read_ids(i) == s, 0.3 + (37 * n % 61) / 100).to_result(
            i, info.category
        )
        for i, segments in found.segments.items()
        for n, (s, info) in enumerate(segments.items())
        if info.category in found.things
    ]
    (folder / "instances.json").write_text(json.dumps(results))
    return GroundTruth(folder.parent / "truth.json", GOLDEN / "coco_gt")


GLOO = """
import multiprocessing, sys
from pathlib import Path
import torch.distributed as dist
from u2seg.compat import prepare_host
prepare_host()
from detectron2.utils import comm
from u2seg.config.schema import EvalSettings
from u2seg.engine.processes import process_group
from u2seg.evaluation import GroundTruth, evaluate_folder

def work(rank):
    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=size)
    comm._LOCAL_PROCESS_GROUP = dist.group.WORLD
    group = process_group()
    assert (group.rank, group.size) == (rank, size)
    metrics = evaluate_folder(
        Path(folder), GroundTruth(Path(truth), Path(pngs)), EvalSettings(), group=group
    )
    assert bool(metrics) == (group.rank == 0)
    comm.synchronize()
    dist.destroy_process_group()

url, folder, truth, pngs = sys.argv[2:]
size = int(sys.argv[1])
fork = multiprocessing.get_context("fork")  # no thread was started yet
processes = [fork.Process(target=work, args=(rank,)) for rank in range(size)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(any(process.exitcode for process in processes))
"""


@pytest.mark.slow
@pytest.mark.d2
@pytest.mark.shared
@needs_shared("golden", "pq")
def test_three_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """Processes that talk over gloo, on real maps."""
    pytest.importorskip("detectron2")
    truth = real_folder(tmp_path / "p", 6)
    evaluate_folder(tmp_path / "p", truth, EvalSettings())
    alone = outputs(tmp_path / "p")
    for size in (3,):
        (tmp_path / "p" / "metrics.json").unlink()
        url = f"file://{tmp_path / f'meeting{size}'}"
        given = [size, url, tmp_path / "p", truth.panoptic_json, truth.panoptic_pngs]
        command = [sys.executable, "-c", GLOO, *map(str, given)]
        assert subprocess.run(command, timeout=300, check=False).returncode == 0, size
        assert outputs(tmp_path / "p") == alone, size
