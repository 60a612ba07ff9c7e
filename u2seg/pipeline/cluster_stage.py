"""Stage ``clusters``: one descriptor a mask, K-means over the whole set, an id for every mask."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.clusters.describe import DESCRIPTORS, facets_of
from u2seg.clusters.kmeans import KMeans
from u2seg.clusters.lloyd import assign
from u2seg.clusters.persist import CentroidInfo, Centroids, load_centroids, save_centroids
from u2seg.clusters.quality import draw_sample, quality, spread, summary
from u2seg.clusters.rows import FileRows
from u2seg.clusters.transform import check_pca, fit_transform
from u2seg.errors import UserError
from u2seg.features.base import check_name
from u2seg.io.atomic import sha256_file, write_bytes, write_json, write_npy
from u2seg.pipeline.batches import (
    NOT_FINITE,
    check_skipped,
    describe_masks,
    handed_over,
    read_masks,
    with_features,
)
from u2seg.pipeline.stage import Stage
from u2seg.pipeline.workspace import shard_assignments
from u2seg.shards.attempts import Part, Work
from u2seg.shards.records import Record
from u2seg.structures.features import ImageInputs

logger = logging.getLogger(__name__)


class ClusterStage(Stage):
    """Reads photographs and masks; writes descriptors, centroids and assignments."""

    name = "clusters"
    inputs = ("images", "masks")

    def sections(self) -> tuple[Any, ...]:
        """Feature and cluster settings."""
        return (self.context.settings.features, self.context.settings.clusters)

    def seed(self) -> int:
        """Seed of K-means."""
        return self.context.settings.clusters.seed

    def extra_plan(self) -> dict[str, Any]:
        """The saved centroids, if any are used."""
        path = self.context.settings.clusters.centroids
        if not path:
            return {}
        load_centroids(path, self._info(), self.context.settings.clusters.num_clusters)
        # The note names the digests of the other files.
        return {"centroids": sha256_file(Path(path).with_suffix(".json"))}

    def check(self) -> None:
        """Look the names up, and saved centroids."""
        check_name(self.context.settings.features)
        DESCRIPTORS.get(self.context.settings.clusters.descriptor)
        self.extra_plan()

    def works(self) -> dict[str, Work]:
        """Describe masks; then, with the centroids, assign them."""
        return {"describe": self._describe, "assign": self._assign}

    def run(self) -> dict[str, int]:
        """Describe masks shard by shard, fit centroids to all, assign shard by shard."""
        if self.context.settings.clusters.pca:  # before hours of work
            check_pca(self.context.settings.clusters, self.context.extractor.dim)
        self.each_shard("describe")
        if any(self.folder.glob("part-*.skipped")):  # counting reads every mask
            check_skipped(self, self._images_with_masks())
        self.fit()
        self.each_shard("assign")
        return self._judge()

    def fit(self) -> None:
        """Make the centroids file unless it is there; the same descriptors give the same file."""
        if self._kept():
            return
        rows = self._rows()
        if len(rows) == 0:
            raise UserError(
                "no mask was found in any image, so there is nothing to cluster: change the "
                f"settings of U2SEG.MASKS.PROPOSER {self.context.settings.masks.proposer} (of "
                "maskcut TAU: with all pairs of patches above it, or none, nothing can be cut) or "
                "use stronger features"
            )
        settings = self.context.settings.clusters
        if settings.centroids:
            found = load_centroids(settings.centroids, self._info(), settings.num_clusters)
        else:
            settings = self._fit_limit(len(rows))
            transform = fit_transform(rows, settings)
            model = KMeans.from_settings(settings).fit(transform.rows(rows))
            found = Centroids(model.cluster_centers_, self._info(), transform)
        save_centroids(self.centroids_path, found)

    def _kept(self) -> bool:
        """Return whether the centroids are there and as they were written."""
        if not self.centroids_path.with_suffix(".json").is_file():
            return False
        try:
            load_centroids(self.centroids_path)
        except UserError as error:
            logger.warning("clusters: %s: fitting again", error)
            return False
        return True

    @property
    def centroids_path(self) -> Path:
        """Where the centroids lie."""
        return self.folder / "centroids.npy"

    @functools.cached_property
    def centroids(self) -> Centroids:
        """The centroids, read from their files: a resumed run assigns to the same numbers."""
        return load_centroids(self.centroids_path)

    def _assign(self, part: Part) -> list[Path]:
        rows = self.centroids.transform.rows(FileRows([self._descriptors(part.index)]))
        labels = np.empty(0, dtype=np.int64)
        if len(rows):
            labels, _ = assign(rows, self.centroids.array)
        path = self.space.assigned(part.index)
        write_npy(path, labels.astype(np.int32))
        return [path]

    def _judge(self) -> dict[str, int]:
        rows = self.centroids.transform.rows(self._rows())
        space, shards = self.space, range(len(self.context.shards()))
        labels = np.concatenate([np.array(shard_assignments(space, i), np.int64) for i in shards])
        clusters = len(self.centroids.array)
        counts, squares = spread(rows, labels, self.centroids.array)
        chosen, sample = draw_sample(rows, self.context.settings.clusters.seed)
        found = quality(sample, labels[chosen], self.centroids.array, counts, squares)
        write_json(self.folder / "quality.json", found, indent=1)
        logger.info("clusters: %s", summary(found))
        used = clusters - len(found["empty"])
        return {"masks": len(labels), "clusters": clusters, "clusters_used": used}

    def _rows(self) -> FileRows:
        return FileRows([self._descriptors(i) for i in range(len(self.context.shards()))])

    def _images_with_masks(self) -> int:
        shards = enumerate(self.context.shards())
        return sum(bool(masks) for i, part in shards for masks in read_masks(self.context, i, part))

    def _descriptors(self, index: int) -> Path:
        return self.space.part(self.name, index, ".npy")

    def _info(self) -> CentroidInfo:
        settings = self.context.settings
        return CentroidInfo.from_settings(settings.features.name, settings.clusters)

    def _fit_limit(self, masks: int) -> Any:
        settings = self.context.settings.clusters
        if self.context.limit and settings.num_clusters > masks:
            # A dry run has few masks by design; its ids are thrown away.
            logger.warning("dry run: %d clusters instead of %d", masks, settings.num_clusters)
            return dataclasses.replace(settings, num_clusters=masks)
        return settings

    def _describe(self, part: Part) -> list[Path]:
        path, handed = self._descriptors(part.index), handed_over(self.context, part.index)
        if handed.is_file():
            write_bytes(path, handed.read_bytes())
            handed.unlink()
            return [path]
        of_shard = read_masks(self.context, part.index, part.records)
        masks = {r["id"]: some for r, some in zip(part.records, of_shard, strict=True)}
        wanted = [record for record in part.records if masks[record["id"]]]
        skipped: list[Record] = []
        rows: dict[int, npt.NDArray[np.float32]] = {}
        for record, inputs in self._inputs(part, wanted, skipped):
            described = describe_masks(self.context, inputs, masks[record["id"]])
            if described is None:
                skipped.append(self.skip(record, NOT_FINITE))
            else:
                rows[record["id"]] = described
        # An image that cannot be used keeps its rows, as zeros: rows and masks stay aligned.
        dim = next((row.shape[1] for row in rows.values()), 0) or self.context.extractor.dim
        blocks = [
            rows.get(r["id"], np.zeros((len(masks[r["id"]]), dim), np.float32)) for r in wanted
        ]
        files = [*self.write_part(part.index, None, skipped), path]
        write_npy(path, np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32))
        return files

    def _inputs(
        self, part: Part, wanted: list[Record], skipped: list[Record]
    ) -> Iterator[tuple[Record, ImageInputs]]:
        facets = facets_of(self.context.settings.clusters)
        if facets:
            for record, inputs, _ in with_features(self, part, wanted, facets, skipped):
                yield record, inputs
        else:
            for record, image in self.readable(part, wanted, skipped):
                yield record, ImageInputs(image)
