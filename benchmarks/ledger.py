"""The benchmark of the ledger: what marks, receipts and looks cost beside a plain loop."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.masks import RowSpec
from benchmarks.rows import Row, Target, judged
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from u2seg.config.schema import FeatureSettings, RunSettings, Settings
from u2seg.io.atomic import atomic_file, sha256_file, write_json
from u2seg.io.lock import only_run
from u2seg.io.sources import FolderSource, open_source
from u2seg.pipeline.ingest import ImagesStage
from u2seg.pipeline.mask_stage import MaskStage
from u2seg.pipeline.runner import ORDER
from u2seg.pipeline.stage import RunContext, Stage
from u2seg.pipeline.status import status
from u2seg.pipeline.workspace import Workspace
from u2seg.shards.attempts import Part, Work
from u2seg.shards.records import write_shards
from u2seg.shards.threads import steady_blas

RATE = Target(">=", 0.97)
PER_SHARD = Target("<=", 20.0, "ours")
STATUS = Target("<=", 1.0, "ours")


@dataclass(frozen=True)
class LedgerSizes:
    """How large the measured runs are; tests take small ones.

    Args:
        images: Photographs of the throughput row.
        side: Of these, pixels.
        shard: Images of a shard.
        empty: Shards of the overhead row.
        shards: Of the plan whose status is asked for.
    """

    images: int = 64
    side: int = 320
    shard: int = 8
    empty: int = 200
    shards: int = 10_000


class Tiny(Stage):
    """A stage whose shards are as small as files can be."""

    name = "tiny"

    def sections(self) -> tuple[Any, ...]:
        """Nothing decides its output."""
        return ()

    def works(self) -> dict[str, Work]:
        """One phase."""
        return {"make": self.make}

    def run(self) -> dict[str, int]:
        """Make all shards."""
        self.each_shard("make")
        return {}

    def make(self, part: Part) -> list[Path]:
        """Write the part of a shard."""
        path = self.context.space.part(self.name, part.index)
        write_json(path, len(part.records))
        return [path]


def plain(stage: Stage, make: Work) -> None:
    """Make all shards one after the other, without a ledger; what the ledger is compared with.

    The matrix products have one thread as under the ledger, or the bytes would differ.
    """
    with steady_blas():
        for shard, records in enumerate(stage.shards()):
            make(Part(shard, records))


@contextlib.contextmanager
def run_of(settings: Settings, images: Path) -> Iterator[RunContext]:
    """Yield the context of a run whose images are listed, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as name:
        source = open_source(images, settings.images.extensions)
        context = RunContext(settings, Workspace(Path(name)), source, progress=False)
        ImagesStage(context).execute()
        yield context


def write_scenes(folder: Path, count: int, side: int) -> None:
    """Write composed scenes of ``side`` x ``side`` pixels."""
    from PIL import Image
    from scenes.compose import compose_scene

    for number in range(count):
        scene = compose_scene(np.random.default_rng(number), side)
        with atomic_file(folder / f"{number:04d}.png") as file:
            Image.fromarray(scene.image).save(file, format="PNG")


def throughput(setting: Setting, sizes: LedgerSizes) -> Row:
    """Return the row of images a second: stage ``masks`` with ``filter_bank`` features."""
    settings = Settings(
        features=FeatureSettings(image_size=sizes.side), run=RunSettings(shard_size=sizes.shard)
    )
    with tempfile.TemporaryDirectory() as name:
        write_scenes(Path(name), sizes.images, sizes.side)
        with run_of(settings, Path(name)) as context:
            stage = MaskStage(context)

            def ours() -> None:
                shutil.rmtree(stage.folder, ignore_errors=True)
                stage.each_shard("propose")

            def peer() -> None:
                shutil.rmtree(stage.folder, ignore_errors=True)
                plain(stage, stage._propose)

            pair = alternate("throughput", ours, peer, setting.repeats)
            parts = [sha256_file(path) for path in sorted(stage.folder.glob("part-*"))]
            ours()
            same = [sha256_file(path) for path in sorted(stage.folder.glob("part-*"))] == parts
    return judged(
        "throughput",
        sizes.images / pair.ours,
        sizes.images / pair.peer,
        ratio=pair.peer / pair.ours,
        unit="img/s",
        target=RATE,
        floor=None,
        note=f"masks of {sizes.images} scenes of {sizes.side} pixels, {sizes.shard} a shard (64 by "
        "default), one process; peer: the same function in a plain loop; checked: the same bytes",
        correct=same,
    )


def per_shard(setting: Setting, sizes: LedgerSizes) -> Row:
    """Return the row of what the ledger adds to a shard."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(run=RunSettings(shard_size=1))
        context = RunContext(
            settings, Workspace(Path(name)), FolderSource(Path(name), (".jpg",)), progress=False
        )
        write_shards(context.space.records, [{"file_name": "a"}] * sizes.empty, 1)
        stage = Tiny(context)

        def ours() -> int:
            shutil.rmtree(stage.folder, ignore_errors=True)
            stage.each_shard("make")
            return len(stage.phase("make").ledger.snapshot().done)

        def peer() -> int:
            shutil.rmtree(stage.folder, ignore_errors=True)
            plain(stage, stage.make)
            return len(list(stage.folder.glob("part-*")))

        pair = alternate("per_shard", ours, peer, setting.repeats)
    added, alone = (1000 * s / sizes.empty for s in (pair.ours - pair.peer, pair.peer))
    return judged(
        "per_shard",
        added,
        alone,
        ratio=added / alone,
        unit="ms",
        target=PER_SHARD,
        floor=None,
        note=f"what mark, checksum and receipt add to a shard that writes one small file, mean of "
        f"{sizes.empty}; peer: that file. Both wait for the disk (fsync)",
        correct=pair.our_result == pair.peer_result == sizes.empty,
    )


def status_time(setting: Setting, sizes: LedgerSizes) -> Row:
    """Return the row of ``--status`` for a plan of many shards, half of them done."""
    with tempfile.TemporaryDirectory() as name:
        space = Workspace(Path(name))
        write_shards(space.records, [{"file_name": "a"}] * sizes.shards, 1)
        ledger = space.ledger("masks", "propose")
        ledger.folder.mkdir(parents=True)
        write_json(space.plan("masks"), {})
        for shard in range(sizes.shards // 2):
            write_json(ledger.path(shard, "done"), {"files": {}})
        for shard in range(sizes.shards // 2, sizes.shards // 2 + 8):
            ledger.take(shard, "worker")
            ledger.fail(shard, "killed")
        names = [stage.name for stage in ORDER]
        with only_run(space.lock):
            pair = alternate(
                "status",
                lambda: status(space.root, names),
                lambda: os.listdir(ledger.folder),
                setting.repeats,
            )
    row = next(line.split() for line in pair.our_result.splitlines() if line.startswith("masks"))
    expected = ["running", str(sizes.shards), str(sizes.shards // 2), "8"]
    return judged(
        "status",
        pair.ours,
        pair.peer,
        ratio=pair.ours / pair.peer,
        unit="s",
        target=STATUS,
        floor=None,
        note=f"{sizes.shards} shards, half of them done, 8 at work after a failure each; peer: "
        "os.listdir of the ledger; checked: the counts",
        correct=row[1:5] == expected,
    )


def table(sizes: LedgerSizes) -> dict[str, RowSpec]:
    """Return the rows."""
    return {
        "throughput": RowSpec(functools.partial(throughput, sizes=sizes)),
        "per_shard": RowSpec(functools.partial(per_shard, sizes=sizes)),
        "status": RowSpec(functools.partial(status_time, sizes=sizes)),
    }


ROWS = table(LedgerSizes())
