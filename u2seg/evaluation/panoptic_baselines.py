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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.config.evaluation import EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation.files import (
    SCORES,
    PanopticSet,
    Predictions,
    compressed_result,
    read_panoptic_set,
)
from u2seg.evaluation.gather import ImageTable, StuffPixels, stuff_cells
from u2seg.evaluation.passes import gather
from u2seg.evaluation.table import Cell, align, interval_cell
from u2seg.evaluation.truth import Truth
from u2seg.io.coco import check_score, read_instances
from u2seg.io.paths import stem_of

RANDOM, ONE, LABELS = "random_clusters", "one_cluster", "labels"
NOTES = {
    RANDOM: "the model's segments, its clusters renamed at random in every image",
    ONE: "the model's segments, all things in one cluster, all stuff in another",
    LABELS: "the files of a labelling run, scored directly",
}
_SHOWN = (
    ("panoptic", "all", "PQ"), ("panoptic", "things", "PQ"), ("panoptic", "stuff", "PQ"),
    ("semantic", "mIoU"), ("semantic", "pixel_accuracy"), ("instances", "box", "AP50"),
    ("instances", "segm", "AP50"),
)  # fmt: skip

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


def format_baselines(metrics: dict[str, Any]) -> str:
    """Return the model and the baselines under each protocol as a table; percent.

    Args:
        metrics: Result of ``evaluate_folder`` with ``baselines``.
    """
    protocols = metrics.get("protocols") or {metrics["protocol"]["name"]: metrics}
    rows: list[list[Cell]] = []
    for protocol, model in protocols.items():
        rows.append([f"{protocol}: model", *_figures(model)])
        for name, row in metrics["baselines"].items():
            rows.append([f"{protocol}: {name}", *_figures(row["protocols"][protocol])])
    columns = [" ".join(path[1:]).replace("all ", "") for path in _SHOWN]
    return align(["baselines", *columns, "PQ, 95 %"], rows)


def _figures(blocks: dict[str, Any]) -> list[Cell]:
    cells: list[Cell] = []
    for path in _SHOWN:
        node: Any = blocks
        for key in path:
            node = node and node[key]
        cells.append(node if isinstance(node, float) else None)
    return [*cells, interval_cell(blocks, "panoptic", "all", "PQ")]


def read_labels(folder: Path, truth: Truth) -> Predictions:
    """Return the panoptic labels of a labelling run as predictions.

    Args:
        folder: Output folder of the run. Its images are paired with the truth's by file name
            (without suffix); others are passed over. A label without a score has 1.
        truth: Gives the image ids.

    Raises:
        UserError: if a file is missing or garbled, no image is in the truth, a label has
            another size than the true image, or a score is no number in 0..1.
    """
    source = Path(folder) / "panoptic" / "panoptic.json"
    if not source.is_file():
        raise UserError(
            f"{folder} holds no panoptic/panoptic.json: --labels takes the output folder of a "
            "finished u2seg label"
        )
    found = read_panoptic_set(source, source.parent / "panoptic")
    by_stem = {stem: image_id for image_id, stem in found.stems.items()}
    pairs = {i: by_stem[stem] for i, stem in sorted(truth.stems.items()) if stem in by_stem}
    if not pairs:
        raise UserError(
            f"none of the {len(by_stem)} images of {source} is in {truth.source} (compared by "
            "file name): label the photographs of the truth to score labels directly"
        )
    for true_id, own in pairs.items():
        if tuple(found.sizes[own]) != tuple(truth.sizes[true_id]):
            raise UserError(
                f"{source}: image {found.file_names[own]} is {found.sizes[own]}, the true image "
                f"{truth.sizes[true_id]} (height, width)"
            )
    panoptic = replace(
        found,
        segments={i: found.segments[own] for i, own in pairs.items()},
        file_names={i: found.file_names[own] for i, own in pairs.items()},
        sizes={i: found.sizes[own] for i, own in pairs.items()},
    )
    instances = _label_instances(source.parent / "instances.json", found, pairs)
    return Predictions(Path(folder), panoptic, instances, has_stuff_maps=False)


def _label_instances(
    path: Path, found: PanopticSet, pairs: Mapping[int, int]
) -> dict[int, list[dict[str, Any]]]:
    content = read_instances(path, found.things)
    stems = {image["id"]: stem_of(image["file_name"]) for image in content["images"]}
    ids = {found.stems[own]: true_id for true_id, own in pairs.items()}
    rows: dict[int, list[dict[str, Any]]] = {}
    for record in content["annotations"]:
        true_id = ids.get(stems[record["image_id"]])
        if true_id is not None and not record.get("iscrowd"):
            size = found.sizes[pairs[true_id]]
            result = {"score": 1.0, **record, "image_id": true_id}
            check_score(f"{path}: the annotation of id {record['id']}", result, *SCORES)
            rows.setdefault(true_id, []).append(compressed_result(result, size))
    return rows


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
