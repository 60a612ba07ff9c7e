"""Where a labelling run keeps its files; the one place that spells their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from u2seg.io.lock import LOCK

LEDGER = "ledger"
"""Folder, in that of a stage, of its ledgers."""


@dataclass(frozen=True)
class Workspace:
    """Paths below the output folder of a labelling run.

    Args:
        root: The output folder.
    """

    root: Path

    @property
    def images_json(self) -> Path:
        """List of usable images."""
        return self.root / "images.json"

    @property
    def records(self) -> Path:
        """The same by shards, see ``records.ShardFile``."""
        return self.folder("images") / "records.jsonl"

    @property
    def entries(self) -> Path:
        """What the images stage is to look at, by shards."""
        return self.folder("images") / "entries.jsonl"

    @property
    def skipped(self) -> Path:
        """One JSON line for each image that was left out: file_name, reason, stage."""
        return self.root / "skipped.jsonl"

    @property
    def features(self) -> Path:
        """Which extractor ``U2SEG.FEATURES.NAME auto`` was when the run began."""
        return self.root / "features.json"

    @property
    def timings(self) -> Path:
        """Seconds per stage, the only file here that depends on the clock."""
        return self.root / "timings.json"

    @property
    def manifest(self) -> Path:
        """Manifest of the whole run, written last."""
        return self.root / "manifest.json"

    @property
    def lock(self) -> Path:
        """Held by the driver of a run, and touched while it lives."""
        return self.root / LOCK

    @property
    def phase(self) -> Path:
        """What the workers of a run are to do now; removed when there is no more."""
        return self.root / ".phase.json"

    @property
    def progress(self) -> Path:
        """The driver's note for ``--status``; removed when it ends."""
        return self.root / ".progress.json"

    def folder(self, stage: str) -> Path:
        """Folder of a stage."""
        return self.root / stage

    def stage_manifest(self, stage: str) -> Path:
        """Manifest of a stage, written last in its folder."""
        return self.folder(stage) / "manifest.json"

    def plan(self, stage: str) -> Path:
        """What a stage set out to do, written first: settings, inputs, shard size."""
        return self.folder(stage) / "plan.json"

    def ledger(self, stage: str, phase: str) -> Path:
        """Folder of the ledger of a sharded phase of a stage."""
        return self.folder(stage) / LEDGER / phase

    def part(self, stage: str, shard: int, suffix: str = ".json") -> Path:
        """A stage's result for one shard of images."""
        return self.folder(stage) / f"part-{shard:05d}{suffix}"
