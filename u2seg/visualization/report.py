"""One self-contained ``report.html`` of a run: no server, no network, no script.

Every text that comes from files is escaped by the template engine, and the page carries a
content security policy that forbids scripts and foreign addresses altogether. What the page says,
and when, stands in ``templates``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes, write_text
from u2seg.io.lock import LOCK, only_run
from u2seg.visualization import charts
from u2seg.visualization.concerns import (
    Concern,
    LabelStatistics,
    label_concerns,
    label_statistics,
    percent,
    prediction_concerns,
    quality_concerns,
)
from u2seg.visualization.draw import printable
from u2seg.visualization.evaluation import (
    EvaluationPart,
    evaluation_part,
    interval_text,
    is_agreement,
    number_text,
)
from u2seg.visualization.rounds import Rounds, read_rounds
from u2seg.visualization.samples import (
    ClusterRow,
    Picture,
    Sample,
    cluster_gallery,
    label_samples,
    prediction_samples,
)
from u2seg.visualization.sources import (
    LabelRun,
    Notes,
    Predictions,
    TrainRun,
    at,
    read_label_run,
    read_predictions,
    read_train_run,
)
from u2seg.visualization.training import training_pictures

logger = logging.getLogger(__name__)
MAX_SAMPLES = 12
MAX_CLUSTERS = 24
MAX_CROPS = 8
MAX_NOTES = 30
MAX_ROUND_SAMPLES = 6
STAGES = (
    "images", "masks", "clusters", "semantics", "panoptic", "train", "train and evaluate",
    "evaluate", "predict",
)  # fmt: skip
"""Order of the known stages."""


@dataclass
class Page:
    """Everything the template shows; pictures are data URIs, charts are SVG."""

    title: str
    labels: LabelRun | None = None
    numbers: LabelStatistics = field(default_factory=LabelStatistics)
    train: TrainRun | None = None
    concerns: list[Concern] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    predictions: list[Sample] = field(default_factory=list)
    predictions_total: int = 0
    clusters: list[ClusterRow] = field(default_factory=list)
    stuff: list[ClusterRow] = field(default_factory=list)
    statistics: list[charts.Chart] = field(default_factory=list)
    curves: list[charts.Chart] = field(default_factory=list)
    training: list[Picture] = field(default_factory=list)
    evaluation: EvaluationPart | None = None
    rounds: Rounds = field(default_factory=Rounds)
    manifests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def report_line(output: Path, title: str, **parts: Path | None) -> str:
    """Write a report at the end of other work; return its path in words, or why there is none."""
    try:
        return f"report: {write_report(output, title=title, **parts)}"
    except UserError as error:
        return f"no report: {error}"
    except ImportError as error:
        return f"no report: {error}; u2seg doctor says what to install"


def write_report(output: Path, *, title: str, **parts: Path | None) -> Path:
    """Write the report of a run and return its path.

    Notes:
        The same inputs give the same bytes. At most 12 images, 24 clusters with 8 crops and
        12 further predictions are shown, each with a line "showing n of N", so that the page
        stays below a few megabytes however large the run.
    """
    path = output if output.suffix.lower() in (".html", ".htm") else output / "report.html"
    # Not the folder's lock: a report may be written while its training is at work there.
    with only_run(path.with_name(f".{path.name}{LOCK}")):
        page = build_page(title=title, **parts)
        for concern in page.concerns:
            logger.warning("%s", concern.text)
        write_text(path, render(page))
    return path


def render(page: Page) -> str:
    """Return the page as HTML."""
    import jinja2  # not above: without it labels and trainings are made, and no report

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("u2seg.visualization", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "at": at,
        "duration": duration,
        "figure": number_text,
        "flat": flat,
        "interval": interval_text,
        "percent": percent,
        "time_chart": _time_chart,
    }
    return environment.get_template("report.html.j2").render(page=page)


def _shown(value: Any) -> Any:
    """Return a text of files as it may stand on the page; it is escaped afterwards."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return printable(value).replace(" %", "\u00a0%")
    return "" if value is None else value


def build_page(
    *,
    title: str,
    labels: Path | None = None,
    train: Path | None = None,
    predictions: Path | None = None,
    rounds: Path | None = None,
    results: Path | None = None,
) -> Page:
    """Return the content of the report."""
    notes = Notes()
    page = Page(title)
    run = page.labels = read_label_run(labels, notes) if labels else None
    found = read_predictions(predictions, notes, results) if predictions else None
    if train:
        page.train = read_train_run(train, notes)
        page.training = training_pictures(train, MAX_SAMPLES, notes)
        _add_curves(page, page.train)
    elsewhere = page.train.eval_images if page.train else None
    paired = bool(run and found and _same_photographs(run, found, elsewhere))
    if run:
        _add_labels(page, run, found if paired else None, notes)
    if rounds:
        agreement = bool(found and is_agreement(found.metrics))
        page.rounds = read_rounds(rounds, run, MAX_ROUND_SAMPLES, notes, agreement)
    if found:
        known = {i.file_name for i in run.images} if run and paired else set()
        root = elsewhere or (run.image_root if run and paired else None)
        page.concerns += notes.attempt("warnings", [], prediction_concerns, found)
        if found.labels:
            page.predictions = prediction_samples(found.labels, root, known, MAX_SAMPLES, notes)
            page.predictions_total = sum(name not in known for name in found.labels.by_file)
        page.evaluation = evaluation_part(found, root, notes)
    trained = page.rounds.timings or (page.train.timings if page.train else {})
    page.timings = {**(run.timings if run else {}), **trained}
    if len(notes) > MAX_NOTES:
        notes[MAX_NOTES:] = [f"and {len(notes) - MAX_NOTES} more of this kind"]
    page.notes = notes
    page.concerns.sort(key=lambda concern: concern.level != "red")
    return page


def _same_photographs(run: LabelRun, found: Predictions, elsewhere: Path | None) -> bool:
    """Return whether equal file names mean equal photographs.

    Splits number their images alike: 000001.png of the evaluation is not that of the labels.
    """
    if found.metrics and is_agreement(found.metrics):
        return True
    if elsewhere is None or run.image_root is None:
        return not found.metrics
    return elsewhere.resolve() == run.image_root.resolve()


def _add_labels(page: Page, run: LabelRun, found: Predictions | None, notes: Notes) -> None:
    numbers = notes.attempt("label statistics", page.numbers, label_statistics, run)
    page.numbers = numbers
    page.concerns += notes.attempt("warnings", [], label_concerns, run, numbers)
    folders = {"label": run.labels, "prediction": found.labels if found else None}
    shown = {caption: folder for caption, folder in folders.items() if folder}
    page.samples = label_samples(run, shown, MAX_SAMPLES, notes)
    space = run.space
    if space:
        counts, shares = numbers.cluster_sizes, numbers.stuff_share
        sizes = {
            space.thing_category(i): f"{counts[i]} mask{'s' * (counts[i] > 1)}"
            for i in _largest(counts)
        }
        page.clusters = notes.attempt("clusters", [], cluster_gallery, run, sizes, MAX_CROPS, notes)
        sizes = {space.stuff_category(i): percent(shares[i]) for i in _largest(shares)}
        page.stuff = notes.attempt("stuff", [], cluster_gallery, run, sizes, MAX_CROPS, notes)
    if run.quality:
        what = "quality of the clusters"
        page.concerns += notes.attempt(what, [], quality_concerns, run.quality)
    _add_statistics(page, numbers, space.num_things if space else 0)
    page.manifests = [(name, run.manifests[name]) for name in sorted(run.manifests, key=_rank)]
    for name, values in run.losses.items():
        points = {name: (range(1, len(values) + 1), values)}
        draw = partial(charts.line_chart, points, "step", "loss")
        page.curves.append(charts.Chart(f"Stuff: {name}", draw, name == "total"))


def _add_statistics(page: Page, numbers: LabelStatistics, clusters: int) -> None:
    """Add the histograms; a cluster without masks is a column of none."""
    counts, areas = numbers.masks_per_image, numbers.area_percent
    if counts:
        draw = partial(charts.histogram, counts, "masks in an image", "images", integers=True)
        page.statistics.append(charts.Chart("Masks per image", draw))
    if areas:
        label = "area of a mask, % of its image (log)"
        draw = partial(charts.histogram, areas, label, "masks", log=True)
        page.statistics.append(charts.Chart("Mask area", draw))
    if numbers.cluster_sizes:
        sizes = sorted(numbers.cluster_sizes.values(), reverse=True)
        sizes += [0] * max(0, clusters - len(sizes))
        columns = partial(charts.columns, sizes, "cluster, from large to small", "masks")
        page.statistics.append(charts.Chart("Cluster sizes", columns))


def _add_curves(page: Page, run: TrainRun) -> None:
    page.curves += charts.training_curves(run.curves)
    values = run.curves.get("total_loss", ([], []))[1]
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < len(values):
        page.concerns.append(Concern("red", "The training loss became NaN or infinite."))
    elif len(finite) > 1 and finite[-1] >= finite[0]:
        text = f"The training loss did not fall ({finite[0]:.3g} → {finite[-1]:.3g})."
        page.concerns.append(Concern("red", text))


def _time_chart(timings: Mapping[str, float]) -> str:
    names = sorted(timings, key=lambda name: (_rank(name), name))
    return charts.bars([(name, timings[name], duration(timings[name])) for name in names])


def _largest(sizes: Mapping[int, float]) -> list[int]:
    return sorted(sizes, key=lambda i: (-sizes[i], i))[:MAX_CLUSTERS]


def _rank(name: str) -> int:
    return STAGES.index(name) if name in STAGES else len(STAGES)


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    Examples:
        >>> duration(0.42), duration(75), duration(7260)
        ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def flat(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return (dotted key, value as text) of a tree; nothing of anything else.

    Examples:
        >>> flat({"RUN": {"SEED": 3}, "name": "x"}), flat(3)
        ([('RUN.SEED', '3'), ('name', 'x')], [])
    """
    rows: list[tuple[str, str]] = []
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json_bytes(value).decode("utf-8", "replace")
            rows.append((f"{prefix}{key}", text.strip()[:400]))
    return rows
