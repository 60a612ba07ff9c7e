"""What an evaluation gives for nothing, from the same pass: baselines beside the model.

* ``random_clusters``: the model's segments, with its clusters renamed at random in every image
  (things among things). What is left is what segments alone are worth. Renamed and not drawn
  segment by segment, so that an instance and its panoptic segment still agree.
* ``one_cluster``: the model's segments, all things in one cluster and all stuff in another.
* ``labels``: the files of a labelling run, scored as if a model had predicted them.

All are matched to classes by the rules of the model beside them and fitted anew, or share the
mapping that the model was given. The first two vote with the maps the model votes with, its stuff
maps renamed like its segments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.evaluation import EvalSettings
from u2seg.evaluation.collect import ImageTable, StuffPixels, collect
from u2seg.evaluation.metrics.overlap import sum_pairs
from u2seg.evaluation.truth.base import Truth
from u2seg.evaluation.truth.coco import PanopticSet
from u2seg.evaluation.truth.predictions import Predictions

RANDOM, ONE, LABELS = "random_clusters", "one_cluster", "labels"
NOTES = {
    RANDOM: "the model's segments, its clusters renamed at random in every image",
    ONE: "the model's segments, all things in one cluster, all stuff in another",
    LABELS: "the files of a labelling run, scored directly",
}
Ids = npt.NDArray[np.int64]
Rename = Callable[[Ids, int], Ids]
"""(Categories of one image, image id) -> as many categories, of the same kinds."""


@dataclass(frozen=True)
class Baseline:
    """One baseline: predictions and their tables, in the order of the model's."""

    name: str
    predicted: Predictions
    tables: list[ImageTable]


def baselines(
    settings: EvalSettings,
    truth: Truth,
    predicted: Predictions,
    tables: Sequence[ImageTable],
    labels: Predictions | None = None,
    workers: int = 1,
) -> list[Baseline]:
    """Return the baselines that the settings ask for.

    Args:
        settings: ``baselines`` and ``seed`` are read.
        truth: What is scored against.
        predicted: Of the model.
        tables: Of the model, for every image.
        labels: From ``read_labels``, on the truth's crop if there is one.
        workers: Processes that read label files.

    Raises:
        UserError: as ``collect``.
    """
    found = []
    if settings.baselines:
        clusters = predicted.panoptic
        renames = {RANDOM: _at_random(clusters, settings.seed), ONE: _to_first(clusters)}
        for name, rename in renames.items():
            rows = [_renamed(table, rename) for table in tables]
            known = predicted.instances
            instances = {
                table.image_id: [
                    {**result, "category_id": int(cluster)}
                    for result, cluster in zip(
                        known.get(table.image_id, []), table.detections, strict=True
                    )
                ]
                for table in rows
            }
            found.append(Baseline(name, replace(predicted, instances=instances), rows))
    if labels is not None:
        found.append(Baseline(LABELS, labels, collect(truth, labels, workers=workers)))
    return found


def headline(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a baseline without the figures of each class."""

    def bare(block: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in block.items() if k != "per_class"}

    found = {part: blocks[part] and bare(blocks[part]) for part in ("semantic", "panoptic")}
    kinds = blocks["instances"]
    return {"instances": kinds and {kind: bare(row) for kind, row in kinds.items()}, **found}


def _at_random(clusters: PanopticSet, seed: int) -> Rename:
    kinds = [np.array(kind, dtype=np.int64) for kind in (clusters.things, clusters.stuff)]

    def rename(categories: Ids, image_id: int) -> Ids:
        generator = np.random.default_rng((seed, image_id))
        new: dict[int, int] = {}
        for kind in kinds:
            new |= dict(zip(kind.tolist(), generator.permutation(kind).tolist(), strict=True))
        return np.array([new[c] for c in categories.tolist()], dtype=np.int64)

    return rename


def _to_first(clusters: PanopticSet) -> Rename:
    def rename(categories: Ids, image_id: int) -> Ids:
        new = categories.copy()
        for kind in (clusters.things, clusters.stuff):
            new[np.isin(categories, kind)] = kind[0] if kind else 0
        return new

    return rename


def _renamed(table: ImageTable, rename: Rename) -> ImageTable:
    """Return a table with other clusters; no file is read again."""
    old = np.array([*table.predicted.values(), *table.detections.tolist()], dtype=np.int64)
    new = rename(old, table.image_id)
    segments, detections = new[: len(table.predicted)], new[len(table.predicted) :]
    cells = table.stuff_pixels
    cluster = cells.cluster.copy()
    real = cluster > 0  # else no cluster, or some thing
    cluster[real] = rename(cluster[real], table.image_id)
    return replace(
        table,
        predicted=dict(zip(table.predicted, segments.tolist(), strict=True)),
        detections=detections,
        pairs=replace(table.pairs, cluster=detections[table.pairs.detection]),
        stuff_pixels=StuffPixels(*sum_pairs(cluster, cells.true_class, cells.pixels)),
    )
