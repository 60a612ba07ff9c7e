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
from u2seg.evaluation.collect import ImageTable, StuffPixels, gather, stuff_cells
from u2seg.evaluation.truth.base import Truth
from u2seg.evaluation.truth.coco import PanopticSet
from u2seg.evaluation.truth.predictions import (
    Predictions,
)

RANDOM, ONE, LABELS = "random_clusters", "one_cluster", "labels"

NOTES = {
    RANDOM: "the model's segments, its clusters renamed at random in every image",
    ONE: "the model's segments, all things in one cluster, all stuff in another",
    LABELS: "the files of a labelling run, scored directly",
}

Ids = npt.NDArray[np.int64]

Draw = Callable[[Ids, int], Ids]
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
        UserError: as ``gather``.
    """
    found = []
    if settings.baselines:
        clusters = predicted.panoptic
        draws = {RANDOM: _random_draw(clusters, settings.seed), ONE: _first_draw(clusters)}
        for name, draw in draws.items():
            found.append(Baseline(name, *_redrawn(predicted, tables, draw)))
    if labels is not None:
        found.append(Baseline(LABELS, labels, gather(truth, labels, workers=workers)))
    return found


def headline(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a baseline without the figures of each class."""
    found: dict[str, Any] = {}
    for part in ("instances", "semantic", "panoptic"):
        block = blocks[part]
        found[part] = block and {k: v for k, v in block.items() if k != "per_class"}
    if found["instances"]:
        for kind, row in found["instances"].items():
            found["instances"][kind] = {k: v for k, v in row.items() if k != "per_class"}
    return found


def _random_draw(clusters: PanopticSet, seed: int) -> Draw:
    kinds = [np.array(kind, dtype=np.int64) for kind in (clusters.things, clusters.stuff)]

    def draw(categories: Ids, image_id: int) -> Ids:
        generator = np.random.default_rng((seed, image_id))
        renamed: dict[int, int] = {}
        for kind in kinds:
            renamed |= dict(zip(kind.tolist(), generator.permutation(kind).tolist(), strict=True))
        return np.array([renamed[c] for c in categories.tolist()], dtype=np.int64)

    return draw


def _first_draw(clusters: PanopticSet) -> Draw:
    def draw(categories: Ids, image_id: int) -> Ids:
        drawn = categories.copy()
        for kind in (clusters.things, clusters.stuff):
            drawn[np.isin(categories, kind)] = kind[0] if kind else 0
        return drawn

    return draw


def _redrawn(
    predicted: Predictions, tables: Sequence[ImageTable], draw: Draw
) -> tuple[Predictions, list[ImageTable]]:
    """Return predictions and tables with other clusters; no file is read again."""
    rows = [_redrawn_table(table, draw) for table in tables]
    instances = {
        table.image_id: [
            {**result, "category_id": int(cluster)}
            for result, cluster in zip(
                predicted.instances.get(table.image_id, []), table.detections.cluster, strict=True
            )
        ]
        for table in rows
    }
    return replace(predicted, instances=instances), rows


def _redrawn_table(table: ImageTable, draw: Draw) -> ImageTable:
    old = [*table.predicted.values(), *table.detections.cluster.tolist()]
    new = draw(np.array(old, dtype=np.int64), table.image_id)
    segments, detections = new[: len(table.predicted)], new[len(table.predicted) :]
    clusters = dict(zip(table.predicted, segments.tolist(), strict=True))
    return replace(
        table,
        predicted=clusters,
        detections=replace(table.detections, cluster=detections),
        pairs=replace(table.pairs, cluster=detections[table.pairs.detection]),
        stuff_pixels=_redrawn_stuff(table.stuff_pixels, draw, table.image_id),
    )


def _redrawn_stuff(cells: StuffPixels, draw: Draw, image_id: int) -> StuffPixels:
    """Return the pixels that vote for stuff, of the same map as the model's, under new clusters."""
    if not len(cells.cluster):
        return cells
    cluster = cells.cluster.copy()
    real = cluster > 0  # else no cluster, or some thing
    cluster[real] = draw(cluster[real], image_id)
    return stuff_cells(cluster, cells.true_class, cells.pixels)
