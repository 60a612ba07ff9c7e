"""Score folders of label maps without things, such as the ``semantics`` folder of a labelling run.

Clusters are matched to classes over all scored images, as in STEGO's evaluation. Two controls say
what the protocol gives for nothing: a random cluster for every pixel, and one cluster for all.

Shapes: K clusters, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.metrics.matching import Votes, match
from u2seg.evaluation.metrics.semantic import class_iou, mean_iou, pixel_accuracy
from u2seg.evaluation.report.table import align
from u2seg.evaluation.truth.folders import find_maps, read_class_list
from u2seg.io.png import read_label_png
from u2seg.io.progress import Bar

IDS = 256
"""An 8-bit map holds at most so many clusters or classes."""
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MapTruth:
    """True label maps: stem -> PNG of class indices, C names, and the index not scored."""

    files: dict[str, Path]
    names: tuple[str, ...]
    ignore: int


def read_map_truth(folder: Path, classes: Path) -> MapTruth:
    """Return the truth of a folder of 8-bit PNGs of class indices, and their JSON."""
    names, ignore = read_class_list(classes)
    return MapTruth(find_maps(folder, ".png", "8-bit label maps"), names, ignore)


def score_maps(predictions: Path, truth: MapTruth, matching: str = "hungarian") -> dict[str, Any]:
    """Return the scores of a folder of label maps.

    Args:
        predictions: PNGs of cluster ids; each true map needs one of the same stem and size.
        truth: What is right.
        matching: A key of ``matching.SOLVERS``; fitted on these images.

    Returns:
        ``mIoU``, ``mIoU_all_classes`` (classes that are nowhere count with 0, as in STEGO's
        evaluation) and ``pixel_accuracy`` in percent, ``per_class`` (IoU; None = nowhere),
        ``mapping`` (class index of every cluster, -1 = none), ``images``, ``matching``.
    """
    found = find_maps(predictions, ".png", "8-bit label maps")
    missing = sorted(set(truth.files) - set(found))
    if missing:
        raise UserError(
            f"{predictions} has no map of {len(missing)} of {len(truth.files)} images, the first "
            f"is {missing[0]}.png: label the images that the truth is of"
        )
    return _score(truth, lambda stem, _: read_label_png(found[stem]), matching)


def score_controls(
    truth: MapTruth, matching: str = "hungarian", seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the scores of maps that know nothing: ``random`` and ``single``, as ``score_maps``."""
    rng = np.random.default_rng(seed)
    count = len(truth.names)
    return {
        "random": _score(
            truth, lambda _, size: rng.integers(0, count, size, dtype=np.uint8), matching
        ),
        "single": _score(truth, lambda _, size: np.zeros(size, dtype=np.uint8), matching),
    }


def evaluate_maps(
    predictions: Sequence[str], truth: str, classes: str, matching: str, controls: bool
) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the scores of several folders, repetitions of one another, and their table.

    With ``controls`` also those of ``random`` and ``single``.
    """
    if len(set(predictions)) < len(predictions):
        raise UserError(f"a folder is given twice: {' '.join(predictions)}")
    right = read_map_truth(Path(truth), Path(classes))
    scores = {name: score_maps(Path(name), right, matching) for name in predictions}
    extra = score_controls(right, matching) if controls else {}
    table = format_map_scores({**scores, **extra}, predictions)
    images = len(right.files)
    head = f"{images} images, {len(right.names)} classes; {matching} matching, fitted on them"
    return {**scores, **extra}, f"{head}\n\n{table}"


def _score(
    truth: MapTruth, predict: Callable[[str, tuple[int, ...]], Labels], matching: str
) -> dict[str, Any]:
    votes = np.zeros((IDS, len(truth.names)), dtype=np.int64)
    for stem, path in Bar(sorted(truth.files.items()), desc="maps", delay=5):
        right = read_label_png(path)
        votes += _count(truth, path, right, predict(stem, right.shape))
    mapping = match(matching, votes)
    confusion = np.zeros((len(truth.names), len(truth.names) + 1), dtype=np.int64)
    np.add.at(confusion.T, mapping, votes)  # -1 is the last column: no class
    per_class = [None if np.isnan(iou) else float(iou) for iou in class_iou(confusion)]
    return {
        "mIoU": mean_iou(confusion),
        "mIoU_all_classes": mean_iou(confusion, absent=True),
        "pixel_accuracy": pixel_accuracy(confusion),
        "per_class": dict(zip(truth.names, per_class, strict=True)),
        "mapping": mapping[: 1 + int(np.flatnonzero(votes.sum(axis=1)).max(initial=-1))].tolist(),
        "images": len(truth.files),
        "matching": matching,
    }


def _count(truth: MapTruth, path: Path, right: Labels, predicted: Labels) -> Votes:
    if predicted.shape != right.shape:
        raise UserError(
            f"{path} is {right.shape[1]}x{right.shape[0]} pixels, its predicted map "
            f"{predicted.shape[1]}x{predicted.shape[0]}"
        )
    scored = right != truth.ignore
    classes = len(truth.names)
    if right[scored].size and int(right[scored].max()) >= classes:
        raise UserError(
            f"{path} holds class {int(right[scored].max())}, expected 0..{classes - 1} or "
            f"{truth.ignore} (not scored)"
        )
    pairs = predicted[scored].astype(np.int64) * classes + right[scored]
    return np.bincount(pairs, minlength=IDS * classes).reshape(IDS, classes)


def format_map_scores(scores: dict[str, dict[str, Any]], runs: Sequence[str]) -> str:
    """Return scores by name as a table, with mean and standard deviation over ``runs``, if several.

    Examples:
        >>> row = {"mIoU": 20.0, "mIoU_all_classes": 10.0, "pixel_accuracy": 50.0,
        ...        "per_class": {"sky": None}}
        >>> print(format_map_scores({"a": row, "b": {**row, "mIoU": 22.0}}, ["a", "b"]))
                  mIoU  absent as 0  pixel accuracy  sky
        a        20.00        10.00           50.00    -
        b        22.00        10.00           50.00    -
        mean     21.00        10.00           50.00    -
        std (2)   1.41         0.00            0.00    -
    """
    first = next(iter(scores.values()))
    figures = {
        "mIoU": "mIoU",
        "mIoU_all_classes": "absent as 0",
        "pixel_accuracy": "pixel accuracy",
    }
    if all(score["mIoU"] == score["mIoU_all_classes"] for score in scores.values()):
        del figures["mIoU_all_classes"]
    rows = {
        name: [*(score[key] for key in figures), *score["per_class"].values()]
        for name, score in scores.items()
    }
    if len(runs) > 1:
        columns = list(zip(*(rows[name] for name in runs), strict=True))
        rows["mean"] = [_over(column, np.mean) for column in columns]
        rows[f"std ({len(runs)})"] = [_over(column, _spread) for column in columns]
    header = ["", *figures.values(), *first["per_class"]]
    return align(header, [[name, *cells] for name, cells in rows.items()])


def _over(column: Sequence[float | None], summary: Callable[[list[float]], Any]) -> float | None:
    known = [value for value in column if value is not None]
    return float(summary(known)) if len(known) == len(column) else None


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1))
