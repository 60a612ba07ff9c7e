"""Which classes lie under each cluster, and what clusters without a class hold.

Counted from the tables of one pass, before any mapping, so it is the same under every protocol;
only the class that a cluster was given differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from u2seg.evaluation import csvfile
from u2seg.evaluation.files import PanopticSet
from u2seg.evaluation.gather import NONE, ImageTable
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.truth import Truth

COLUMNS = (
    "cluster_id", "cluster", "kind", "class_id", "class", "pixels", "share", "votes", "mapped",
)  # fmt: skip
UNLABELLED = "(void)"
"""Name of true pixels without a class in ``clusters.csv``."""

Cell = tuple[int, int]
"""(cluster, class); both category ids of their files, the class ``NONE`` for void."""


@dataclass
class ClusterCounts:
    """Sums over images.

    Args:
        pixels: (Cluster, class) -> pixels of predicted segments, crowds included.
        segments: Cluster -> predicted segments.
        instances: Cluster -> predicted instances.
    """

    pixels: dict[Cell, int] = field(default_factory=dict)
    segments: dict[int, int] = field(default_factory=dict)
    instances: dict[int, int] = field(default_factory=dict)

    def of_cluster(self) -> dict[int, int]:
        """Return cluster -> all its pixels, on void too."""
        sums: dict[int, int] = {}
        for (cluster, _), pixels in self.pixels.items():
            sums[cluster] = sums.get(cluster, 0) + pixels
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
        for cluster in table.detections.cluster.tolist():
            _add(counts.instances, cluster, 1)
    return counts


def unmatched_clusters(
    counts: ClusterCounts, clusters: PanopticSet, mapping: ClusterMapping
) -> dict[str, Any]:
    """Return what clusters without a class hold.

    Args:
        counts: From ``count_clusters``.
        clusters: The predictions; names the clusters.
        mapping: Cluster -> class.

    Returns:
        For ``things`` and ``stuff``: ``clusters`` (how many there are), ``unmatched`` (how many
        of them have no class), ``names`` of the unmatched that hold a pixel, from large to
        small, and their share of ``pixels``, ``segments`` and ``instances`` (things only) of
        all that was predicted of the kind, in percent; None where nothing was.
    """
    areas = counts.of_cluster()
    result: dict[str, Any] = {}
    for kind, ids in (("things", clusters.things), ("stuff", clusters.stuff)):
        without = [cluster for cluster in ids if cluster not in mapping.all]
        used = sorted((c for c in without if c in areas), key=lambda c: (-areas[c], c))
        row: dict[str, Any] = {
            "clusters": len(ids),
            "unmatched": len(without),
            "names": [clusters.names[c] for c in used],
            "pixels": _percent(areas, without, ids),
            "segments": _percent(counts.segments, without, ids),
        }
        if kind == "things":
            row["instances"] = _percent(counts.instances, without, ids)
        result[kind] = row
    return result


def clusters_csv(
    counts: ClusterCounts,
    clusters: PanopticSet,
    truth: Truth,
    mapping: ClusterMapping,
) -> str:
    """Return the content of ``clusters.csv``: a line for each (cluster, class) that occurs.

    Args:
        counts: From ``count_clusters``.
        clusters: The predictions; names the clusters.
        truth: Names the classes.
        mapping: Cluster -> class, and the votes that made it.

    Returns:
        Lines from the cluster with most pixels to that with fewest, and within a cluster
        likewise; ``share`` is the percentage of the cluster's pixels, ``mapped`` 1 on the class
        that the cluster was given.
    """
    areas = counts.of_cluster()
    given = mapping.all
    votes = {(cluster, true_class): number for cluster, true_class, number in mapping.votes}
    cells = set(counts.pixels) | set(votes) | set(given.items())
    order = sorted(cells, key=lambda c: (-areas.get(c[0], 0), c[0], -counts.pixels.get(c, 0), c[1]))
    things = set(clusters.things)
    rows: list[list[csvfile.Cell]] = []
    for cluster, true_class in order:
        pixels = counts.pixels.get((cluster, true_class), 0)
        share = 100.0 * pixels / areas[cluster] if areas.get(cluster) else 0.0
        rows.append(
            [
                cluster,
                clusters.names[cluster],
                "thing" if cluster in things else "stuff",
                "" if true_class == NONE else true_class,
                UNLABELLED if true_class == NONE else truth.names[true_class],
                pixels,
                share,
                votes.get((cluster, true_class), 0),
                int(given.get(cluster) == true_class),
            ]
        )
    return csvfile.csv_text(COLUMNS, rows)


def _add(sums: dict[Any, int], key: Any, value: int) -> None:
    sums[key] = sums.get(key, 0) + value


def _percent(sums: Mapping[int, int], part: Iterable[int], every: Iterable[int]) -> float | None:
    total = sum(sums.get(cluster, 0) for cluster in every)
    return 100.0 * sum(sums.get(c, 0) for c in part) / total if total else None
