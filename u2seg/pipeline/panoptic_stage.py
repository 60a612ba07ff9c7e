"""Stage ``panoptic``: things first, stuff in what is left, in the formats other tools open."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UserError
from u2seg.io.paths import label_stem, safe_join
from u2seg.io.png import read_label_png
from u2seg.labels.write import export_image, merge_parts, read_part, write_part, written_files
from u2seg.panoptic.merger import MERGE_RULES, merge_panoptic
from u2seg.pipeline.batches import read_masks
from u2seg.pipeline.stage import RunContext, Stage
from u2seg.pipeline.workspace import shard_assignments
from u2seg.shards.attempts import Part, Work
from u2seg.shards.records import Record
from u2seg.structures.labels import VOID_STUFF, LabelSpace
from u2seg.structures.masks import InstanceMask


class PanopticStage(Stage):
    """Reads masks, cluster ids and stuff maps; writes everything that training reads."""

    name = "panoptic"
    inputs: tuple[str, ...] = ("images", "masks", "clusters", "semantics")

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        left_out = context.settings.left_out()
        self.inputs = tuple(name for name in self.inputs if name not in left_out)

    def sections(self) -> tuple[Any, ...]:
        """Merge settings and the two numbers that make the label space."""
        settings = self.context.settings
        return (settings.panoptic, settings.clusters, settings.semantics)

    @property
    def label_space(self) -> LabelSpace:
        """K and S of the settings."""
        settings = self.context.settings
        return LabelSpace(settings.clusters.num_clusters, settings.semantics.num_classes)

    def check(self) -> None:
        """Refuse an unknown merge rule before any work."""
        super().check()
        MERGE_RULES.get(self.context.settings.panoptic.rule)

    def works(self) -> dict[str, Work]:
        """One phase."""
        return {"merge": self._merge}

    def run(self) -> dict[str, int]:
        """Merge shard by shard, then join the records."""
        self.each_shard("merge")
        shards = self.context.shards()
        part = functools.partial(self.space.part, self.name)
        parts = (read_part(part(i)) for i in range(len(shards)))
        return merge_parts(parts, self.folder, shards.records, self.label_space)

    def _merge(self, part: Part) -> list[Path]:
        per_image: list[list[InstanceMask]] = [[] for _ in part.records]
        ids: Any = []
        if "masks" in self.inputs:
            per_image = read_masks(self.context, part.index, part.records)
            ids = shard_assignments(self.space, part.index)
        if len(ids) != sum(len(masks) for masks in per_image):
            raise UserError(
                f"the clusters stage has {len(ids)} ids for shard {part.index}, its part has other "
                "masks: run the clusters stage anew (--overwrite)"
            )
        exported = []
        start = 0
        for record, masks in zip(part.records, per_image, strict=True):
            own = ids[start : start + len(masks)]
            start += len(masks)
            stuff = self._stuff(record)
            label = merge_panoptic(
                masks, own, stuff, self.label_space, self.context.settings.panoptic
            )
            clustered = [
                replace(mask, cluster=int(cluster))
                for mask, cluster in zip(masks, own, strict=True)
            ]
            exported.append(export_image(self.folder, record, label, self.label_space, clustered))
        path = self.space.part(self.name, part.index)
        write_part(path, exported)
        return [path, *written_files(self.folder, part.records)]

    def _stuff(self, record: Record) -> Any:
        name = label_stem(record) + ".png"
        path = safe_join(self.space.folder("semantics"), name)
        if not path.is_file():  # listed in skipped.jsonl by the stage before
            return np.full((record["height"], record["width"]), VOID_STUFF, dtype=np.uint8)
        return read_label_png(path, self.context.settings.images.max_pixels)
