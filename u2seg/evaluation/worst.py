"""Which images went worst, and all that is needed to draw them.

The pictures need no reader of the truth: the id maps of the chosen images are written beside
``worst.json``, which names the class of every segment, so the report works from files alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.evaluation.csvfile import csv_text
from u2seg.evaluation.figures import ImageCounts
from u2seg.evaluation.files import Predictions
from u2seg.evaluation.gather import NONE
from u2seg.evaluation.mapping import ClusterMapping
from u2seg.evaluation.panoptic import mean_quality
from u2seg.evaluation.truth import PANOPTIC, Truth
from u2seg.io.atomic import remove_file
from u2seg.io.png import write_panoptic_png

SHOWN = 6
"""Images of each kind that can be drawn."""
FOLDER = "worst"
MAPS = ("truth", "prediction")
_MAP = re.compile(rf"\d+_({'|'.join(MAPS)})\.png")
KEYS = {"PQ": "pq", "accuracy": "accuracy", "missed": "missed"}
"""Figures of one image and their fields; by the first that the truth allows, images are ranked."""


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
        cells = image.confusion
        total = int(cells.pixels.sum())
        right = int(cells.pixels[cells.true_class == cells.predicted].sum())
        missed = int(cells.pixels[cells.predicted == NONE].sum())
        quality = mean_quality(image.panoptic, truth.names)["PQ"]
        rows.append(
            ImageScore(
                image.image_id,
                quality if PANOPTIC in truth.tasks else None,
                100.0 * right / total if total else None,
                100.0 * missed / total if total else None,
            )
        )
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
        predicted: Read again for the chosen images.
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
    order = rankings[by]
    chosen = dict(zip(("worst", "median", "best"), _spread(order, SHOWN), strict=True))
    by_id = {score.image_id: score for score in scores}
    shown = sorted(i for ids in chosen.values() for i in ids)
    images = {str(i): _image(by_id[i], truth, predicted, mapping, folder) for i in shown}
    _remove_others(folder, images.values())
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


def _remove_others(folder: Path, images: Iterable[Mapping[str, Any]]) -> None:
    """Remove maps of other images than these from ``worst/``."""
    kept = {folder / image[name] for image in images for name in MAPS if image[name]}
    for path in sorted((folder / FOLDER).glob("*.png")):
        if _MAP.fullmatch(path.name) and path not in kept:
            remove_file(path)


def _spread(order: Sequence[int], shown: int) -> tuple[list[int], list[int], list[int]]:
    """Return the first, middle and last ids of a ranking, the last reversed; none twice.

    Examples:
        >>> _spread(range(10), 2)
        ([0, 1], [4, 5], [9, 8])
        >>> _spread([5, 6, 7, 8], 3)
        ([5], [6], [8])
    """
    count = min(shown, len(order) // 3) or min(1, len(order))
    middle = (len(order) - count) // 2
    if len(order) < 3:
        return list(order[:1]), [], list(order[1:])
    ids = list(order)
    return ids[:count], ids[middle : middle + count], ids[::-1][:count]


def _image(
    score: ImageScore,
    truth: Truth,
    predicted: Predictions,
    mapping: ClusterMapping,
    folder: Path,
) -> dict[str, Any]:
    image_id = score.image_id
    true = truth.read(image_id)
    clusters = predicted.panoptic
    segments = clusters.segments.get(image_id)
    maps = {"truth": true.ids}
    if segments is not None:
        maps["prediction"] = clusters.read_ids(image_id)
    paths = {name: f"{FOLDER}/{image_id}_{name}.png" for name in maps}
    for name, path in paths.items():
        write_panoptic_png(folder / path, maps[name])
    present = set(np.unique(true.ids).tolist())
    found = segments or {}
    return {
        **{key: getattr(score, field) for key, field in KEYS.items()},
        "name": truth.stems[image_id],
        "png": clusters.file_names.get(image_id),
        "whole_image": true.ids.shape == tuple(truth.sizes[image_id]),
        "truth": paths["truth"],
        "prediction": paths.get("prediction"),
        "true_segments": {
            str(s): info.category for s, info in true.segments.items() if s in present
        },
        "segments": {str(s): mapping.all.get(info.category) for s, info in found.items()},
    }
