"""The evaluation part of the report: figures, rules in words, clusters against classes, pictures.

Reads what an evaluation leaves: ``metrics.json``, ``per_class.csv``, ``clusters.csv``,
``worst.json``. Without ground truth only a few figures of agreement are shown: tables of clusters
against clusters would say nothing.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from u2seg.errors import UserError
from u2seg.evaluation.report.details import KEYS
from u2seg.evaluation.truth.predictions import PSEUDO_LABELS
from u2seg.io.jsonfile import read_json_object
from u2seg.io.paths import safe_join
from u2seg.io.png import read_panoptic_png
from u2seg.labels import LabelImage
from u2seg.structures.labels import VOID_ID, LabelSpace
from u2seg.structures.segmentation import panoptic_label
from u2seg.visualization.compose import data_uri
from u2seg.visualization.draw import Rgb, draw_panoptic
from u2seg.visualization.samples import LETTERS, Picture, Sample, fit_labels, photograph
from u2seg.visualization.sources import Notes, Predictions, at

UNDEFINED = "–"
OTHER = "other classes"
MAX_ROWS, MAX_COLUMNS, MAX_NAMES = 28, 24, 6
"""Clusters and classes in the picture of clusters against classes; clusters beside a class."""
GROUPS = {"worst": "Worst", "median": "From the middle", "best": "Best"}
_LARGEST = 64 << 20
_CLUSTER_NAME = re.compile(r"(thing|stuff)_\d+")
_CLASS_FIGURES = (
    "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", "accuracy", "AP", "AP50", "AR100",
)  # fmt: skip


@dataclass
class EvaluationPart:
    """What the report shows of an evaluation; ``agreement``: with pseudo-labels, not truth."""

    metrics: dict[str, Any]
    agreement: bool
    compared: list[tuple[str, Any]] = field(default_factory=list)
    class_columns: tuple[str, ...] = ("class", "kind", *_CLASS_FIGURES, "clusters")
    classes: list[list[str]] = field(default_factory=list)
    confusion: dict[str, Any] = field(default_factory=dict)
    ranked_by: str = ""
    groups: list[tuple[str, list[Sample]]] = field(default_factory=list)


def evaluation_part(found: Predictions, image_root: Path | None, notes: Notes) -> EvaluationPart:
    """Return the evaluation part of a result folder; what is missing goes into ``notes``."""
    part = EvaluationPart(found.metrics, is_agreement(found.metrics))
    if not part.agreement:
        part.compared = comparison(found.metrics)
        clusters, classes = found.results / "clusters.csv", found.results / "per_class.csv"
        if clusters.is_file():
            part.confusion = notes.attempt("clusters and classes", {}, _confusion, clusters)
        if classes.is_file():
            part.classes = notes.attempt("figures of classes", [], _class_rows, classes)
    path = found.results / "worst.json"
    if path.is_file():
        empty: dict[str, Any] = {}
        worst = notes.attempt("worst images", empty, read_json_object, path, "images", *GROUPS)
        part.ranked_by = str(worst.get("ranked_by"))
        reference = PSEUDO_LABELS if part.agreement else "truth"
        for group, heading in GROUPS.items():
            samples = []
            for image in worst.get(group, ()):
                what = f"picture of image {image}"
                args = (found, image_root, worst, str(image), reference)
                sample = notes.attempt(what, None, _sample, *args)
                samples += [sample] if sample else []
            part.groups += [(heading, samples)] if samples else []
    return part


def is_agreement(metrics: Mapping[str, Any]) -> bool:
    """Return whether the predictions were compared with pseudo-labels, not ground truth.

    ``protocol.reference`` says so, and so do classes that all bear the names of clusters
    (``thing_0``, ``stuff_3``): no ground truth is named like that.

    Examples:
        >>> is_agreement({"panoptic": {"per_class": {"thing_0": {}, "stuff_1": {}}}})
        True
        >>> is_agreement({"panoptic": {"per_class": {"person": {}, "stuff_1": {}}}})
        False
    """
    if at(metrics, "protocol.reference") == PSEUDO_LABELS:
        return True
    names = at(metrics, "panoptic.per_class")
    return bool(names) and all(_CLUSTER_NAME.fullmatch(str(name)) for name in names)


def number_text(value: Any, digits: int = 1) -> str:
    """Return a number with so many decimals, a dash for anything that is no finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:.{digits}f}" if good else UNDEFINED


def interval_text(limits: Any) -> str:
    """Return a 95 % interval as text; empty if there is none.

    Examples:
        >>> interval_text([3.14, 41.26]), interval_text(None)
        ('[3.1, 41.3]', '')
    """
    if not isinstance(limits, Sequence) or isinstance(limits, str) or len(limits) != 2:
        return ""
    low, high = (number_text(value) for value in limits)
    return "" if UNDEFINED in (low, high) else f"[{low}, {high}]"


def comparison(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (name, blocks) of each protocol, that of the headline first, and of its baselines."""
    first = str(at(metrics, "protocol.name") or "")
    protocols = metrics.get("protocols") or {first: metrics}
    rows = []
    for name in sorted(protocols, key=lambda name: (name != first, name)):
        rows.append((f"{name}: model".removeprefix(": "), protocols[name]))
        for baseline, content in (metrics.get("baselines") or {}).items():
            under = (at(content, "protocols") or {}).get(name)
            if under:
                rows.append((f"{name}: {baseline.replace('_', ' ')}".removeprefix(": "), under))
    return rows


def read_lines(path: Path) -> list[dict[str, str]]:
    """Return the lines of a CSV file by column; UserError if it is unreadable or too large."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is larger than {_LARGEST >> 20} MiB")
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return list(csv.DictReader(io.StringIO(text)))


def _class_rows(path: Path) -> list[list[str]]:
    """Return the rows of ``per_class.csv`` as the page shows them."""
    rows = []
    for line in read_lines(path):
        figures = [
            line[key]
            if key in ("TP", "FP", "FN")
            else number_text(float(line[key]) if line[key] else None)
            for key in _CLASS_FIGURES
        ]
        clusters = line["clusters"].split(" ")
        more = f" and {len(clusters) - MAX_NAMES} more" if len(clusters) > MAX_NAMES else ""
        names = " ".join(clusters[:MAX_NAMES]) + more
        rows.append([line["class"], line["kind"], *figures, names])
    return rows


def _confusion(path: Path) -> dict[str, Any]:
    return confusion_table(read_lines(path))


def confusion_table(lines: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the clusters with most pixels against the classes that lie under them.

    Returns:
        ``heads``: at most 24 classes, those with most pixels under the clusters shown, the rest
        in a last column; ``rows``: (cluster, cells (share 0..1, whether the cluster was given the
        class), share of all predicted pixels, given class) of at most 28 clusters.
    """
    areas: Counter[str] = Counter()
    for line in lines:
        areas[line["cluster"]] += int(line["pixels"])
    rows = [name for name, pixels in areas.items() if pixels][:MAX_ROWS]
    shown = [line for line in lines if line["cluster"] in rows]
    weights: Counter[str] = Counter()
    for line in shown:
        weights[line["class"]] += int(line["pixels"])
    given = {line["cluster"]: line["class"] for line in shown if line["mapped"] == "1"}
    largest = sorted(weights, key=lambda name: (-weights[name], name))[:MAX_COLUMNS]
    heads = [name for name in dict.fromkeys([*given.values(), *largest]) if name in largest]
    if len(weights) > len(heads):
        heads.append(OTHER)
    cells: dict[str, list[list[Any]]] = {name: [[0.0, False] for _ in heads] for name in rows}
    for line in shown:
        cell = cells[line["cluster"]][heads.index(line["class"]) if line["class"] in heads else -1]
        cell[0] += int(line["pixels"]) / areas[line["cluster"]]
        cell[1] |= line["mapped"] == "1"
    total = areas.total()
    table = [(name, cells[name], areas[name] / total, given.get(name, "no class")) for name in rows]
    return {"heads": heads, "rows": table}


def _sample(
    found: Predictions, root: Path | None, worst: Mapping[str, Any], key: str, reference: str
) -> Sample:
    """Return photograph, truth and prediction of an image, in the colours of the classes."""
    image = worst["images"][key]
    classes = _class_space(worst["classes"])
    truth = read_panoptic_png(safe_join(found.results, str(image["truth"])))
    by_file = found.labels.by_file if found.labels else {}
    name = next((n for n, record in by_file.items() if record.png == image["png"]), "")
    whole = root if name and image["whole_image"] else None
    shown = LabelImage(0, name, truth.shape, "", None, {"file_name": name})
    photo, pictures = photograph(whole, shown)
    pictures.append(Picture(reference, _drawn(photo, truth, image["true_segments"], *classes)))
    if image["prediction"]:
        ids = read_panoptic_png(safe_join(found.results, str(image["prediction"])))
        without = sum(c is None for c in image["segments"].values())
        caption = "prediction" + (f"; without a class: {without}" if without else "")
        pictures.append(Picture(caption, _drawn(photo, ids, image["segments"], *classes)))
    else:
        pictures.append(Picture("no prediction", data_uri(photo)))
    figures = ", ".join(f"{k} {number_text(image.get(k))}" for k in KEYS)
    return Sample(name or str(image["name"]), figures, pictures)


def _class_space(classes: Mapping[str, Mapping[str, Any]]) -> tuple[LabelSpace, dict[str, Any]]:
    """Return the numbering of the true classes for drawing, and what it says of each class."""
    ids = sorted(classes, key=lambda c: (not classes[c]["isthing"], int(c)))
    names = tuple(str(classes[c]["name"]) for c in ids)
    things = sum(bool(classes[c]["isthing"]) for c in ids)
    space = LabelSpace(things, len(ids) - things, names[:things], names[things:])
    infos = {
        c: {"isthing": number < things, "category_id": number - (number >= things) * (things - 1)}
        for number, c in enumerate(ids)
    }
    return space, infos


def _drawn(
    photo: Rgb,
    ids: npt.NDArray[np.int32],
    segments: Mapping[str, Any],
    space: LabelSpace,
    infos: Mapping[str, Any],
) -> str:
    """Return the picture of a map; segments without a class keep the photograph."""
    rows = [{"id": int(s), **infos[str(c)]} for s, c in segments.items() if c is not None]
    known = np.isin(ids, [row["id"] for row in rows])
    small = fit_labels(np.where(known, ids, VOID_ID).astype(np.int32), photo)
    label = panoptic_label(small, rows, space)
    return data_uri(draw_panoptic(photo, label, space, name_size=LETTERS))
