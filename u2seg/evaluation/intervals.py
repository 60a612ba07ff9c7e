"""The block ``ci95`` of ``metrics.json``: intervals of the headline figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from u2seg.evaluation.bootstrap import (
    Source,
    confidence_intervals,
    panoptic_source,
    semantic_source,
)
from u2seg.evaluation.figures import ImageCounts
from u2seg.evaluation.panoptic import ClassCounts
from u2seg.evaluation.resampled_ap import Matches, detection_source
from u2seg.evaluation.truth import PANOPTIC, SEMANTIC, Truth

METHOD = "percentile bootstrap over images"


def figure_sources(
    truth: Truth,
    counts: Sequence[ImageCounts],
) -> list[Source]:
    """Return the sources of the panoptic and semantic figures that a truth can answer.

    Args:
        truth: Names the classes.
        counts: Of all images, by image id.
    """
    sources = []
    if PANOPTIC in truth.tasks:
        rows = [image.panoptic for image in counts]
        sources.append(panoptic_source(rows, truth.things, truth.stuff))
    if SEMANTIC in truth.tasks:
        place = {category: index for index, category in enumerate(truth.names)}
        cells = [
            (
                [place[c] for c in image.confusion.true_class.tolist()],
                [place.get(c, -1) for c in image.confusion.predicted.tolist()],
                image.confusion.pixels,
            )
            for image in counts
        ]
        sources.append(semantic_source(cells, len(place)))
    return sources


def treatment_sources(
    truth: Truth, block: str, treatments: Mapping[str, Sequence[Mapping[int, ClassCounts]]]
) -> list[Source]:
    """Return the sources of panoptic quality under several treatments of the same segments.

    Args:
        truth: Names the classes.
        block: ``unmatched`` or ``stuff_merging``.
        treatments: Name -> counts of each image.
    """
    return [
        panoptic_source(rows, truth.things, truth.stuff, (block, name))
        for name, rows in treatments.items()
    ]


def detection_sources(matches: Mapping[str, Mapping[str, Matches]]) -> list[Source]:
    """Return the sources of AP and AR.

    Args:
        matches: ``instances`` or ``class_agnostic`` -> kind (``box``, ``segm``) -> matches.
    """
    return [
        detection_source(found, part, kind)
        for part, kinds in matches.items()
        for kind, found in kinds.items()
    ]


def ci95(sources: Sequence[Source], images: int, resamples: int, seed: int) -> dict[str, Any]:
    """Return the block ``ci95``.

    Args:
        sources: From ``figure_sources`` and ``detection_sources``, over the same images.
        images: Scored images.
        resamples: B >= 1.
        seed: Of the draws.

    Returns:
        ``method``, ``resamples``, ``seed``, ``mapping`` (``kept``: fitted once, not anew in each
        resample), and the same tree as the figures with [low, high] in percent.
    """
    head = {"method": METHOD, "resamples": resamples, "seed": seed, "mapping": "kept"}
    return {**head, **confidence_intervals(sources, images, resamples, seed)}
