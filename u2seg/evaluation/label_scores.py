"""Score panoptic pseudo-labels against truth without classes: are the segments right?

Before training there is no mapping from clusters to classes, and a rule of merging changes no
cluster. So every segment counts as one class ("segment"), and things and stuff as two. Used to
judge labels only: nothing that makes labels reads the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.evaluation.files import (
    GroundTruth,
    PanopticSet,
    check_shape,
    read_panoptic_set,
    read_truth,
    settled_areas,
)
from u2seg.evaluation.overlap import Overlap, count_overlaps
from u2seg.evaluation.panoptic import ClassCounts, TruthSegment, count_matches, mean_quality
from u2seg.evaluation.table import align
from u2seg.io.paths import stem_of
from u2seg.io.progress import Bar
from u2seg.structures.labels import VOID_ID

SEGMENT, THING, STUFF = 0, 1, 2
NAMES = {"segments": SEGMENT, "things": THING, "stuff": STUFF}


def score_labels(labels: Path, truth: GroundTruth) -> dict[str, Any]:
    """Return the class-agnostic panoptic quality of a labelling run.

    Images are paired by their PNG's name, and the images that both know are scored.

    Args:
        labels: Output folder of a labelling run.
        truth: COCO panoptic truth.

    Returns:
        ``images``, ``unlabelled`` (share of the pixels with truth that have no segment,
        percent), and for ``segments`` (all one class), ``things`` and ``stuff``: ``PQ``,
        ``SQ``, ``RQ`` in percent, and ``tp``, ``fp``, ``fn``.

    Raises:
        UserError: if a file is missing or garbled, sizes or true areas differ, or no image is
            known to both.
    """
    true_set = read_truth(truth)
    folder = Path(labels) / "panoptic"
    found = read_panoptic_set(folder / "panoptic.json", folder / "panoptic")
    by_name = {stem_of(name): i for i, name in found.file_names.items()}
    pairs = {
        t: by_name[stem_of(name)]
        for t, name in true_set.file_names.items()
        if stem_of(name) in by_name
    }
    if not pairs:
        raise UserError(f"none of the images of {found.source} is in {true_set.source}")
    totals = {name: ClassCounts() for name in NAMES}
    missing = pixels = 0
    for true_id, found_id in Bar(sorted(pairs.items()), desc="score"):
        overlap = _overlap(true_set, true_id, found, found_id)
        known = overlap.truth != VOID_ID
        missing += int(overlap.pixels[known & (overlap.predicted == VOID_ID)].sum())
        pixels += int(overlap.pixels[known].sum())
        for kinds in ((SEGMENT, SEGMENT), (THING, STUFF)):
            guess = {i: s.category for i, s in _collapsed(found, found_id, kinds).items()}
            counts = count_matches(overlap, _collapsed(true_set, true_id, kinds), guess)
            for name, kind in NAMES.items():
                totals[name].add(counts.get(kind, ClassCounts()))
    scores = {name: _row(totals[name]) for name in NAMES}
    return {"images": len(pairs), "unlabelled": 100.0 * missing / max(pixels, 1), **scores}


def format_label_scores(scores: dict[str, Any]) -> str:
    """Return the result of ``score_labels`` as a table; percent."""
    columns = ("PQ", "SQ", "RQ", "tp", "fp", "fn")
    table = align(
        ["class-agnostic", *columns], [[n, *(scores[n][c] for c in columns)] for n in NAMES]
    )
    return f"{scores['images']} images, {scores['unlabelled']:.2f} % unlabelled\n\n{table}"


def _overlap(true_set: PanopticSet, true_id: int, found: PanopticSet, found_id: int) -> Overlap:
    ids, guess = true_set.read_ids(true_id), found.read_ids(found_id)
    check_shape(found.path(found_id), guess.shape, ids.shape, "the true map has")
    overlap = count_overlaps(ids, guess)
    true_set.check_ids(true_id, set(overlap.truth.tolist()))
    segments = true_set.segments[true_id]
    true_set.segments[true_id] = settled_areas(true_set, true_id, segments, overlap)
    found.check_ids(found_id, set(overlap.predicted.tolist()), every=True)
    return overlap


def _collapsed(
    panoptic: PanopticSet, image_id: int, kinds: tuple[int, int]
) -> dict[int, TruthSegment]:
    """Return the segments of an image with one category for things and one for stuff."""
    things = set(panoptic.things)
    return {
        i: TruthSegment(kinds[s.category not in things], s.area, s.crowd)
        for i, s in panoptic.segments[image_id].items()
    }


def _row(counts: ClassCounts) -> dict[str, Any]:
    quality = mean_quality({SEGMENT: counts}, [SEGMENT])
    return {
        **{key: quality[key] for key in ("PQ", "SQ", "RQ")},
        "tp": counts.tp,
        "fp": counts.fp,
        "fn": counts.fn,
    }
