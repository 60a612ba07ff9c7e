"""Stage ``semantics``: fit a stuff model on the images given, predict a stuff map for each."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.schema import SemanticSettings
from u2seg.features.base import FACETS, check_name
from u2seg.io.atomic import json_bytes, sha256_bytes, sha256_file, write_bytes, write_json
from u2seg.io.images import BadImageError
from u2seg.io.paths import label_stem, safe_join
from u2seg.io.png import write_label_png
from u2seg.pipeline.batches import check_skipped, with_features
from u2seg.pipeline.stage import RunContext, Stage
from u2seg.semantics import SEMANTIC_SEGMENTERS, SemanticSegmenter
from u2seg.semantics.neighbors import NeighborCache
from u2seg.semantics.sampling import CROPS, crop_box
from u2seg.shards.attempts import Part, Work
from u2seg.shards.records import Record
from u2seg.shards.threads import cores, exactly
from u2seg.structures.features import ImageInputs

CACHE_BYTES = 2 << 30
"""Features kept in memory while fitting; beyond this they are computed again when visited."""
MODEL_FILE = "model.safetensors"
NEIGHBORS_FILE = "neighbors.safetensors"


class ImageFeatures:
    """Features of the training images by index, computed on demand, the latest kept in memory.

    Dense features are never written to disk: 2.8 MB an image for a ViT-S/8 at 480 pixels.
    ``SEMANTICS.CROPS`` says how many training images, one after the other, a photograph makes.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.records = context.images()
        self._aside = context.space.aside()
        self._each = CROPS[context.settings.semantics.crops]
        self._kept: OrderedDict[int, npt.NDArray[np.float32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.records) * self._each

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        """Return (D, h, w) float32; an image that cannot be used gives zeros."""
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends iteration by index
        if index not in self._kept:
            self._kept[index] = self._compute(index)
            while sum(grid.nbytes for grid in self._kept.values()) > CACHE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]

    def _compute(self, index: int) -> npt.NDArray[np.float32]:
        inputs = self.inputs(index)
        if inputs.has("token"):
            return inputs.facets["token"].grid
        return np.zeros((self.context.extractor.dim, 2, 2), dtype=np.float32)

    def inputs(self, index: int) -> ImageInputs:
        """Return a training image and its facets; one that cannot be used is black, without."""
        number, part = divmod(index, self._each)
        record, settings = self.records[number], self.context.settings.semantics
        blank = ImageInputs(np.zeros((2, 2, 3), dtype=np.uint8))
        if record["file_name"] in self._aside:
            return blank
        try:
            image = self.context.read(record)
        except BadImageError:
            return blank
        height, width = image.shape[:2]
        box = crop_box(settings.crops, part, height, width, settings.crop_ratio)
        crop = image[box[0] : box[2], box[1] : box[3]]
        facets = facets_of(settings)
        if not facets:
            return ImageInputs(crop)
        (inputs,) = self.context.extractor.extract([crop], facets, settings.resample)
        return inputs

    def key(self) -> str:
        """Return a digest of what decides all features.

        Settings and photographs; and the features of the first image themselves, because weights
        can change under the same name.
        """
        settings = self.context.settings
        facts = [
            asdict(settings.features),
            [settings.semantics.crops, settings.semantics.crop_ratio, settings.semantics.resample],
            [record["sha256"] for record in self.records],
            sha256_bytes(self[0].tobytes()) if len(self) and facets_of(settings.semantics) else "",
        ]
        return sha256_bytes(json_bytes(facts))


def facets_of(settings: SemanticSettings) -> tuple[str, ...]:
    """Return the facets that the segmenter of some settings needs; none = pixels alone."""
    return tuple(sorted(SEMANTIC_SEGMENTERS.needs(settings.segmenter).intersection(FACETS)))


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
        SEMANTIC_SEGMENTERS.get(self.context.settings.semantics.segmenter)
        self.extra_plan()

    def extra_plan(self) -> dict[str, Any]:
        """The fitted model of another run, if one is used."""
        path = self.context.settings.semantics.model
        if not path:
            return {}
        self._load(Path(path))
        return {"model": sha256_file(Path(path))}

    def works(self) -> dict[str, Work]:
        """One phase, after the fit."""
        return {"predict": self._predict}

    def run(self) -> dict[str, int]:
        """Fit once, then predict shard by shard."""
        self.fit()
        self.each_shard("predict")
        total = sum(self.shards().sizes)
        labelled = total - check_skipped(self, total)
        return {"images": labelled, "classes": self.context.settings.semantics.num_classes}

    def fit(self) -> None:
        """Make the model file unless it is there.

        The same photographs, on a machine with as many cores, give the same file.
        """
        settings = self.context.settings.semantics
        if settings.model:
            write_bytes(self.model_path, Path(settings.model).read_bytes())
        if self.model_path.is_file():
            return
        dim = self.context.extractor.dim if facets_of(settings) else 0
        model = SEMANTIC_SEGMENTERS.get(settings.segmenter)(settings, dim)
        source = ImageFeatures(self.context)
        cache = NeighborCache(self.folder / NEIGHBORS_FILE, source.key())
        with exactly(self.context.settings.run.threads or cores()):
            losses = model.fit(source, self.context.progress, cache)
        write_json(self.folder / "losses.json", losses)
        model.save(self.model_path)

    @property
    def model_path(self) -> Path:
        """Where the fitted model lies."""
        return self.folder / MODEL_FILE

    @functools.cached_property
    def model(self) -> SemanticSegmenter:
        """The fitted model, read from its file: a resumed run predicts with the same numbers."""
        return self._load(self.model_path)

    def _load(self, path: Path) -> SemanticSegmenter:
        settings = self.context.settings.semantics
        kind = SEMANTIC_SEGMENTERS.get(settings.segmenter)
        model: SemanticSegmenter = kind.load(path, settings)  # type: ignore[attr-defined]
        return model

    def _predict(self, part: Part) -> list[Path]:
        skipped: list[Record] = []
        written = []
        settings = self.context.settings.semantics
        for record, inputs, mirrored in with_features(
            self, part, part.records, facets_of(settings), skipped,
            resample=settings.resample, mirror=settings.flip,
        ):  # fmt: skip
            stuff = self.model.predict(inputs, mirrored)
            name = label_stem(record) + ".png"
            write_label_png(safe_join(self.folder, name), stuff)
            written.append(name)
        files = self.write_part(part.index, written, skipped)
        return files + [safe_join(self.folder, name) for name in written]
