"""Which class each cluster stands for: fitted from votes, read from a file, or the identity.

``mapping.json``: a cluster mapping with its evidence, written and read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from u2seg.config.evaluation import MATCHINGS
from u2seg.errors import UserError
from u2seg.evaluation.collect import ImageTable
from u2seg.evaluation.metrics.matching import UNMATCHED, Votes, match
from u2seg.evaluation.protocols.rules import EvalProtocol
from u2seg.evaluation.protocols.votes import PixelCounts, pixel_counts, stuff_votes, thing_votes
from u2seg.evaluation.truth.base import Truth
from u2seg.evaluation.truth.coco import PanopticSet
from u2seg.evaluation.truth.splits import Split
from u2seg.io.jsonfile import read_json_object
from u2seg.structures.labels import LabelSpace

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
    """Return the mapping that a protocol, whose matching is not ``identity``, makes of images.

    Args:
        protocol: The rules.
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
        rows={
            cluster: ClusterRow(total_votes=int(votes[row].sum()))
            if col == UNMATCHED
            else ClusterRow(int(votes[row, col]), int(votes[row].sum()), pixels.iou(row, col))
            for row, (cluster, col) in enumerate(zip(clusters, chosen.tolist(), strict=True))
        },
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


def identity_mapping(
    protocol: EvalProtocol, clusters: ClusterIds, truth: Truth, whose: str = "the model"
) -> ClusterMapping:
    """Return the mapping of predictions whose category ids are the true ones.

    Raises:
        UserError: if a predicted category is no true category of the same kind; says ``whose``.
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
    """Refuse a mapping to other classes than those of the truth; arguments as above.

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


VERSION = 2
"""Version 1 had no key of this name, and neither votes nor classes."""
_KINDS = ("things", "stuff")
_KEYS = ("protocol", "fitted_on", "clusters", "class_set", "classes", *_KINDS, "votes")


def mapping_json(mapping: ClusterMapping) -> dict[str, Any]:
    """Return the content of ``mapping.json``.

    Returns:
        ``version``, ``protocol``, ``fitted_on`` (truth, its hash, images; None = not fitted),
        ``clusters`` (K and S), ``class_set`` (its name), ``classes``; ``things`` and ``stuff``:
        category id of every cluster -> ``class_id``, ``class_name`` (None without a class),
        ``votes``, ``total_votes``, ``IoU``; ``votes``: [cluster, class, votes] of every pair
        with a vote.
    """
    names, classes, split = mapping.names(), mapping.all, mapping.fitted_on
    kinds = dict(zip(_KINDS, mapping.clusters, strict=True))

    def row(cluster: int) -> dict[str, Any]:
        known = mapping.rows.get(cluster, ClusterRow())
        return {
            "class_id": classes.get(cluster),
            "class_name": names.get(cluster),
            "votes": known.votes,
            "total_votes": known.total_votes,
            "IoU": known.iou,
        }

    return {
        "version": VERSION,
        "protocol": mapping.protocol,
        "fitted_on": split
        and {
            "truth": split.source,
            "truth_sha256": split.sha256,
            "fit_share": split.share,
            "images": len(split.images),
            "stem_keys": list(split.images),
        },
        "clusters": {kind: len(ids) for kind, ids in kinds.items()},
        "class_set": mapping.class_set,
        "classes": [
            {"id": i, "name": name, "isthing": int(thing)} for i, name, thing in mapping.classes
        ],
        **{kind: {str(c): row(c) for c in ids} for kind, ids in kinds.items()},
        "votes": [list(vote) for vote in mapping.votes],
    }


def read_mapping(path: Path) -> ClusterMapping:
    """Return the mapping in a file; nothing in it is trusted.

    Raises:
        UserError: if the file is missing or of another version, or it is garbled: a key is
            missing or of another type, or its parts contradict one another, such as a vote for
            a class that it does not list.
    """
    content = read_json_object(path)
    version = content.get("version")
    if version != VERSION:
        old = "an earlier version of this program wrote it" if version is None else "unknown"
        raise UserError(
            f"{path} is no mapping of version {VERSION} (version {version!r}: {old}): evaluate "
            "the model again to write a new one"
        )
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise UserError(f"{path} lacks the key {missing[0]!r}: evaluate the model again")
    try:
        return _parse(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is garbled ({type(error).__name__}: {error}): evaluate the model again"
        ) from error


def with_class_names(space: LabelSpace, path: Path) -> LabelSpace:
    """Return a label space whose clusters are called as the classes they stand for.

    Returns:
        The same ids; clusters without a class keep their names, and several may share one. A
        name that rests on a single vote has a question mark: ``cat?``.

    Raises:
        UserError: as ``read_mapping`` and ``check_clusters``.
    """
    mapping = read_mapping(path)
    things = tuple(range(1, space.num_things + 1))
    stuff = tuple(range(space.num_things + 1, space.num_things + space.num_stuff + 1))
    check_clusters(mapping, path, (things, stuff))
    rows = mapping.rows
    names = {
        cluster: f"{name}?" if cluster in rows and rows[cluster].votes == 1 else name
        for cluster, name in mapping.names().items()
    }
    called = [tuple(names.get(i, space.name(i)) for i in ids) for ids in (things, stuff)]
    return LabelSpace(space.num_things, space.num_stuff, *called)


def _parse(content: dict[str, Any]) -> ClusterMapping:
    protocol = content["protocol"]
    if not (
        isinstance(protocol["name"], str)
        and protocol["matching"] in MATCHINGS
        and isinstance(protocol["merge_stuff"], bool)
        and isinstance(protocol.get("apart", True), bool)
        and protocol["unmatched"] in ("void", "false_positive")
    ):
        raise ValueError(f"protocol is {protocol!r}")
    classes = tuple(_class(row) for row in content["classes"])
    maps: dict[str, dict[int, int | None]] = {}
    rows: dict[int, ClusterRow] = {}
    for kind in _KINDS:
        maps[kind] = {int(c): row["class_id"] for c, row in content[kind].items()}
        rows.update({int(c): _row(row) for c, row in content[kind].items()})
        if len(maps[kind]) != content["clusters"][kind]:
            raise ValueError(f"{len(maps[kind])} {kind}, but clusters say {content['clusters']}")
    _check_maps(maps, classes, apart=protocol.get("apart", True))
    split = content["fitted_on"]
    if (split is None) != (protocol["matching"] == "identity"):
        source = None if split is None else split["truth"]
        raise ValueError(f"fitted_on is {source}, but the matching {protocol['matching']}")
    things, stuff = ({a: b for a, b in maps[kind].items() if b is not None} for kind in _KINDS)
    return ClusterMapping(
        things=things,
        stuff=stuff,
        protocol=dict(protocol),
        clusters=(tuple(maps["things"]), tuple(maps["stuff"])),
        classes=classes,
        class_set=str(content["class_set"]),
        fitted_on=None
        if split is None
        else Split(
            str(split["truth"]),
            str(split["truth_sha256"]),
            tuple(str(key) for key in split["stem_keys"]),
            float(split["fit_share"]),
        ),
        rows=rows,
        votes=_votes(content["votes"], set(rows), {category for category, _, _ in classes}),
    )


def _class(row: dict[str, Any]) -> tuple[int, str, bool]:
    if not isinstance(row["name"], str) or _whole(row["isthing"], "isthing") > 1:
        raise ValueError(f"a class is {row!r}")
    return _whole(row["id"], "the id of a class"), row["name"], bool(row["isthing"])


def _check_maps(
    maps: Mapping[str, Mapping[int, int | None]], classes: ClassList, *, apart: bool
) -> None:
    """Raise ValueError if the classes of clusters are none of these, or, apart, of other kind."""
    isthing = {category: thing for category, _, thing in classes}
    if len(isthing) < len(classes):
        raise ValueError("an id of classes is used twice")
    both = set(maps["things"]) & set(maps["stuff"])
    if both:
        raise ValueError(f"cluster {min(both)} is among things and stuff")
    for kind in _KINDS:
        for cluster, category in maps[kind].items():
            if category is None:
                continue
            if _whole(category, "class_id") not in isthing:
                raise ValueError(f"class_id {category} is none of classes")
            if apart and isthing[category] != (kind == "things"):
                raise ValueError(f"{kind}: cluster {cluster} has class_id {category} of other kind")


def _votes(
    cells: list[Any], clusters: set[int], classes: set[int]
) -> tuple[tuple[int, int, int], ...]:
    votes = []
    for cell in cells:
        cluster, category, number = (_whole(value, "a number of votes") for value in cell)
        if cluster not in clusters or category not in classes:
            raise ValueError(f"votes has {cell!r}, whose cluster or class is unknown")
        votes.append((cluster, category, number))
    return tuple(votes)


def _row(row: dict[str, Any]) -> ClusterRow:
    iou = row["IoU"]
    if iou is not None and (isinstance(iou, bool) or not 0 <= iou <= 100):
        raise ValueError(f"IoU is {iou!r}")
    votes, total = _whole(row["votes"], "votes"), _whole(row["total_votes"], "total_votes")
    return ClusterRow(votes, total, None if iou is None else float(iou))


def _whole(value: Any, what: str) -> int:
    """Return a whole number >= 0; ValueError for anything else, also for true and 1.0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{what} is {value!r}, expected a whole number >= 0")
    return value
