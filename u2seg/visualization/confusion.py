"""``clusters.csv`` as a picture: what lies under the clusters with most pixels."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.visualization.matrix import matrix_chart
from u2seg.visualization.statistics import percent
from u2seg.visualization.text import printable

MAX_ROWS = 28
MAX_COLUMNS = 24
OTHER = "other classes"
_LARGEST = 64 << 20
_NOTE = 24


def read_lines(path: Path) -> list[dict[str, str]]:
    """Return the lines of a CSV file by column; UserError if it is unreadable or too large."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is larger than {_LARGEST >> 20} MiB")
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return list(csv.DictReader(io.StringIO(text)))


def confusion_chart(lines: Sequence[Mapping[str, str]]) -> str:
    """Return the clusters with most pixels against the classes that lie under them.

    Args:
        lines: Of ``clusters.csv``, in its order: clusters from large to small.

    Returns:
        An ``<svg>`` element: at most 28 clusters and 24 classes, those with most pixels under
        the clusters shown; the rest of a cluster is in the last column. A frame marks the class
        that a cluster was given; behind a row stand its share of all predicted pixels and that
        class.

    Raises:
        KeyError, ValueError: if a column is missing or no number.
    """
    areas: dict[str, int] = {}
    for line in lines:
        areas[line["cluster"]] = areas.get(line["cluster"], 0) + int(line["pixels"])
    rows = [name for name, pixels in areas.items() if pixels][:MAX_ROWS]
    shown = [line for line in lines if line["cluster"] in set(rows)]
    columns = _columns(shown)
    place = {name: number for number, name in enumerate(columns)}
    rest = len(columns)
    shares: dict[tuple[int, int], float] = {}
    marked = []
    for line in shown:
        row, column = rows.index(line["cluster"]), place.get(line["class"], rest)
        share = int(line["pixels"]) / areas[line["cluster"]]
        shares[row, column] = shares.get((row, column), 0.0) + share
        if line["mapped"] == "1":
            marked.append((row, column))
    total = sum(areas.values()) or 1
    names = [printable(name) for name in columns]
    if any(column == rest for _, column in [*shares, *marked]):
        names.append(OTHER)
    given = {line["cluster"]: line["class"] for line in shown if line["mapped"] == "1"}
    notes = [
        f"{percent(areas[name] / total)} → {_cut(printable(given.get(name, 'no class')))}"
        for name in rows
    ]
    return matrix_chart([printable(name) for name in rows], names, shares, marked, notes)


def _columns(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the classes with most pixels, those of mapped clusters first, in a fixed order."""
    weights: dict[str, int] = {}
    for line in lines:
        weights[line["class"]] = weights.get(line["class"], 0) + int(line["pixels"])
    largest = sorted(weights, key=lambda name: (-weights[name], name))[:MAX_COLUMNS]
    given = [line["class"] for line in lines if line["mapped"] == "1"]
    first = [name for name in dict.fromkeys(given) if name in largest]
    return [*first, *(name for name in largest if name not in first)]


def _cut(name: str) -> str:
    return name if len(name) <= _NOTE else name[: _NOTE - 1] + "…"


def unmatched_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return in words what clusters without a class hold.

    Args:
        metrics: Content of ``metrics.json``; without ``unmatched_clusters`` nothing is said.

    Raises:
        KeyError, TypeError: if the block is not what an evaluation writes.

    Examples:
        >>> row = {"clusters": 9, "unmatched": 2, "names": ["thing_7"], "pixels": 2.04,
        ...        "segments": 5.0, "instances": None}
        >>> unmatched_sentences({"unmatched_clusters": {"things": row}})
        ['2 of 9 thing clusters have no class; they hold 2.0 % of the pixels and 5.0 % of the \
segments predicted as things: thing_7.']
    """
    block = metrics.get("unmatched_clusters")
    if not isinstance(block, Mapping):
        return []
    found = []
    for kind in ("things", "stuff"):
        row = block.get(kind)
        if not row or not row["clusters"]:
            continue
        which = f"{row['unmatched']} of {row['clusters']} {kind.removesuffix('s')} clusters"
        text = f"{which} have no class"
        if row["pixels"] is not None and row["unmatched"]:
            text += (
                f"; they hold {row['pixels']:.1f} % of the pixels and {row['segments']:.1f} % of "
                f"the segments predicted as {kind}"
            )
            names = [printable(str(name)) for name in row["names"]]
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            text += f": {', '.join(names[:12])}{more}" if names else ""
        found.append(text + ".")
    return found
