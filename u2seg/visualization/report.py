"""One self-contained ``report.html`` of a run: no server, no network, no script.

Every text that comes from files is escaped by the template engine, and the page carries a
content security policy that forbids scripts and foreign addresses altogether.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes, write_text
from u2seg.io.lock import LOCK, only_run
from u2seg.visualization import charts
from u2seg.visualization.clusters import quality_concerns, quality_rows
from u2seg.visualization.concerns import Concern, label_concerns, prediction_concerns
from u2seg.visualization.curves import Curve, training_curves
from u2seg.visualization.evaluation import EvaluationPart, evaluation_part
from u2seg.visualization.metrics import (
    MetricRow,
    is_agreement,
    metric_rows,
    reference_sentence,
)
from u2seg.visualization.rounds import Rounds, last_iteration, read_rounds
from u2seg.visualization.samples import (
    ClusterRow,
    Picture,
    Sample,
    cluster_gallery,
    css_color,
    label_samples,
    prediction_samples,
)
from u2seg.visualization.sources import (
    LabelRun,
    Notes,
    Predictions,
    TrainRun,
    read_label_run,
    read_predictions,
    read_train_run,
)
from u2seg.visualization.statistics import (
    LabelStatistics,
    label_statistics,
    percent,
)
from u2seg.visualization.text import printable
from u2seg.visualization.training import training_pictures

logger = logging.getLogger(__name__)
MAX_SAMPLES = 12
MAX_CLUSTERS = 24
MAX_CROPS = 8
MAX_SKIPPED = 50
MAX_STUFF = 60
MAX_NOTES = 30
MAX_ROUND_SAMPLES = 6
STAGES = (
    "images", "masks", "clusters", "semantics", "panoptic", "train", "train and evaluate",
    "evaluate", "predict",
)  # fmt: skip
"""Order of the known stages in the time chart."""
TEMPLATE = "report.html.j2"


@dataclass
class Page:
    """Everything the template shows; pictures are data URIs, charts are SVG."""

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    concerns: list[Concern] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    samples_total: int = 0
    predictions: list[Sample] = field(default_factory=list)
    predictions_total: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    skipped_total: int = 0
    clusters: list[ClusterRow] = field(default_factory=list)
    clusters_used: int = 0
    clusters_total: int = 0
    cluster_quality: list[tuple[str, str]] = field(default_factory=list)
    stuff: list[tuple[str, str, str]] = field(default_factory=list)
    stuff_rest: str = ""
    statistics: list[tuple[str, str]] = field(default_factory=list)
    statistics_text: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    training: list[Picture] = field(default_factory=list)
    metrics: list[MetricRow] = field(default_factory=list)
    metrics_reference: str = ""
    protocol: list[tuple[str, str]] = field(default_factory=list)
    evaluation: EvaluationPart = field(default_factory=EvaluationPart)
    rounds: Rounds = field(default_factory=Rounds)
    settings: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    train_config: str = ""
    versions: list[tuple[str, str]] = field(default_factory=list)
    seconds: str = ""
    notes: list[str] = field(default_factory=list)


def report_line(output: Path, title: str, **parts: Path | None) -> str:
    """Write a report at the end of other work; return its path in words, or why there is none.

    Args:
        output: As for ``write_report``.
        title: As there.
        **parts: The rest. Errors become the line: the work that the report shows is done.
    """
    try:
        return f"report: {write_report(output, title=title, **parts)}"
    except UserError as error:
        return f"no report: {error}"


def write_report(
    output: Path,
    *,
    title: str,
    labels: Path | None = None,
    train: Path | None = None,
    predictions: Path | None = None,
    rounds: Path | None = None,
    results: Path | None = None,
) -> Path:
    """Write the report of a run and return its path.

    Args:
        output: The HTML file, or a folder that gets ``report.html``.
        title: Heading of the page.
        labels: Output folder of ``generate_pseudo.py``; None = not part of the run.
        train: Output folder of ``train_net.py``; None = not part of the run.
        predictions: Result folder of an evaluation; None = not part of the run.
        rounds: ``rounds.json`` of a run with self-training; None = not part of the run.
        results: Folder of the metrics; None = beside the predictions.

    Returns:
        Path of the HTML file; everything is inside it.

    Raises:
        UserError: if Jinja2 is missing or the file cannot be written. Missing or garbled
            inputs are no error: the page says what is left out and why.

    Notes:
        The same inputs give the same bytes. At most 12 images, 24 clusters with 8 crops and
        12 further predictions are shown, each with a line "showing n of N", so that the page
        stays below a few megabytes however large the run.
    """
    path = output if output.suffix.lower() in (".html", ".htm") else output / "report.html"
    # Not the folder's lock: a report may be written while its training is at work there.
    with only_run(path.with_name(f".{path.name}{LOCK}")):
        page = build_page(
            labels=labels,
            train=train,
            predictions=predictions,
            title=title,
            rounds=rounds,
            results=results,
        )
        for concern in page.concerns:
            logger.warning("%s", concern.text)
        write_text(path, _render(page))
    return path


def build_page(
    *,
    labels: Path | None,
    train: Path | None,
    predictions: Path | None,
    title: str,
    rounds: Path | None = None,
    results: Path | None = None,
) -> Page:
    """Return the content of the report; arguments as for ``write_report``."""
    notes = Notes()
    page = Page(printable(title))
    label_run = read_label_run(labels, notes) if labels else None
    train_run = read_train_run(train, notes) if train else None
    found = read_predictions(predictions, notes, results) if predictions else None
    elsewhere = train_run.eval_images if train_run else None
    paired = bool(label_run and found and _same_photographs(label_run, found, elsewhere))
    if label_run:
        _add_labels(page, label_run, found if paired else None, notes)
    if rounds:
        page.rounds = read_rounds(rounds, label_run, MAX_ROUND_SAMPLES, notes)
        page.rounds.agreement = bool(found and is_agreement(found.metrics))
    if train and train_run:
        _add_training(page, train_run)
        page.training = training_pictures(train, MAX_SAMPLES, notes)
    if found:
        known = {i.file_name for i in label_run.images} if label_run and paired else set()
        root = elsewhere or (label_run.image_root if label_run and paired else None)
        _add_predictions(page, found, known, root, notes)
    _add_seconds(page, label_run, train_run)
    if len(notes) > MAX_NOTES:
        notes[MAX_NOTES:] = [f"and {len(notes) - MAX_NOTES} more of this kind"]
    page.notes = [printable(note) for note in notes]
    page.concerns.sort(key=lambda concern: concern.level != "red")
    return page


def _render(page: Page) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise UserError(
            "the report needs Jinja2: pip install jinja2, then the same command again"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("u2seg.visualization", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(page=page)


def _add_labels(page: Page, run: LabelRun, found: Predictions | None, notes: Notes) -> None:
    numbers = notes.attempt("label statistics", LabelStatistics(), label_statistics, run)
    page.concerns += notes.attempt("warnings", [], label_concerns, run, numbers)
    page.samples = label_samples(run, found.panoptic if found else None, MAX_SAMPLES, notes)
    page.samples_total = len(run.images)
    page.skipped = [(printable(n), printable(r)) for n, r in run.skipped[:MAX_SKIPPED]]
    page.skipped_total = len(run.skipped)
    args = (run, MAX_CLUSTERS, MAX_CROPS, notes)
    page.clusters = notes.attempt("clusters", [], cluster_gallery, *args)
    page.clusters_used = len(numbers.cluster_sizes)
    space = run.panoptic.space if run.panoptic else None
    page.clusters_total = space.num_things if space else 0
    if run.quality:
        what = "quality of the clusters"
        page.cluster_quality = notes.attempt(what, [], quality_rows, run.quality)
        page.concerns += notes.attempt(what, [], quality_concerns, run.quality)
    _add_stuff(page, run, numbers)
    _add_statistics(page, numbers)
    _add_facts(page, run, numbers)
    _add_settings(page, run)
    for name, values in run.losses.items():
        chart = charts.line_chart(
            {name: (range(1, len(values) + 1), values)},
            x_label="step", y_label="loss", width=400, height=210,
        )  # fmt: skip
        page.curves.append(Curve(f"STEGO: {name}", chart, name == "total"))


def _add_facts(page: Page, run: LabelRun, numbers: LabelStatistics) -> None:
    page.facts.append(("photographs", f"{len(run.images):,}"))
    if run.skipped:
        page.facts.append(("skipped files", f"{len(run.skipped):,}"))
    passed_over = run.manifests.get("images", {}).get("counts", {}).get("passed over")
    if passed_over:
        page.facts.append(("files passed over for their ending", f"{passed_over:,}"))
    masks = sum(numbers.masks_per_image)
    if numbers.masks_per_image:
        page.facts.append(("masks", f"{masks:,}"))
        page.facts.append(("masks per image", f"{masks / len(numbers.masks_per_image):.1f}"))
    if page.clusters_total:
        page.facts.append(
            ("thing clusters in use", f"{page.clusters_used} of {page.clusters_total}")
        )
        space = run.panoptic.space if run.panoptic else None
        if space and space.num_stuff:
            used = f"{len(numbers.stuff_share)} of {space.num_stuff}"
            page.facts.append(("stuff clusters in use", used))


def _add_stuff(page: Page, run: LabelRun, numbers: LabelStatistics) -> None:
    space = run.panoptic.space if run.panoptic else None
    if space is None or not numbers.stuff_share:
        return
    colors = space.colors()
    ranked = sorted(numbers.stuff_share.items(), key=lambda item: (-item[1], item[0]))
    page.stuff = [
        (space.stuff_names[i], css_color(colors[space.stuff_category(i) - 1]), percent(share))
        for i, share in ranked[:MAX_STUFF]
    ]
    page.stuff_rest = (
        f"Things cover {percent(numbers.thing_share)} of all pixels, "
        f"{percent(numbers.void_share)} belong to no segment. "
        f"{len(ranked)} of {space.num_stuff} stuff clusters are in use."
    )


def _add_statistics(page: Page, numbers: LabelStatistics) -> None:
    if numbers.masks_per_image:
        chart = charts.histogram(
            numbers.masks_per_image, x_label="masks in an image", y_label="images", integers=True
        )
        page.statistics.append(("Masks per image", chart))
        share = numbers.without_masks / len(numbers.masks_per_image)
        page.statistics_text.append(
            f"{percent(share)} of the images have no mask ({numbers.without_masks} of "
            f"{len(numbers.masks_per_image)})."
        )
    if numbers.area_percent:
        chart = charts.histogram(
            numbers.area_percent, x_label="area of a mask, % of its image (log)",
            y_label="masks", log=True,
        )  # fmt: skip
        page.statistics.append(("Mask area", chart))
        page.statistics_text.append(
            f"{percent(numbers.border_contact)} of the masks touch the border of their image."
        )
    if numbers.cluster_sizes:
        sizes = sorted(numbers.cluster_sizes.values(), reverse=True)
        sizes += [0] * max(0, page.clusters_total - len(sizes))
        chart = charts.columns(sizes, x_label="cluster, from large to small", y_label="masks")
        page.statistics.append(("Cluster sizes", chart))


def _add_settings(page: Page, run: LabelRun) -> None:
    versions: dict[str, str] = {}
    order = {name: rank for rank, name in enumerate(STAGES)}
    for name in sorted(run.manifests, key=lambda name: order.get(name, len(order))):
        manifest = run.manifests[name]
        settings = manifest.get("settings")
        rows = list(_flat(settings)) if isinstance(settings, Mapping) else []
        if "seed" in manifest:
            rows.append(("seed", str(manifest["seed"])))
        page.settings.append((f"{name} stage", rows))
        if "version" in manifest:
            versions["u2seg"] = str(manifest["version"])
        libraries = manifest.get("libraries")
        if isinstance(libraries, Mapping):
            versions.update({str(k): str(v) for k, v in libraries.items()})
    page.versions = sorted(versions.items())


def _add_training(page: Page, run: TrainRun) -> None:
    page.train_config = run.config
    total = run.curves.get("total_loss")
    if total:
        finite = [value for value in total[1] if math.isfinite(value)]
        if len(finite) < len(total[1]):
            page.concerns.append(Concern("red", "The training loss became NaN or infinite."))
        elif len(finite) > 1 and finite[-1] >= finite[0]:
            text = f"The training loss did not fall ({finite[0]:.3g} → {finite[-1]:.3g})."
            page.concerns.append(Concern("red", text))
        last = "" if page.rounds.iterations or not page.rounds.rows else " of the last round"
        count = page.rounds.iterations or last_iteration(run)
        page.facts.append((f"training iterations{last}", f"{count:,}"))
    page.curves += training_curves(run.curves)


def _same_photographs(run: LabelRun, found: Predictions, elsewhere: Path | None) -> bool:
    """Return whether equal file names mean equal photographs.

    Splits number their images alike: 000001.png of the evaluation is not that of the labels.
    """
    if found.metrics and is_agreement(found.metrics):
        return True
    if elsewhere is None or run.image_root is None:
        return not found.metrics
    return elsewhere.resolve() == run.image_root.resolve()


def _add_predictions(
    page: Page, found: Predictions, known: set[str], root: Path | None, notes: Notes
) -> None:
    page.concerns += notes.attempt("warnings", [], prediction_concerns, found)
    rest = [name for name in found.panoptic.by_file if name not in known]
    page.predictions = prediction_samples(found.panoptic, root, known, MAX_SAMPLES, notes)
    page.predictions_total = len(rest)
    page.metrics = metric_rows(found.metrics)
    if page.metrics:
        page.metrics_reference = reference_sentence(found.metrics)
        page.evaluation = evaluation_part(found, root, notes)
        protocol = found.metrics.get("protocol")
        page.protocol = list(_flat(protocol)) if isinstance(protocol, Mapping) else []
        _add_headline(page, found)


def _add_headline(page: Page, found: Predictions) -> None:
    pq = next((row for row in page.metrics if row.name.startswith("Panoptic, all")), None)
    if pq is None or pq.values[0] == "–":
        return
    against = ""
    if is_agreement(found.metrics):
        labels = "the last round's own labels" if page.rounds.rows else "the pseudo-labels"
        against = f" (agreement with {labels})"
    page.facts.append((f"PQ{against}", " ".join(pq.cells[0]).strip()))


def _add_seconds(page: Page, run: LabelRun | None, train: TrainRun | None) -> None:
    trained = page.rounds.timings or (train.timings if train else {})
    timings = {**(run.timings if run else {}), **trained}
    order = {name: rank for rank, name in enumerate(STAGES)}
    names = sorted(timings, key=lambda name: (order.get(name, len(order)), name))
    rows = [(name, timings[name], duration(timings[name])) for name in names]
    if rows:
        total = sum(timings.values())
        page.facts.append(("computing time", duration(total)))
        page.seconds = charts.bars([(printable(n), s, t) for n, s, t in rows], width=560)


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


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{printable(str(key))}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else _json_text(value)
            rows.append((name, printable(text)[:400]))
    return rows


def _json_text(value: Any) -> str:
    return json_bytes(value).decode("utf-8", "replace").strip()
