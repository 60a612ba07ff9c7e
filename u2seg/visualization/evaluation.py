"""The evaluation part of the report: rules in words, intervals, protocols, baselines, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from u2seg.visualization.confusion import confusion_chart, read_lines, unmatched_sentences
from u2seg.visualization.metrics import (
    MetricRow,
    interval_text,
    node,
    number_text,
    reference_word,
)
from u2seg.visualization.samples import Sample
from u2seg.visualization.sources import Notes, Predictions
from u2seg.visualization.text import printable
from u2seg.visualization.worst import ranking_words, worst_samples

MODEL = "model"
MAX_NAMES = 6
"""Clusters named beside a class."""
_MATCHINGS = {
    "hungarian": "one to one (Hungarian): no two clusters share a class",
    "majority": "many to one: each cluster takes its most voted class",
    "hungarian+majority": "one to one first; clusters left over take their most voted class",
    "identity": "none, ids are classes",
}
_CLASS_WORDS = ("class", "kind", "clusters")
_CLASS_FIGURES = (
    "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", "accuracy", "AP", "AP50", "AR100",
)  # fmt: skip
_COUNTS = ("TP", "FP", "FN")
_COMPARED = {
    "PQ": ("panoptic", "all", "PQ"),
    "PQ things": ("panoptic", "things", "PQ"),
    "PQ stuff": ("panoptic", "stuff", "PQ"),
    "mIoU": ("semantic", "mIoU"),
    "accuracy": ("semantic", "pixel_accuracy"),
    "mask AP": ("instances", "segm", "AP"),
}


@dataclass
class EvaluationPart:
    """What the report says about an evaluation besides its table of figures.

    Args:
        reference: What the predictions were compared with, ``truth`` or ``pseudo-labels``.
        sentences: The protocol in words.
        intervals: What the brackets are; empty without intervals.
        compared: Protocols and baselines, a row each; empty if there is one row only.
        class_columns: Header of ``classes``.
        classes: A row per class; empty without ``per_class.csv``.
        confusion: SVG of clusters against classes; empty without ``clusters.csv``.
        unmatched: What clusters without a class hold, in words.
        ranked_by: By what images are ranked, in words.
        groups: (heading, pictures) of the worst, middle and best images.
    """

    reference: str = "truth"
    sentences: list[str] = field(default_factory=list)
    intervals: str = ""
    compared: list[MetricRow] = field(default_factory=list)
    class_columns: list[str] = field(default_factory=list)
    classes: list[list[str]] = field(default_factory=list)
    confusion: str = ""
    unmatched: list[str] = field(default_factory=list)
    ranked_by: str = ""
    groups: list[tuple[str, list[Sample]]] = field(default_factory=list)


def evaluation_part(found: Predictions, image_root: Path | None, notes: Notes) -> EvaluationPart:
    """Return the evaluation part of a result folder; what is missing goes into ``notes``.

    Args:
        found: Metrics and predictions.
        image_root: Folder of the evaluation's photographs; None = not known.
        notes: Gets what is left out.
    """
    metrics = found.metrics
    reference = reference_word(metrics)
    part = EvaluationPart(
        reference=reference,
        sentences=protocol_sentences(node(metrics, "protocol")),
        intervals=interval_sentence(node(metrics, "ci95")),
        compared=comparison_rows(metrics),
        unmatched=notes.attempt("unmatched clusters", [], unmatched_sentences, metrics),
        ranked_by=ranking_words(found, notes, reference),
    )
    clusters = found.results / "clusters.csv"
    if clusters.is_file():
        part.confusion = notes.attempt("clusters and classes", "", _confusion, clusters)
    classes = found.results / "per_class.csv"
    if classes.is_file():
        part.class_columns = [*_CLASS_WORDS[:2], *_CLASS_FIGURES, *_CLASS_WORDS[2:]]
        part.classes = notes.attempt("figures of classes", [], _class_rows, classes)
    samples = worst_samples(found, image_root, notes, reference)
    names = {"worst": "Worst", "median": "From the middle", "best": "Best"}
    part.groups = [(names[group], rows) for group, rows in samples.items() if rows]
    return part


def protocol_sentences(protocol: Mapping[str, Any]) -> list[str]:
    """Return the rules of an evaluation in words.

    Args:
        protocol: Block ``protocol`` of ``metrics.json``; what it lacks is not said.

    Examples:
        >>> protocol_sentences({"name": "cups", "matching": "majority", "unmatched": "void",
        ...                     "mapping": {"in_words": "fitted on the same 5 images"}})
        ['Protocol cups. From clusters to classes: many to one: each cluster takes its most voted \
class.', 'The mapping was fitted on the same 5 images.', 'Segments of clusters without a class \
claim no pixel.']
    """
    found = []
    name = protocol.get("name")
    matching = str(protocol.get("matching", ""))
    if matching:
        which = f"Protocol {printable(str(name))}. " if name else ""
        rule = _MATCHINGS.get(matching, printable(matching))
        found.append(f"{which}From clusters to classes: {rule}.")
    votes = _vote_sentence(node(protocol, "things"), node(protocol, "stuff"))
    if votes:
        found.append(votes)
    words = node(protocol, "mapping").get("in_words")
    where = protocol.get("mapping_fitted_on")
    if words or where:
        found.append(f"The mapping was {printable(str(words or f'fitted on {where}'))}.")
    treatment = {"void": "claim no pixel", "false_positive": "are false positives"}
    if protocol.get("unmatched") in treatment:
        found.append(
            f"Segments of clusters without a class {treatment[str(protocol['unmatched'])]}."
        )
    empty = protocol.get("images_without_prediction")
    if empty:
        found.append(f"{empty} of {protocol.get('images')} images have no prediction: empty.")
    return found


def _vote_sentence(things: Mapping[str, Any], stuff: Mapping[str, Any]) -> str:
    parts = []
    if things.get("votes") == "instances":
        above = "above" if things.get("strict") else "of at least"
        parts.append(
            f"things by pairs of instances with a {things.get('overlap')} IoU {above} "
            f"{things.get('iou')} and a score from {things.get('score')} on"
        )
    elif things:
        parts.append(f"things by {things.get('votes')}")
    if stuff.get("votes") == "images":
        parts.append(f"stuff by images in which the IoU is above {stuff.get('iou')}")
    elif stuff:
        parts.append(f"stuff by {stuff.get('votes')}")
    return printable(f"Votes: {', '.join(parts)}.") if parts else ""


def interval_sentence(ci95: Mapping[str, Any]) -> str:
    """Return what the brackets behind figures are; empty without intervals."""
    if not ci95.get("resamples"):
        return ""
    return (
        f"In brackets: 95 % intervals from {ci95['resamples']} resamples of the images (percentile "
        "bootstrap, mapping kept). They cover the choice of images, not that of the mapping or "
        "of the training. A figure that rests on classes of very few images can lie outside its "
        "own interval."
    )


def comparison_rows(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """Return protocols and baselines as rows under the same columns.

    Args:
        metrics: Content of ``metrics.json``; reads ``protocols`` (name -> blocks of the model)
            and ``baselines`` (name -> ``protocols`` -> blocks).

    Returns:
        For each protocol (that of the headline first) the model, then the baselines; empty if
        that is a single row.
    """
    protocols = node(metrics, "protocols")
    if not protocols:
        protocols = {str(node(metrics, "protocol").get("name", "")): metrics}
    baselines = node(metrics, "baselines")
    first = node(metrics, "protocol").get("name")
    rows = []
    for name in sorted(protocols, key=lambda name: (name != first, name)):
        blocks = protocols[name]
        rows.append(_compared(f"{printable(str(name))}: {MODEL}", blocks))
        for baseline in baselines:
            under = node(baselines, baseline, "protocols", name)
            if under:
                title = printable(str(baseline)).replace("_", " ")
                rows.append(_compared(f"{printable(str(name))}: {title}", under))
    return rows if len(rows) > 1 else []


def _compared(name: str, blocks: Any) -> MetricRow:
    tree = blocks if isinstance(blocks, Mapping) else {}
    values, intervals = [], []
    for path in _COMPARED.values():
        values.append(number_text(node(tree, *path[:-1]).get(path[-1])))
        intervals.append(interval_text(node(tree, "ci95", *path[:-1]).get(path[-1])))
    return MetricRow(name.removeprefix(": "), tuple(_COMPARED), tuple(values), tuple(intervals))


def _confusion(path: Path) -> str:
    return confusion_chart(read_lines(path))


def _class_rows(path: Path) -> list[list[str]]:
    """Return the rows of ``per_class.csv`` as the page shows them."""
    rows = []
    for line in read_lines(path):
        figures = [
            line[key] if key in _COUNTS else number_text(float(line[key]) if line[key] else None)
            for key in _CLASS_FIGURES
        ]
        words = [printable(line[key]) for key in _CLASS_WORDS]
        clusters = words[2].split(" ")
        more = f" and {len(clusters) - MAX_NAMES} more" if len(clusters) > MAX_NAMES else ""
        rows.append([*words[:2], *figures, " ".join(clusters[:MAX_NAMES]) + more])
    return rows
