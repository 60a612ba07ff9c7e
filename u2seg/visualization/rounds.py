"""Rounds of a recipe in the report: what each changed in the labels, and what it brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from u2seg.io.jsonfile import read_json_object
from u2seg.visualization.evaluation import number_text
from u2seg.visualization.samples import Sample, label_samples
from u2seg.visualization.sources import (
    LabelRun,
    Notes,
    TrainRun,
    at,
    read_labels,
    read_timings,
    read_train_run,
)

_COUNTS = {
    "predicted": "things by score",
    "agreed": "by agreement",
    "kept": "kept",
    "replaced": "replaced",
    "stuff_changed": "stuff pixels changed",
}
_FIGURES = {
    "PQ": "panoptic.all.PQ",
    "mIoU": "semantic.mIoU",
    "mask AR100": "class_agnostic.segm.AR100",
}


@dataclass
class Rounds:
    """A row per round, and how some labels changed; ``iterations`` is 0 if one is not known."""

    agreement: bool = False
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    iterations: int = 0


def read_rounds(
    summary: Path, run: LabelRun | None, count: int, notes: Notes, agreement: bool = False
) -> Rounds:
    """Return the section of a run, without rows if there was no round."""
    found = Rounds(agreement)
    if not summary.is_file():
        return found
    none: list[dict[str, Any]] = []
    listed = notes.attempt("rounds", none, _listed, summary)
    if len(listed) < 2:  # the first training alone
        return found
    notes.attempt("figures of the rounds", None, _add_rows, found, listed)
    if found.rows:
        _add_costs(found, summary.parent, notes)
    if run and run.labels:
        folders = {"first label": run.labels}
        for entry in listed[1:]:
            root = summary.parent / "rounds" / str(entry["round"]) / "labels"
            labels = read_labels(root, notes) if root.is_dir() else None
            folders |= {f"round {entry['round']}": labels} if labels else {}
        found.samples = label_samples(run, folders, count, notes, stages=False)
    return found


def _listed(path: Path) -> list[dict[str, Any]]:
    return [dict(entry) for entry in read_json_object(path, "rounds")["rounds"]]


def _add_rows(found: Rounds, listed: list[dict[str, Any]]) -> None:
    """Fill the table: the round, rule and student if they are named, counts, figures."""
    tables = [_cells(entry, found.agreement) for entry in listed]
    own = [f"{name}, own labels" for name in _FIGURES]
    order = ["round", "relabel", "student", *_COUNTS.values(), *_FIGURES, *own]
    found.columns = [name for name in order if any(name in table for table in tables)]
    found.rows = [[table.get(name, "–") for name in found.columns] for table in tables]


def _cells(entry: Mapping[str, Any], agreement: bool) -> dict[str, str]:
    cells = {"round": str(entry["round"])}
    for key in ("relabel", "student"):
        if entry.get(key):
            cells[key] = str(entry[key])
    for key, name in _COUNTS.items():
        if key in entry["labels"]:
            cells[name] = f"{entry['labels'][key]:,}"
    for name, path in _FIGURES.items():
        value = at(entry, path)
        if value is not None:
            cells[f"{name}, own labels" if agreement else name] = number_text(value)
    return cells


def _add_costs(found: Rounds, root: Path, notes: Notes) -> None:
    counts = []
    for number in (row[0] for row in found.rows):
        home = root if number == "0" else root / "rounds" / number
        before = "" if number == "0" else f"round {number}: "
        relabelled = read_timings(home / "labels", notes) if before else {}
        if relabelled:
            found.timings[f"{before}relabel"] = sum(relabelled.values())
        logged = (home / "train" / "metrics.json").is_file()
        run = read_train_run(home / "train", notes) if logged else TrainRun()
        found.timings |= {f"{before}{name}": s for name, s in run.timings.items()}
        counts.append(run.iterations)
    found.iterations = sum(counts) if all(counts) else 0
