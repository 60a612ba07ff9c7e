"""Stage ``masks``: class-agnostic instance masks of every image, one COCO results part a shard."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from u2seg.features import FeatureExtractor, build_extractor
from u2seg.features.base import check_name
from u2seg.io.atomic import write_json
from u2seg.masks.base import DETECTOR, MASK_PROPOSERS, detector_missing
from u2seg.masks.refine import MASK_REFINERS
from u2seg.pipeline.batches import check_skipped, read_masks, write_stage_skips
from u2seg.pipeline.mask_batches import check_backend, with_masks
from u2seg.pipeline.stage import Record, Stage
from u2seg.shards.attempts import Part, Work


class MaskStage(Stage):
    """Reads photographs, writes ``masks/part-*.json``."""

    name = "masks"
    inputs = ("images",)

    def sections(self) -> tuple[Any, ...]:
        """Feature and mask settings."""
        return (self.context.settings.features, self.context.settings.masks)

    def extra_plan(self) -> dict[str, Any]:
        """Which detector predicts the masks, if one does."""
        detector = self.context.detector
        return {"detector": detector.fingerprint()} if detector and self.predicts else {}

    def check(self) -> None:
        """Look the names up, and whether they go together."""
        check_name(self.context.settings.features)
        MASK_PROPOSERS.get(self.context.settings.masks.proposer)
        MASK_REFINERS.get(self.context.settings.masks.refiner)
        check_backend(self.context.settings.masks, self.context.settings.features)
        if self.predicts and self.context.detector is None:
            raise detector_missing()

    @property
    def predicts(self) -> bool:
        """Whether masks are predicted from photographs, not cut from features."""
        return self.context.settings.masks.proposer == DETECTOR

    @functools.cached_property
    def extractor(self) -> FeatureExtractor | None:
        """The feature extractor, built on first use; None where none is needed."""
        return None if self.predicts else build_extractor(self.context.settings.features)

    def works(self) -> dict[str, Work]:
        """One phase."""
        return {"propose": self._propose}

    def run(self) -> dict[str, int]:
        """Propose masks shard by shard."""
        self.each_shard("propose")
        check_skipped(self, len(self.context.images()))
        per_image = [
            len(masks)
            for index, records in enumerate(self.context.shards())
            for masks in read_masks(self.context, index, records)
        ]
        empty = sum(count == 0 for count in per_image)
        return {"images": len(per_image), "masks": sum(per_image), "images_without_masks": empty}

    def _propose(self, part: Part) -> list[Path]:
        results: list[dict[str, Any]] = []
        skipped: list[Record] = []
        for record, masks in with_masks(self, self.extractor, part, skipped):
            results += [mask.to_result(record["id"]) for mask in masks]
        path = self.context.space.part(self.name, part.index)
        files = [write_stage_skips(self, part.index, skipped), path]
        write_json(path, results)
        return files
