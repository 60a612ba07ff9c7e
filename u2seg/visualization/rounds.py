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
from u2seg.visualization.sources import (
    LabelRun,
    Notes,
    PanopticFolder,
    TrainRun,
    read_panoptic_folder,
    read_timings,
    read_train_run,
)
from u2seg.visualization.text import printable

COLUMNS = (
    "round", "things by score", "by agreement", "kept", "replaced", "stuff pixels changed",
    "PQ", "mIoU", "mask AR100",
)  # fmt: skip
AGREEMENT_COLUMNS = (*COLUMNS[:-3], *(f"{name}, own labels" for name in COLUMNS[-3:]))
"""Without ground truth: each round is scored against labels of its own."""
_COUNTS = ("predicted", "agreed", "kept", "replaced", "stuff_changed")
_FIGURES = (("panoptic", "all", "PQ"), ("semantic", "mIoU"), ("class_agnostic", "segm", "AR100"))


@dataclass
class Rounds:
    """The section: a row per round, and how the labels of some photographs changed.

    Args:
        agreement: Whether each round was compared with its own labels, not with ground truth.
        rows: Texts of ``columns`` per round, the first training included.
        samples: Photographs with their labels of each round.
        timings: Step -> seconds of all trainings and relabellings.
        iterations: Of all trainings together; 0 if that of one is not known.
    """

    agreement: bool = False
    rows: list[tuple[str, ...]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    iterations: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Header of ``rows``."""
        return AGREEMENT_COLUMNS if self.agreement else COLUMNS


def read_rounds(summary: Path, run: LabelRun | None, count: int, notes: Notes) -> Rounds:
    """Return the section of a run, without rows if there was no round.

    Args:
        summary: ``rounds.json`` of ``u2seg run``.
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
    if found.rows:
        _add_costs(found, summary.parent, notes)
    if run and run.panoptic:
        folders = {"first label": run.panoptic}
        for entry in listed[1:]:
            name = f"round {entry['round']}"
            root = summary.parent / "rounds" / str(entry["round"]) / "labels" / "panoptic"
            folders[name] = read_panoptic_folder(root, notes)
        found.samples = _samples(run, folders, count, notes)
    return found


def last_iteration(run: TrainRun) -> int:
    """Return how many iterations a training went, 0 if its curves do not say.

    Examples:
        >>> last_iteration(TrainRun(curves={"total_loss": ([0.0, 19.0], [3.0, 2.0])}))
        20
    """
    total = run.curves.get("total_loss")
    return round(total[0][-1]) + 1 if total and total[0] else 0


def _add_costs(found: Rounds, root: Path, notes: Notes) -> None:
    counts = []
    for number in (row[0] for row in found.rows):
        home = root if number == "0" else root / "rounds" / number
        before = "" if number == "0" else f"round {number}: "
        if before:
            relabelled = read_timings(home / "labels", notes)
            if relabelled:
                found.timings[f"{before}relabel"] = sum(relabelled.values())
        logged = (home / "train" / "metrics.json").is_file()
        run = read_train_run(home / "train", notes) if logged else TrainRun()
        found.timings |= {f"{before}{name}": s for name, s in run.timings.items()}
        counts.append(last_iteration(run))
    found.iterations = sum(counts) if all(counts) else 0


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
