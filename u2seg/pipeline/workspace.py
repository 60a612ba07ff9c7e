"""Where a labelling run keeps its files, where it may write, and what it may delete.

Never the photographs, never files of others: a stage folder belongs to a run if it holds
``plan.json``, which is written before anything else and deleted after everything else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UserError
from u2seg.io.lock import LOCK
from u2seg.io.ownership import PHOTOGRAPHS, check_outside
from u2seg.io.sources import ImageSource
from u2seg.shards.ledger import Ledger

LEDGER = "ledger"
"""Folder, in that of a stage, of its ledgers."""


class Workspace:
    """Paths below the output folder of a labelling run.

    Args:
        root: The output folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images_json = root / "images.json"  # the usable images
        self.records = root / "images" / "records.jsonl"  # the same by shards
        self.entries = root / "images" / "entries.jsonl"  # what stage images looks at, by shards
        self.skipped = root / "skipped.jsonl"  # file_name, reason and stage of images left out
        self.features = root / "features.json"  # what U2SEG.FEATURES.NAME auto was at the start
        self.timings = root / "timings.json"  # alone here in depending on the clock
        self.manifest = root / "manifest.json"  # of the whole run, written last
        self.lock = root / LOCK  # held by the driver, and touched while it lives

    def folder(self, stage: str) -> Path:
        """Folder of a stage."""
        return self.root / stage

    def stage_manifest(self, stage: str) -> Path:
        """Manifest of a stage, written last in its folder."""
        return self.folder(stage) / "manifest.json"

    def plan(self, stage: str) -> Path:
        """What a stage set out to do, written first: settings, inputs, shard size."""
        return self.folder(stage) / "plan.json"

    def ledger(self, stage: str, phase: str) -> Ledger:
        """Ledger of a sharded phase of a stage."""
        return Ledger(self.folder(stage) / LEDGER / phase, self.root)

    def ledgers(self, stage: str) -> list[Ledger]:
        """Ledgers of a stage, one per sharded phase that began."""
        folders = sorted((self.folder(stage) / LEDGER).glob("*"))
        return [Ledger(folder, self.root) for folder in folders]

    def aside(self) -> dict[str, str]:
        """All images that any stage set aside -> why."""
        aside: dict[str, str] = {}
        for folder in sorted(self.root.glob(f"*/{LEDGER}/*")):
            aside.update(Ledger(folder, self.root).aside())
        return aside

    def part(self, stage: str, shard: int, suffix: str = ".json") -> Path:
        """A stage's result for one shard of images."""
        return self.folder(stage) / f"part-{shard:05d}{suffix}"

    def assigned(self, shard: int) -> Path:
        """Cluster ids of a shard's masks."""
        return self.folder("clusters") / f"assigned-{shard:05d}.npy"


def shard_assignments(space: Workspace, shard: int) -> list[int]:
    """Return the cluster ids, 0..K-1, of a shard's masks, in the order of its masks part.

    Raises:
        UserError: if the file is missing or is not a list of ids.
    """
    path = space.assigned(shard)
    advice = "run the clusters stage anew (--overwrite)"
    try:
        content: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): {advice}") from error
    if content.ndim != 1 or content.dtype != np.int32:
        raise UserError(
            f"{path} must hold (n,) int32 ids, got {content.dtype} {content.shape}: {advice}"
        )
    ids: list[int] = content.tolist()
    return ids


def check_apart(source: ImageSource, space: Workspace, stages: Iterable[str]) -> None:
    """Raise UserError if photographs and results would share a folder.

    Label maps below a searched folder would be labelled as photographs by the next run, and
    photographs inside a stage's folder deleted by ``--overwrite``.
    """
    if source.searched:
        check_outside(space.root, source.root, PHOTOGRAPHS)
    homes = {folder.resolve(): folder for folder in source.folders()}
    for stage in stages:
        folder = space.folder(stage)
        for home, named in homes.items():
            if home.is_relative_to(folder.resolve()):
                raise UserError(
                    f"the image folder {named} lies where stage {stage} keeps its files "
                    f"({folder}): choose another --output-dir"
                )


def check_owned(folder: Path, plan: Path) -> None:
    """Raise UserError if a stage folder holds files, but not a stage's.

    Hidden entries do not count: a killed writer leaves them.
    """
    if not folder.exists() or plan.is_file():
        return
    if not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir()):
        raise UserError(
            f"{folder} holds files that no labelling run made; they are not touched. Choose "
            "another --output-dir, or move them away"
        )


def remove_stage(space: Workspace, stage: str) -> None:
    """Delete the folder of a stage; UserError if it holds anything else.

    The manifest goes first, so that what a killed deletion leaves never passes for a finished
    stage; the plan goes last.
    """
    folder, plan = space.folder(stage), space.plan(stage)
    check_owned(folder, plan)
    if not folder.exists():
        return
    space.stage_manifest(stage).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path == plan:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    plan.unlink(missing_ok=True)
    folder.rmdir()


def remove_run(output: Path) -> None:
    """Delete the folder of a whole run, if there is one; UserError if it is not a run's."""
    if not output.exists():
        return
    if not (Workspace(output).lock).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            f"{output} was not made by a dry run, so it is not deleted: choose another "
            "--output-dir, or move it away"
        )
    shutil.rmtree(output)
