"""Stage ``semantics``: fit a stuff model on the images given, predict a stuff map for each."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.features import FeatureExtractor, build_extractor
from u2seg.features.base import check_name
from u2seg.io.atomic import write_json
from u2seg.io.images import BadImageError
from u2seg.io.paths import safe_join, stem_of
from u2seg.io.png import write_label_png
from u2seg.pipeline.batches import check_skipped, with_features, write_stage_skips
from u2seg.pipeline.stage import Record, RunContext, Stage
from u2seg.semantics import SEMANTIC_SEGMENTERS

CACHE_BYTES = 2 << 30
"""Features kept in memory while fitting; beyond this they are computed again when visited."""
MODEL_FILE = "model.safetensors"


class ImageFeatures:
    """Features of the run's images by index, computed on demand, the latest kept in memory.

    Dense features are never written to disk: 2.8 MB an image for a ViT-S/8 at 480 pixels.
    """

    def __init__(self, context: RunContext, extractor: FeatureExtractor) -> None:
        self.context = context
        self.extractor = extractor
        self.records = context.images()
        self._kept: OrderedDict[int, npt.NDArray[np.float32]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        """Return (D, h, w) float32; an image that became unreadable gives zeros."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends iteration by index
        try:
            image = self.context.read(self.records[index])
            grid = self.extractor.extract([image], "token")[0].grid
        except UserError:  # a ValueError too, but never the fault of an image
            raise
        except (BadImageError, ValueError):
            grid = np.zeros((self.extractor.dim, 2, 2), dtype=np.float32)
        self._kept[index] = grid
        self._bytes += grid.nbytes
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return grid


class SemanticStage(Stage):
    """Reads photographs; writes the model and ``semantics/<stem>.png``."""

    name = "semantics"
    inputs = ("images",)

    def sections(self) -> tuple[Any, ...]:
        """Feature and semantic settings."""
        return (self.context.settings.features, self.context.settings.semantics)

    def seed(self) -> int:
        """Seed of the training."""
        return self.context.settings.semantics.seed

    def check(self) -> None:
        """Look the names up."""
        check_name(self.context.settings.features)
        SEMANTIC_SEGMENTERS.get(self.context.settings.semantics.method)

    @functools.cached_property
    def extractor(self) -> FeatureExtractor:
        """The feature extractor, built on first use."""
        return build_extractor(self.context.settings.features)

    def run(self) -> dict[str, int]:
        """Fit once, then predict shard by shard."""
        settings = self.context.settings.semantics
        model_path = self.folder / MODEL_FILE
        factory = SEMANTIC_SEGMENTERS.get(settings.method)
        if not model_path.is_file():
            model = factory(settings, self.extractor.dim)
            source = ImageFeatures(self.context, self.extractor)
            losses = model.fit(source, progress=self.context.progress)
            write_json(self.folder / "losses.json", losses)
            model.save(model_path)
        # Always the saved model: a resumed run must predict with the very same numbers.
        self.model = factory.load(model_path)  # type: ignore[attr-defined]
        self.each_shard(
            self._shard, lambda index: self.context.space.part(self.name, index).is_file()
        )
        total = len(self.context.images())
        labelled = total - check_skipped(self, total)
        return {"images": labelled, "classes": settings.num_classes}

    def _shard(self, index: int, records: list[Record]) -> None:
        skipped: list[Record] = []
        written = []
        for record, image, features in with_features(
            self, self.extractor, records, "token", skipped
        ):
            flipped = None
            if self.context.settings.semantics.flip:
                flipped = self.extractor.extract([image[:, ::-1]], "token")[0]
            stuff = self.model.predict(features, flipped, image)
            name = stem_of(record["file_name"]) + ".png"
            write_label_png(safe_join(self.folder, name), stuff)
            written.append(name)
        write_stage_skips(self, index, skipped)
        write_json(self.context.space.part(self.name, index), written)
