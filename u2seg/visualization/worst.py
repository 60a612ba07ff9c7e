"""``worst.json`` as pictures: photograph, truth and prediction, in the colours of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.evaluation.report.details import KEYS
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import safe_join
from u2seg.io.png import read_panoptic_png
from u2seg.structures.labels import VOID_ID, LabelSpace
from u2seg.structures.panoptic import PanopticLabel, Segment
from u2seg.visualization.draw import draw_panoptic
from u2seg.visualization.metrics import number_text
from u2seg.visualization.samples import (
    LETTERS,
    Picture,
    Rgb,
    Sample,
    blank,
    data_uri,
    fit_labels,
    thumbnail,
)
from u2seg.visualization.sources import ImageRecord, Notes, Predictions
from u2seg.visualization.text import printable

GROUPS = ("worst", "median", "best")
_BOX = (0.0, 0.0, 0.0, 0.0)


def worst_samples(
    found: Predictions, image_root: Path | None, notes: Notes, reference: str = "truth"
) -> dict[str, list[Sample]]:
    """Return the pictures of the worst, the middle and the best images of an evaluation.

    Args:
        found: Predictions; their results with ``worst.json``.
        image_root: Where the photographs are; without them segments are drawn on grey.
        notes: Gets what cannot be drawn.
        reference: Caption of what the predictions were compared with.

    Returns:
        ``worst``, ``median`` and ``best`` -> samples, from extreme to less so; empty if the
        evaluation wrote no ``worst.json``.
    """
    path = found.results / "worst.json"
    if not path.is_file():
        return {}
    empty: dict[str, Any] = {}
    content = notes.attempt("worst images", empty, read_json_object, path, "images", *GROUPS)
    if not content:
        return {}
    groups: dict[str, list[Sample]] = {}
    for group in GROUPS:
        groups[group] = []
        for image_id in content[group]:
            what = f"picture of image {printable(str(image_id))}"
            args = (found, image_root, content, str(image_id), reference)
            sample = notes.attempt(what, None, _sample, *args)
            if sample is not None:
                groups[group].append(sample)
    return groups


def ranking_words(found: Predictions, notes: Notes, reference: str = "truth") -> str:
    """Return by what the images of ``worst.json`` are ranked; empty without the file."""
    path = found.results / "worst.json"
    if not path.is_file():
        return ""
    empty: dict[str, Any] = {}
    content = notes.attempt("ranking of images", empty, read_json_object, path)
    pixels = "true pixels" if reference == "truth" else f"pixels of the {reference}"
    words = {
        "PQ": "panoptic quality, the mean over the classes of the image",
        "accuracy": "the share of pixels with the right class",
        "missed": f"the share of {pixels} without any class",
    }
    return words.get(str(content.get("ranked_by")), "")


def _sample(
    found: Predictions,
    image_root: Path | None,
    content: Mapping[str, Any],
    key: str,
    reference: str,
) -> Sample:
    image = content["images"][key]
    space, categories = _space(content["classes"])
    truth = read_panoptic_png(safe_join(found.results, str(image["truth"])))
    height, width = truth.shape
    photo, pictures = blank(height, width), []
    name = _photograph(found, image)
    known = image_root is not None and name and image["whole_image"]
    if image_root is not None and known and safe_join(image_root, name).is_file():
        photo = thumbnail(image_root, ImageRecord(0, name, height, width))
        pictures.append(Picture("photograph", data_uri(photo)))
    true = {int(s): categories[str(c)] for s, c in image["true_segments"].items()}
    pictures.append(Picture(reference, _drawn(photo, truth, true, space)))
    if image["prediction"]:
        ids = read_panoptic_png(safe_join(found.results, str(image["prediction"])))
        segments = image["segments"]
        named = {int(s): categories[str(c)] for s, c in segments.items() if c is not None}
        without = len(segments) - len(named)
        caption = "prediction" + (f"; without a class: {without}" if without else "")
        pictures.append(Picture(caption, _drawn(photo, ids, named, space)))
    else:
        pictures.append(Picture("no prediction", data_uri(photo)))
    figures = ", ".join(f"{k} {number_text(image.get(k))}" for k in KEYS)
    return Sample(printable(name or str(image["name"])), figures, pictures)


def _photograph(found: Predictions, image: Mapping[str, Any]) -> str:
    """Return the file name of the photograph; empty if the predictions do not know it."""
    names = (name for name, record in found.panoptic.by_file.items() if record.png == image["png"])
    return next(names, "")


def _space(classes: Mapping[str, Mapping[str, Any]]) -> tuple[LabelSpace, dict[str, int]]:
    """Return the numbering of the true classes for drawing, and class id -> category in it."""
    things = [c for c, row in classes.items() if row["isthing"]]
    stuff = [c for c, row in classes.items() if not row["isthing"]]
    ids = {"thing": sorted(things, key=int), "stuff": sorted(stuff, key=int)}
    names = {kind: tuple(str(classes[c]["name"]) for c in ids[kind]) for kind in ids}
    space = LabelSpace(
        max(1, len(things)), len(stuff), names["thing"] or ("no things",), names["stuff"]
    )
    categories = {c: 1 + number for number, c in enumerate(ids["thing"])}
    first = 1 + space.num_things
    categories |= {c: first + number for number, c in enumerate(ids["stuff"])}
    return space, categories


def _drawn(
    photo: Rgb, ids: npt.NDArray[np.int32], categories: Mapping[int, int], space: LabelSpace
) -> str:
    """Return the picture of a map; segments without a category keep the photograph."""
    known = np.isin(ids, list(categories))
    small = fit_labels(np.where(known, ids, VOID_ID).astype(np.int32), photo)
    values, areas = np.unique(small, return_counts=True)
    segments = tuple(
        Segment(int(s), categories[int(s)], space.is_thing(categories[int(s)]), int(n), _BOX)
        for s, n in zip(values, areas, strict=True)
        if s != VOID_ID
    )
    label = PanopticLabel(small, segments)
    return data_uri(draw_panoptic(photo, label, space, name_size=LETTERS))
