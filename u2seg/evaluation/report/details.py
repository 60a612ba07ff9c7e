"""Files beside ``metrics.json``: per class, per cluster, per image, and the worst images.

The pictures of a report need no reader of the truth: the id maps of the chosen images are written
beside ``worst.json``, which names the class of every segment.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.evaluation.collect import NONE, ImageTable
from u2seg.evaluation.figures import ImageCounts
from u2seg.evaluation.metrics.panoptic import mean_quality
from u2seg.evaluation.protocols.mapping import ClusterMapping
from u2seg.evaluation.truth.base import PANOPTIC, Truth, by_name
from u2seg.evaluation.truth.coco import PanopticSet
from u2seg.evaluation.truth.predictions import Predictions
from u2seg.io.atomic import remove_file, write_json, write_text
from u2seg.io.png import write_panoptic_png

Cell = str | float | int | None
CLASS_COLUMNS = (
    "class_id", "class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", "accuracy",
    "box_AP", "box_AP50", "box_AR100", "AP", "AP50", "AR100", "clusters", "pixels",
)  # fmt: skip
CLUSTER_COLUMNS = (
    "cluster_id", "cluster", "kind", "class_id", "class", "pixels", "share", "votes", "mapped",
)  # fmt: skip
UNLABELLED = "(void)"
"""Name of true pixels without a class in ``clusters.csv``."""
SHOWN = 6
"""Images of each kind that can be drawn."""
FOLDER = "worst"
MAPS = ("truth", "prediction")
KEYS = {"PQ": "pq", "accuracy": "accuracy", "missed": "missed"}
"""Figures of one image and their fields; by the first that the truth allows, images are ranked."""


def write_details(
    truth: Truth,
    predicted: Predictions,
    tables: Sequence[ImageTable],
    counts: Sequence[ImageCounts],
    clusters: ClusterCounts,
    mapping: ClusterMapping,
    metrics: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write ``per_class.csv``, ``clusters.csv``, ``images.csv``, ``worst.json`` and ``worst/``.

    Args:
        truth: The truth; the worst images are read again.
        predicted: The predictions; those of the worst images are read again.
        tables: Of the scored images.
        counts: Of the same images, under ``mapping``.
        clusters: From ``count_clusters``.
        mapping: Cluster -> class.
        metrics: ``panoptic``, ``semantic`` and ``instances`` under ``mapping``.
        folder: Gets the files.

    Raises:
        UserError: if a file cannot be written.
    """
    names = predicted.panoptic.names
    rows = class_rows(metrics, truth, mapping, tables, names)
    write_text(folder / "per_class.csv", csv_text(CLASS_COLUMNS, rows))
    write_text(folder / "clusters.csv", clusters_csv(clusters, predicted.panoptic, truth, mapping))
    scores = image_scores(counts, truth)
    write_text(folder / "images.csv", images_csv(scores, truth))
    worst = worst_images(scores, truth, predicted, mapping, folder)
    write_json(folder / "worst.json", worst, indent=1)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    r"""Return a table as CSV, numbers with all digits; None is an empty cell.

    Examples:
        >>> csv_text(["class", "PQ"], [["a, b", 41.25], ["c", None]])
        'class,PQ\n"a, b",41.25\nc,\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def class_rows(
    metrics: Mapping[str, Any],
    truth: Truth,
    mapping: ClusterMapping,
    tables: Iterable[ImageTable],
    cluster_names: Mapping[int, str],
) -> list[list[Cell]]:
    """Return a row of ``CLASS_COLUMNS`` for each class, in the order of the truth.

    Percentages are None where undefined; ``clusters`` are the names of those that were given the
    class, ``pixels`` its true pixels, crowds included.
    """

    def of_class(name: str, *path: str) -> Mapping[str, Any]:
        node: Any = metrics
        for key in (*path, "per_class", name):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node or {}

    pixels: dict[int, int] = {}
    for table in tables:
        shared = zip(table.overlap.truth.tolist(), table.overlap.pixels.tolist(), strict=True)
        for true, number in shared:
            if true in table.truth:
                category = table.truth[true].category
                pixels[category] = pixels.get(category, 0) + number
    rows: list[list[Cell]] = []
    for name, category in by_name(truth.names, {c: c for c in truth.names}).items():
        kind = "thing" if category in truth.things else "stuff"
        figures = [
            *(of_class(name, "panoptic").get(k) for k in ("PQ", "SQ", "RQ", "tp", "fp", "fn")),
            *(of_class(name, "semantic").get(k) for k in ("IoU", "accuracy")),
            *(
                of_class(name, "instances", iou).get(k)
                for iou in ("box", "segm")
                for k in ("AP", "AP50", "AR100")
            ),
        ]
        given = " ".join(cluster_names[k] for k, c in mapping.all.items() if c == category)
        rows.append([category, name, kind, *figures, given, pixels.get(category, 0)])
    return rows


@dataclass
class ClusterCounts:
    """What lies under each cluster, sums over images: the same under every protocol.

    Args:
        pixels: (Cluster, class) -> pixels of predicted segments, crowds included; both category
            ids of their files, the class ``NONE`` for void.
        segments: Cluster -> predicted segments.
        instances: Cluster -> predicted instances.
    """

    pixels: dict[tuple[int, int], int] = field(default_factory=dict)
    segments: dict[int, int] = field(default_factory=dict)
    instances: dict[int, int] = field(default_factory=dict)

    def of_cluster(self) -> dict[int, int]:
        """Return cluster -> all its pixels, on void too."""
        sums: dict[int, int] = {}
        for (cluster, _), pixels in self.pixels.items():
            _add(sums, cluster, pixels)
        return sums


def count_clusters(tables: Iterable[ImageTable]) -> ClusterCounts:
    """Return the sums over the tables of images."""
    counts = ClusterCounts()
    for table in tables:
        overlap = table.overlap
        rows = (overlap.truth.tolist(), overlap.predicted.tolist(), overlap.pixels.tolist())
        for true, segment, pixels in zip(*rows, strict=True):
            if segment in table.predicted:
                true_class = table.truth[true].category if true in table.truth else NONE
                _add(counts.pixels, (table.predicted[segment], true_class), pixels)
        for cluster in table.predicted.values():
            _add(counts.segments, cluster, 1)
        for cluster in table.detections.tolist():
            _add(counts.instances, cluster, 1)
    return counts


def unmatched_clusters(
    counts: ClusterCounts, clusters: PanopticSet, mapping: ClusterMapping
) -> dict[str, Any]:
    """Return what clusters without a class hold.

    Returns:
        For ``things`` and ``stuff``: ``clusters`` (how many there are), ``unmatched`` (how many
        of them have no class), ``names`` of the unmatched that hold a pixel, from large to
        small, and their share of ``pixels``, ``segments`` and ``instances`` (things only) of
        all that was predicted of the kind, in percent; None where nothing was.
    """

    def percent(sums: Mapping[int, int], part: Iterable[int], every: Iterable[int]) -> Cell:
        total = sum(sums.get(cluster, 0) for cluster in every)
        return 100.0 * sum(sums.get(c, 0) for c in part) / total if total else None

    areas = counts.of_cluster()
    result: dict[str, Any] = {}
    for kind, ids in (("things", clusters.things), ("stuff", clusters.stuff)):
        without = [cluster for cluster in ids if cluster not in mapping.all]
        used = sorted((c for c in without if c in areas), key=lambda c: (-areas[c], c))
        result[kind] = {
            "clusters": len(ids),
            "unmatched": len(without),
            "names": [clusters.names[c] for c in used],
            "pixels": percent(areas, without, ids),
            "segments": percent(counts.segments, without, ids),
        }
    things = [c for c in clusters.things if c not in mapping.all]
    result["things"]["instances"] = percent(counts.instances, things, clusters.things)
    return result


def clusters_csv(
    counts: ClusterCounts, clusters: PanopticSet, truth: Truth, mapping: ClusterMapping
) -> str:
    """Return the content of ``clusters.csv``: a line for each (cluster, class) that occurs.

    Lines go from the cluster with most pixels to that with fewest, and within a cluster likewise;
    ``share`` is the percentage of the cluster's pixels, ``mapped`` 1 on the class that the cluster
    was given.
    """
    areas, given, things = counts.of_cluster(), mapping.all, set(clusters.things)
    votes = {(cluster, true_class): number for cluster, true_class, number in mapping.votes}
    cells = set(counts.pixels) | set(votes) | set(given.items())
    order = sorted(cells, key=lambda c: (-areas.get(c[0], 0), c[0], -counts.pixels.get(c, 0), c[1]))
    rows: list[list[Cell]] = []
    for cluster, true_class in order:
        pixels, known = counts.pixels.get((cluster, true_class), 0), true_class != NONE
        rows.append(
            [
                cluster,
                clusters.names[cluster],
                "thing" if cluster in things else "stuff",
                true_class if known else "",
                truth.names[true_class] if known else UNLABELLED,
                pixels,
                100.0 * pixels / areas[cluster] if areas.get(cluster) else 0.0,
                votes.get((cluster, true_class), 0),
                int(given.get(cluster) == true_class),
            ]
        )
    return csv_text(CLUSTER_COLUMNS, rows)


def _add(sums: dict[Any, int], key: Any, value: int) -> None:
    sums[key] = sums.get(key, 0) + value


@dataclass(frozen=True)
class ImageScore:
    """One image; percentages, None where undefined.

    Args:
        image_id: The image.
        pq: PQ, the mean over the classes that occur in the image.
        accuracy: Share of its true pixels with the right class.
        missed: Share of its true pixels without any class.
    """

    image_id: int
    pq: float | None
    accuracy: float | None
    missed: float | None


def image_scores(counts: Sequence[ImageCounts], truth: Truth) -> list[ImageScore]:
    """Return the figures of every image, in the order of ``counts``."""
    rows = []
    for image in counts:
        true, found, pixels = image.confusion
        total = int(pixels.sum())
        shares = [int(pixels[found == other].sum()) for other in (true, NONE)]
        right, missed = (100.0 * part / total if total else None for part in shares)
        quality: Any = mean_quality(image.panoptic, truth.names)["PQ"]
        pq = quality if PANOPTIC in truth.tasks else None
        rows.append(ImageScore(image.image_id, pq, right, missed))
    return rows


def ranked(scores: Sequence[ImageScore], by: str) -> list[ImageScore]:
    """Return the images that have a figure from worst to best, ties by image id.

    Args:
        scores: From ``image_scores``.
        by: ``PQ``, ``accuracy`` or ``missed`` (most missed first).

    Examples:
        >>> rows = [ImageScore(7, 50.0, 20.0, 0.0), ImageScore(3, 50.0, 90.0, 60.0)]
        >>> [[row.image_id for row in ranked(rows, by)] for by in ("PQ", "accuracy", "missed")]
        [[3, 7], [7, 3], [3, 7]]
    """
    sign = -1.0 if by == "missed" else 1.0
    known = [(sign * value, row) for row in scores if (value := getattr(row, KEYS[by])) is not None]
    return [row for _, row in sorted(known, key=lambda pair: (pair[0], pair[1].image_id))]


def images_csv(scores: Sequence[ImageScore], truth: Truth) -> str:
    """Return the content of ``images.csv``: a line per image, in the order given."""
    rows = [[s.image_id, truth.stems[s.image_id], s.pq, s.accuracy, s.missed] for s in scores]
    return csv_text(["image_id", "name", *KEYS], rows)


def worst_images(
    scores: Sequence[ImageScore],
    truth: Truth,
    predicted: Predictions,
    mapping: ClusterMapping,
    folder: Path,
) -> dict[str, Any]:
    """Write the maps of the images to be drawn and return the content of ``worst.json``.

    Maps that an earlier evaluation of the folder left are removed; other files in ``worst/`` stay.

    Args:
        scores: From ``image_scores``.
        truth: Read again for the chosen images.
        predicted: The same.
        mapping: Cluster -> class, for the predicted segments.
        folder: Gets ``worst/<image id>_truth.png`` and ``_prediction.png``.

    Returns:
        ``ranked_by``; ``worst``, ``median`` and ``best``: image ids, at most ``SHOWN`` each and
        no image in two; ``rankings``: for each figure the ids of the worst; ``classes``: id ->
        ``name`` and ``isthing``; ``images``: id -> figures, ``name``, ``png`` (as in
        ``panoptic.json``), ``whole_image`` (False if a crop was scored), ``truth`` and
        ``prediction`` (maps, relative to the folder; None without a prediction) and segment id
        -> class of both (None = the cluster has no class).

    Raises:
        UserError: if a map cannot be read again, written or removed.
    """
    rankings = {key: [s.image_id for s in ranked(scores, key)] for key in KEYS}
    by = next((key for key in KEYS if rankings[key]), "PQ")
    chosen = dict(zip(("worst", "median", "best"), _spread(rankings[by], SHOWN), strict=True))
    by_id = {score.image_id: score for score in scores}
    shown = sorted(i for ids in chosen.values() for i in ids)
    images = {str(i): _image(by_id[i], truth, predicted, mapping, folder) for i in shown}
    kept = {folder / image[name] for image in images.values() for name in MAPS if image[name]}
    for path in sorted((folder / FOLDER).glob("*.png")):
        if re.fullmatch(rf"\d+_({'|'.join(MAPS)})\.png", path.name) and path not in kept:
            remove_file(path)
    return {
        "ranked_by": by,
        **chosen,
        "rankings": {key: ids[:SHOWN] for key, ids in rankings.items()},
        "classes": {
            str(c): {"name": name, "isthing": int(c in truth.things)}
            for c, name in truth.names.items()
        },
        "images": images,
    }


def _spread(order: Sequence[int], shown: int) -> tuple[list[int], list[int], list[int]]:
    """Return the first, middle and last ids of a ranking, the last reversed; none twice.

    Examples:
        >>> _spread(range(10), 2)
        ([0, 1], [4, 5], [9, 8])
        >>> _spread([5, 6, 7, 8], 3)
        ([5], [6], [8])
    """
    ids = list(order)
    if len(ids) < 3:
        return ids[:1], [], ids[1:]
    count = min(shown, len(ids) // 3)
    middle = (len(ids) - count) // 2
    return ids[:count], ids[middle : middle + count], ids[::-1][:count]


def _image(
    score: ImageScore, truth: Truth, predicted: Predictions, mapping: ClusterMapping, folder: Path
) -> dict[str, Any]:
    image_id, clusters = score.image_id, predicted.panoptic
    true = truth.read(image_id)
    segments = clusters.segments.get(image_id)
    maps = {"truth": true.ids}
    if segments is not None:
        maps["prediction"] = clusters.read_ids(image_id)
    paths = {name: f"{FOLDER}/{image_id}_{name}.png" for name in maps}
    for name, path in paths.items():
        write_panoptic_png(folder / path, maps[name])
    present = set(np.unique(true.ids).tolist())
    return {
        **{key: getattr(score, name) for key, name in KEYS.items()},
        "name": truth.stems[image_id],
        "png": clusters.file_names.get(image_id),
        "whole_image": true.ids.shape == tuple(truth.sizes[image_id]),
        "truth": paths["truth"],
        "prediction": paths.get("prediction"),
        "true_segments": {
            str(s): info.category for s, info in true.segments.items() if s in present
        },
        "segments": {str(s): mapping.all.get(i.category) for s, i in (segments or {}).items()},
    }
