"""What ``clusters/quality.json`` says, for the report: rows and warnings; no truth is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from u2seg.visualization.concerns import Concern
from u2seg.visualization.statistics import percent

MAX_PAIRS = 8


def quality_rows(quality: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of every figure.

    Args:
        quality: Content of ``quality.json``.

    Raises:
        KeyError, TypeError, ValueError: if it is not what the cluster stage writes.

    Examples:
        >>> found = {"silhouette": None, "margin": None, "empty": [], "near_duplicates": [],
        ...          "near_duplicate_pairs": 0, "sample": 2, "inertia": 0.5, "clusters": 1,
        ...          "sizes": {"min": 2, "median": 2.0, "max": 2, "effective": 1.0}}
        >>> quality_rows(found)[0]
        ('masks per cluster', '2 to 2, median 2; as uneven as 1.0 clusters of equal size')
    """
    sizes, margin = quality["sizes"], quality["margin"]
    rows = [
        (
            "masks per cluster",
            f"{sizes['min']:,} to {sizes['max']:,}, median {sizes['median']:g}; as uneven as "
            f"{sizes['effective']:.1f} clusters of equal size",
        ),
        ("empty clusters", f"{len(quality['empty'])} of {quality['clusters']}"),
        ("pairs of near-duplicates", _pairs(quality)),
    ]
    if quality["silhouette"] is not None:
        rows.append(
            (
                "silhouette (-1 to 1)",
                f"{quality['silhouette']:.3f}, mean of {quality['sample']:,} masks",
            )
        )
    if margin:
        rows.append(
            (
                "margin (0 to 1)",
                f"{margin['mean']:.3f}: so much nearer is the own centroid than the next; below "
                f"0.05 for {percent(margin['below_0.05'])} of the masks",
            )
        )
    rows.append(("inertia", f"{quality['inertia']:.6g}"))
    return rows


def quality_concerns(quality: Mapping[str, Any]) -> list[Concern]:
    """Return a warning about clusters that hardly differ; empty ones are warned about elsewhere.

    Args:
        quality: Content of ``quality.json``.

    Raises:
        KeyError, TypeError, ValueError: if it is not what the cluster stage writes.
    """
    if not int(quality["near_duplicate_pairs"]):
        return []
    text = (
        f"Clusters that hardly differ, in pairs: {_pairs(quality)}. Fewer clusters "
        "(U2SEG.CLUSTERS.NUM_CLUSTERS) may do, or evaluation merges them (majority matching)."
    )
    return [Concern("amber", text)]


def _pairs(quality: Mapping[str, Any]) -> str:
    count = int(quality["near_duplicate_pairs"])
    if not count:
        return "0"
    shown = [f"{int(i)} and {int(j)}" for i, j, _ in quality["near_duplicates"][:MAX_PAIRS]]
    rest = f" and {count - len(shown):,} more" if count > len(shown) else ""
    return f"{count:,} ({', '.join(shown)}{rest})"
