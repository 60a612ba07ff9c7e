"""Rounds of self-training in the report: what each changed in the labels, and what it brought."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from u2seg.io.jsonfile import read_json_object
from u2seg.visualization.samples import (
    Picture,
    Sample,
    data_uri,
    panoptic_picture,
    spread,
    thumbnail,
)
from u2seg.visualization.sources import LabelRun, Notes, PanopticFolder, read_panoptic_folder
from u2seg.visualization.text import printable

COLUMNS = (
    "round", "things by score", "by agreement", "kept", "replaced", "stuff pixels changed",
    "PQ", "mIoU", "mask AR100",
)  # fmt: skip
_COUNTS = ("predicted", "agreed", "kept", "replaced", "stuff_changed")
_FIGURES = (("panoptic", "all", "PQ"), ("semantic", "mIoU"), ("class_agnostic", "segm", "AR100"))


@dataclass
class Rounds:
    """The section: a row per round, and how the labels of some photographs changed."""

    columns: tuple[str, ...] = COLUMNS
    rows: list[tuple[str, ...]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def read_rounds(summary: Path, run: LabelRun | None, count: int, notes: Notes) -> Rounds:
    """Return the section of a run, without rows if there was no round.

    Args:
        summary: ``rounds.json`` of ``tools/run_pipeline.py``.
        run: The labels of the first training.
        count: Show at most so many photographs.
        notes: Gets a sentence for what cannot be read.
    """
    found = Rounds()
    if not summary.is_file():
        return found
    listed: list[dict[str, Any]] = notes.attempt("rounds", [], _listed, summary)
    if len(listed) < 2:  # the first training alone
        return found
    found.rows = notes.attempt("figures of the rounds", [], _rows, listed)
    if run and run.panoptic:
        folders = {"first label": run.panoptic}
        for entry in listed[1:]:
            name = f"round {entry['round']}"
            root = summary.parent / "rounds" / str(entry["round"]) / "labels" / "panoptic"
            folders[name] = read_panoptic_folder(root, notes)
        found.samples = _samples(run, folders, count, notes)
    return found


def _listed(path: Path) -> list[dict[str, Any]]:
    return [dict(entry) for entry in read_json_object(path, "rounds")["rounds"]]


def _rows(listed: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for entry in listed:
        counts = entry["labels"]
        cells = [str(entry["round"])]
        cells += [f"{counts[key]:,}" if key in counts else "–" for key in _COUNTS]
        cells += [_figure(entry, path) for path in _FIGURES]
        rows.append(tuple(cells))
    return rows


def _figure(entry: dict[str, Any], path: tuple[str, ...]) -> str:
    """Return a percentage at a path of a metrics block, a dash where it is undefined.

    Examples:
        >>> _figure({"panoptic": {"all": {"PQ": 12.345}}}, ("panoptic", "all", "PQ"))
        '12.3'
        >>> _figure({"panoptic": None}, ("panoptic", "all", "PQ"))
        '–'
    """
    value: Any = entry
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return "–" if value is None else f"{value:.1f}"


def _samples(
    run: LabelRun, folders: dict[str, PanopticFolder], count: int, notes: Notes
) -> list[Sample]:
    samples = []
    for record in spread(run.images, count):
        name = printable(record.file_name)
        photo = notes.attempt(f"image {name}", None, thumbnail, run.image_root, record)
        if photo is None:
            continue
        pictures: list[Picture | None] = [Picture("photograph", data_uri(photo))]
        for caption, folder in folders.items():
            args = (folder, record.file_name, photo, caption)
            what = f"{caption} of {name}"
            pictures.append(notes.attempt(what, None, panoptic_picture, *args))
        size = f"{record.width} × {record.height}"
        samples.append(Sample(name, size, [p for p in pictures if p is not None]))
    return samples
