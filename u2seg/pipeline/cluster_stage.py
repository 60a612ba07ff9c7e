"""Stage ``clusters``: one descriptor a mask, K-means over the whole set, an id for every mask."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.clusters.assign import assign
from u2seg.clusters.descriptors import mask_crops, masked_mean, normalize_rows
from u2seg.clusters.kmeans import KMeans, resolve_backend
from u2seg.clusters.persist import CentroidInfo, load_centroids, save_centroids
from u2seg.errors import UserError
from u2seg.features import FeatureExtractor, build_extractor
from u2seg.features.base import check_name
from u2seg.io.atomic import sha256_file, write_npy
from u2seg.pipeline.assignments import write_assignments
from u2seg.pipeline.batches import check_skipped, read_masks, with_features, write_stage_skips
from u2seg.pipeline.stage import Record, Stage
from u2seg.structures.masks import InstanceMask

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
        return {"centroids": sha256_file(path)}

    def check(self) -> None:
        """Look the names up, and saved centroids."""
        check_name(self.context.settings.features)
        resolve_backend(self.context.settings.clusters.backend)
        self.extra_plan()

    @functools.cached_property
    def extractor(self) -> FeatureExtractor:
        """The feature extractor, built on first use."""
        return build_extractor(self.context.settings.features)

    def run(self) -> dict[str, int]:
        """Describe masks shard by shard, then cluster all of them."""
        self.each_shard(self._shard, lambda index: self._descriptors(index).is_file())
        shards = range(len(self.context.shards()))
        parts = [np.load(self._descriptors(i), allow_pickle=False) for i in shards]
        descriptors = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
        check_skipped(self, self._images_with_masks())
        labels, centroids, inertia = self._cluster(descriptors)
        save_centroids(self.folder / "centroids.npy", centroids, self._info())
        ends = np.cumsum([0, *(len(part) for part in parts)])
        for index, (start, end) in enumerate(itertools.pairwise(ends)):
            write_assignments(self.context.space, index, labels[start:end])
        logger.info("inertia: %.6g", inertia)
        used = len(np.unique(labels))
        return {"masks": len(labels), "clusters": len(centroids), "clusters_used": used}

    def _images_with_masks(self) -> int:
        shards = enumerate(self.context.shards())
        return sum(bool(masks) for i, part in shards for masks in read_masks(self.context, i, part))

    def _descriptors(self, index: int) -> Any:
        return self.context.space.part(self.name, index, ".npy")

    def _info(self) -> CentroidInfo:
        settings = self.context.settings
        clusters = settings.clusters
        return CentroidInfo(settings.features.name, clusters.descriptor, clusters.normalize)

    def _cluster(
        self, descriptors: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], float]:
        settings = self.context.settings.clusters
        if len(descriptors) == 0:
            raise UserError(
                "no mask was found in any image, so there is nothing to cluster: change "
                "U2SEG.MASKS.TAU (with all pairs of patches above it, or none, nothing can be cut) "
                "or use stronger features"
            )
        if settings.centroids:
            centroids, _ = load_centroids(settings.centroids, self._info(), settings.num_clusters)
            points = normalize_rows(descriptors) if settings.normalize else descriptors
            labels, distances = assign(points, centroids)
            return labels, centroids, float(np.sum(distances**2))
        settings = self._fit_limit(len(descriptors))
        model = KMeans.from_settings(settings).fit(descriptors)
        return model.labels_, model.cluster_centers_, float(model.inertia_)

    def _fit_limit(self, masks: int) -> Any:
        settings = self.context.settings.clusters
        if self.context.limit and settings.num_clusters > masks:
            # A dry run has few masks by design; its ids are thrown away.
            logger.warning("dry run: %d clusters instead of %d", masks, settings.num_clusters)
            return dataclasses.replace(settings, num_clusters=masks)
        return settings

    def _shard(self, index: int, records: list[Record]) -> None:
        masks = dict(
            zip(
                (record["id"] for record in records),
                read_masks(self.context, index, records),
                strict=True,
            )
        )
        wanted = [record for record in records if masks[record["id"]]]
        skipped: list[Record] = []
        found: dict[int, npt.NDArray[np.float32]] = {}
        if self.context.settings.clusters.descriptor == "crop_cls":
            for record, image in self.readable(wanted, skipped):
                crops = mask_crops(image, [m.to_array() for m in masks[record["id"]]])
                rows = self.extractor.cls(crops)
                if np.isfinite(rows).all():
                    found[record["id"]] = rows
                else:
                    skipped.append(self.skip(record, "its features are not finite"))
        else:
            for record, _, features in with_features(
                self, self.extractor, wanted, "token", skipped
            ):
                arrays = [m.to_array() for m in masks[record["id"]]]
                found[record["id"]] = masked_mean(features, arrays)
        write_stage_skips(self, index, skipped)
        blocks = [self._rows(found, record, masks[record["id"]]) for record in wanted]
        empty = np.zeros((0, self.extractor.dim), dtype=np.float32)
        write_npy(self._descriptors(index), np.concatenate([empty, *blocks]).astype(np.float32))

    def _rows(
        self, found: dict[int, npt.NDArray[np.float32]], record: Record, masks: list[InstanceMask]
    ) -> npt.NDArray[np.float32]:
        # An image that became unreadable since its masks were made keeps its rows, as zeros, so
        # that rows and masks stay aligned.
        blank = np.zeros((len(masks), self.extractor.dim), dtype=np.float32)
        return found.get(record["id"], blank)
