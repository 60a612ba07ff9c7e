"""Stage ``panoptic`` of a round of self-training: a trained model's labels for the same images."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.atomic import sha256_file, write_json
from u2seg.io.jsonfile import read_json_object
from u2seg.io.lock import only_run
from u2seg.io.paths import safe_join
from u2seg.io.png import read_label_png
from u2seg.io.sources import open_source
from u2seg.labels.write import (
    STUFF_PNGS,
    LabelRecord,
    export_image,
    merge_parts,
    png_name,
    read_part,
    write_part,
    written_files,
)
from u2seg.panoptic.relabel import merged, relabel
from u2seg.pipeline.batches import collect_skips
from u2seg.pipeline.ingest import ImagesStage
from u2seg.pipeline.runner import at_work, finish
from u2seg.pipeline.stage import RunContext, Stage
from u2seg.pipeline.workspace import Workspace, check_apart
from u2seg.shards.attempts import Part, Work
from u2seg.shards.records import Record, ShardFile
from u2seg.structures.draws import derived_seed
from u2seg.structures.labels import LabelSpace
from u2seg.structures.masks import InstanceMask
from u2seg.structures.segmentation import Segmentation


class Teacher(Protocol):
    """A trained model. Label generation knows none: whoever starts a round hands one over."""

    def __call__(self, image: npt.NDArray[np.uint8]) -> Segmentation:
        """Return what the model says of an (H, W, 3) uint8 RGB photograph."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Return digests of everything that decides a prediction, for the run's plan."""
        ...


class RelabelStage(Stage):
    """Reads photographs and the labels of the round before; writes what training reads.

    Args:
        context: Of the run.
        teacher: The trained model.
        previous: Folder of the labels it was trained on.
        number: The round, 1, 2, ...
    """

    name = "panoptic"
    inputs = ("images",)

    def __init__(self, context: RunContext, teacher: Teacher, previous: Path, number: int) -> None:
        super().__init__(context)
        self.teacher = teacher
        self.before = Workspace(previous)
        self.number = number

    def sections(self) -> tuple[Any, ...]:
        """Settings of rounds and of the merge, and the two numbers that make the label space."""
        settings = self.context.settings
        return (settings.rounds, settings.panoptic, self.label_space)

    def extra_plan(self) -> dict[str, Any]:
        """The model, the round, and the labels it builds on."""
        manifest = self.before.stage_manifest(self.name)
        if not manifest.is_file():
            raise UserError(f"{self.before.root} holds no finished labels: finish them first")
        return {
            "round": self.number,
            "teacher": self.teacher.fingerprint(),
            "previous": sha256_file(manifest),
        }

    @property
    def label_space(self) -> LabelSpace:
        """K and S of the settings."""
        settings = self.context.settings
        return LabelSpace(settings.clusters.num_clusters, settings.semantics.num_classes)

    def works(self) -> dict[str, Work]:
        """One phase."""
        return {"relabel": self._relabel}

    def run(self) -> dict[str, int]:
        """Relabel shard by shard, then join the records.

        Raises:
            UserError: if the previous labels are of other photographs or of other shards.
        """
        self._check_same_images()
        self.each_shard("relabel")
        shards, space = self.context.shards(), self.space
        parts = (read_part(space.part(self.name, i)) for i in range(len(shards)))
        counts = merge_parts(parts, self.folder, shards.records, self.label_space)
        for index in range(len(shards)):
            for key, value in read_json_object(space.part(self.name, index, ".counts")).items():
                counts[key] = counts.get(key, 0) + value
        return counts

    def _check_same_images(self) -> None:
        mine, theirs = self.context.space.records, self.before.records
        if not theirs.is_file() or sha256_file(mine) != sha256_file(theirs):
            changed = _changed(theirs, mine)
            found = f"{mine} and {theirs} differ"
            if changed:
                found = (
                    f"{changed[0]} and {len(changed) - 1} others changed since they were labelled"
                )
            raise UserError(
                f"the photographs or U2SEG.RUN.SHARD_SIZE of {self.before.root} are not those of "
                f"this round ({found}): photographs must stay as they are between rounds. Put the "
                "labelled ones back, or start anew in another folder"
            )

    def _relabel(self, part: Part) -> list[Path]:
        settings = self.context.settings
        before = read_part(self.before.part(self.name, part.index))
        parts = {record.image_id: record for record in before}
        labels, space = {}, self.label_space
        skipped: list[Record] = []
        counts: Counter[str] = Counter()
        for record, image in self.readable(part, part.records, skipped):
            previous = self._previous(record, parts[record["id"]])
            both, seed = (settings.rounds, settings.panoptic), derived_seed(record["id"])
            label, counted = relabel(previous, self.teacher(image), space, both, self.number, seed)
            labels[record["id"]] = label
            counts.update(counted)
        exported = []
        for record in part.records:
            if record["id"] not in labels:  # it cannot be read any more: its label stays
                previous = self._previous(record, parts[record["id"]])
                labels[record["id"]] = merged(previous, space, settings.panoptic)
            label = labels.pop(record["id"])
            exported.append(export_image(self.folder, record, label, space))
        path = self.space.part(self.name, part.index)
        counted_in = self.space.part(self.name, part.index, ".counts")
        files = [*self.write_part(part.index, None, skipped), counted_in]
        write_json(counted_in, counts)
        write_part(path, exported)
        return files + written_files(self.folder, part.records)

    def _previous(self, record: Record, part: LabelRecord) -> Segmentation:
        things: list[InstanceMask] = []
        for line in part.instances:
            found = json.loads(line)
            mask = InstanceMask.from_result(found)
            things.append(replace(mask, cluster=int(found["category_id"]) - 1))
        path = safe_join(self.before.folder(self.name) / STUFF_PNGS, png_name(record))
        target = read_label_png(path, self.context.settings.images.max_pixels)
        return Segmentation((record["height"], record["width"]), tuple(things), target)


def _changed(before: Path, now: Path) -> list[str]:
    """Return the photographs that two lists of records know with another SHA-256."""
    if not before.is_file():
        return []
    known = {r["file_name"]: r["sha256"] for r in ShardFile(before).records}
    return [
        r["file_name"]
        for r in ShardFile(now).records
        if known.get(r["file_name"], r["sha256"]) != r["sha256"]
    ]


def relabel_images(
    settings: Settings,
    images: Path,
    output: Path,
    previous: Path,
    teacher: Teacher,
    number: int,
    *,
    progress: bool = True,
) -> Path:
    """Label photographs by a trained model and the labels so far; running it again resumes.

    Args:
        settings: All settings.
        images: The photographs, as for ``generate_labels``.
        output: Folder of the new labels; made if missing.
        previous: Folder of the labels so far.
        teacher: The trained model.
        number: The round, 1, 2, ...
        progress: Show a progress bar.

    Returns:
        ``output``, a label folder as ``generate_labels`` leaves, without the folders of masks,
        clusters and semantics.

    Raises:
        UserError: as ``generate_labels``, and if the photographs or shards are not those of the
            previous labels.
        StageError: if the labels of a shard cannot be made.
    """
    source = open_source(images, settings.images.extensions)
    context = RunContext(settings, Workspace(output), source, progress=progress)
    stages = (ImagesStage(context), RelabelStage(context, teacher, previous, number))
    names = [stage.name for stage in stages]
    check_apart(source, context.space, names)
    with only_run(context.space.lock), at_work(context):
        for stage in stages:
            stage.execute()
            collect_skips(context.space, names)
        finish(context, names)
    return output
