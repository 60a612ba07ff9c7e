"""Which class each cluster stands for: fitted from votes, read from a file, or the identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.errors import UserError
from u2seg.evaluation.files import PanopticSet
from u2seg.evaluation.gather import ImageTable
from u2seg.evaluation.holdout import Split
from u2seg.evaluation.matching import UNMATCHED, Votes, match
from u2seg.evaluation.protocols import EvalProtocol
from u2seg.evaluation.truth import Truth
from u2seg.evaluation.votes import PixelCounts, pixel_counts, stuff_votes, thing_votes

ClusterIds = tuple[tuple[int, ...], tuple[int, ...]]
"""Category ids of K thing and S stuff clusters."""
ClassList = tuple[tuple[int, str, bool], ...]
"""Id, name, and whether it is a thing, of every class; things first."""
LEAVE_OUT = "leave --mapping out"


@dataclass(frozen=True)
class ClusterRow:
    """What is known of one cluster.

    Args:
        votes: For its class; 0 without one.
        total_votes: For all classes.
        iou: In percent, of all its pixels with all pixels of its class, over the images of the
            fit (true void and crowds left out); None without a class or a pixel.
    """

    votes: int = 0
    total_votes: int = 0
    iou: float | None = None


@dataclass(frozen=True)
class ClusterMapping:
    """Predicted category id -> true category id; clusters without a class are left out.

    Args:
        things, stuff: The two maps.
        protocol: Rules by which it was made, as ``EvalProtocol.to_json``.
        clusters: All of the model, with and without a class.
        classes: The classes mapped to.
        class_set: What these classes are called together.
        fitted_on: Images whose votes made it; None = nothing was fitted.
        rows: Category id -> what is known of the cluster.
        votes: (cluster, class, votes) of all pairs with a vote.
    """

    things: dict[int, int]
    stuff: dict[int, int]
    protocol: dict[str, Any] = field(default_factory=dict)
    clusters: ClusterIds = ((), ())
    classes: ClassList = ()
    class_set: str = ""
    fitted_on: Split | None = None
    rows: dict[int, ClusterRow] = field(default_factory=dict)
    votes: tuple[tuple[int, int, int], ...] = ()

    @property
    def all(self) -> dict[int, int]:
        """Both maps in one; thing and stuff ids never coincide."""
        return {**self.things, **self.stuff}

    @property
    def matching(self) -> str:
        """The rule that turned votes into classes."""
        return str(self.protocol.get("matching", ""))

    def names(self) -> dict[int, str]:
        """Return category id -> class name of the clusters that have a class."""
        names = {category: name for category, name, _ in self.classes}
        return {cluster: names[category] for cluster, category in self.all.items()}


def class_list(truth: Truth) -> ClassList:
    """Return the classes of a truth."""
    things = set(truth.things)
    return tuple((i, name, i in things) for i, name in truth.names.items())


def fit_mapping(
    protocol: EvalProtocol,
    tables: Sequence[ImageTable],
    predicted: PanopticSet,
    truth: Truth,
    share: float = 0.0,
) -> ClusterMapping:
    """Return the mapping that a protocol makes of images.

    Args:
        protocol: Its matching is not ``identity``.
        tables: Of the images to fit on.
        predicted: Gives the category ids of the clusters.
        truth: Gives the classes.
        share: Of the images that was asked for; kept for the record.
    """
    clusters = (*predicted.things, *predicted.stuff)
    classes = (*truth.things, *truth.stuff)
    pixels = pixel_counts(tables, clusters, classes)
    votes, chosen = _match(protocol, tables, predicted, truth, pixels)
    found = {
        cluster: classes[col]
        for cluster, col in zip(clusters, chosen.tolist(), strict=True)
        if col != UNMATCHED
    }
    return ClusterMapping(
        things={cluster: found[cluster] for cluster in predicted.things if cluster in found},
        stuff={cluster: found[cluster] for cluster in predicted.stuff if cluster in found},
        protocol=protocol.to_json(),
        clusters=(predicted.things, predicted.stuff),
        classes=class_list(truth),
        fitted_on=Split.of(truth, [table.image_id for table in tables], share),
        rows=_rows(clusters, chosen.tolist(), votes, pixels),
        votes=tuple(
            (clusters[row], classes[col], int(votes[row, col]))
            for row, col in zip(*np.nonzero(votes), strict=True)
        ),
    )


def _match(
    protocol: EvalProtocol,
    tables: Sequence[ImageTable],
    predicted: PanopticSet,
    truth: Truth,
    pixels: PixelCounts,
) -> tuple[Votes, Votes]:
    """Return the (K + S, C + D) votes and the (K + S,) column of each cluster."""
    if not protocol.apart:
        return pixels.votes, match(protocol.matching, pixels.votes)
    rows, cols = len(predicted.things), len(truth.things)
    votes = np.zeros_like(pixels.votes)
    if protocol.things.votes == "pixels":
        votes[:rows, :cols] = pixels.votes[:rows, :cols]
    elif protocol.things.votes == "instances":
        votes[:rows, :cols] = thing_votes(tables, predicted.things, truth.things, protocol.things)
    votes[rows:, cols:] = stuff_votes(tables, predicted.stuff, truth.stuff, protocol.stuff)
    things = match(protocol.matching, votes[:rows, :cols])
    stuff = match(protocol.matching, votes[rows:, cols:])
    return votes, np.concatenate([things, np.where(stuff == UNMATCHED, UNMATCHED, stuff + cols)])


def _rows(
    clusters: Sequence[int], chosen: Sequence[int], votes: Votes, pixels: PixelCounts
) -> dict[int, ClusterRow]:
    rows = {}
    for row, (cluster, col) in enumerate(zip(clusters, chosen, strict=True)):
        total = int(votes[row].sum())
        if col == UNMATCHED:
            rows[cluster] = ClusterRow(total_votes=total)
        else:
            rows[cluster] = ClusterRow(int(votes[row, col]), total, pixels.iou(row, col))
    return rows


def identity_mapping(
    protocol: EvalProtocol, clusters: ClusterIds, truth: Truth, whose: str = "the model"
) -> ClusterMapping:
    """Return the mapping of predictions whose category ids are the true ones.

    Args:
        protocol: Its matching is ``identity``.
        clusters: Predicted categories.
        truth: Gives the classes.
        whose: What predicted them, for the message.

    Raises:
        UserError: if a predicted category is no true category of the same kind.
    """
    for kind, ours, known in zip(
        ("things", "stuff"), clusters, (truth.things, truth.stuff), strict=True
    ):
        strange = sorted(set(ours) - set(known))
        if strange:
            raise UserError(
                f"the protocol is {protocol.name} with matching 'identity', but the {kind} "
                f"category {strange[0]} of {whose} is none of {truth.source}: choose another "
                "U2SEG.EVAL.PROTOCOL, such as one-to-one"
            )
    things, stuff = clusters
    return ClusterMapping(
        things={i: i for i in things},
        stuff={i: i for i in stuff},
        protocol=protocol.to_json(),
        clusters=clusters,
        classes=class_list(truth),
    )


def check_clusters(
    mapping: ClusterMapping,
    path: Path,
    clusters: ClusterIds,
    instead: str = LEAVE_OUT,
    whose: str = "this model has",
) -> None:
    """Refuse a mapping of a model with other clusters.

    Args:
        mapping: Read from ``path``.
        path: For the message.
        clusters: Of the model.
        instead: What to do to be rid of the mapping, for the message.
        whose: Who has these clusters, for the message.

    Raises:
        UserError: if they differ; names both numbers.
    """
    for kind, ours, theirs in zip(("thing", "stuff"), clusters, mapping.clusters, strict=True):
        if set(ours) == set(theirs):
            continue
        counts = f"{len(theirs)} {kind} clusters, {whose} {len(ours)}"
        if len(ours) == len(theirs):
            counts += f" of other ids, e.g. {min(set(ours) ^ set(theirs))}"
        raise UserError(
            f"{path} is the mapping of a model with {counts}: take the mapping.json that an "
            f"evaluation of this model wrote, or {instead}"
        )


def check_classes(
    mapping: ClusterMapping, path: Path, truth: Truth, instead: str = LEAVE_OUT
) -> None:
    """Refuse a mapping to other classes than those of the truth.

    Args:
        mapping: Read from ``path``.
        path: For the message.
        truth: Gives the classes.
        instead: What to do to be rid of the mapping, for the message.

    Raises:
        UserError: if they differ; names the numbers and the first class that differs.
    """
    ours, theirs = class_list(truth), mapping.classes
    if set(ours) == set(theirs):
        return
    odd = min(set(ours) ^ set(theirs))
    where = f"only {truth.source} has" if odd in ours else "only the mapping has"
    raise UserError(
        f"{path} maps to {len(theirs)} classes ({mapping.class_set or 'a set without a name'}), "
        f"{truth.source} has {len(ours)}: "
        f"{where} {'thing' if odd[2] else 'stuff'} {odd[0]} {odd[1]!r}. Evaluate on the classes "
        f"the mapping was made for (U2SEG.EVAL.CLASSES), or {instead} to fit a new one"
    )
