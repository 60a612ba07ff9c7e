"""Which class each cluster stands for: fitted from votes, read from a file, or the identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2seg.errors import UserError
from u2seg.evaluation.files import PanopticSet
from u2seg.evaluation.matching import UNMATCHED, Votes, hungarian_map, majority_map
from u2seg.evaluation.truth import Truth
from u2seg.io.jsonfile import read_json_object

ON_SCORED_SPLIT = "the scored split"
NOT_FITTED = "nothing: ids are classes"
_KINDS = ("things", "stuff")


@dataclass(frozen=True)
class ClusterMapping:
    """Predicted category id -> true category id; clusters without a class are left out.

    Args:
        things, stuff: The two maps.
        fitted_on: Where the votes came from, for people.
        matching: ``hungarian``, ``majority`` or ``identity``.
    """

    things: dict[int, int]
    stuff: dict[int, int]
    fitted_on: str
    matching: str

    @property
    def all(self) -> dict[int, int]:
        """Both maps in one; thing and stuff ids never coincide."""
        return {**self.things, **self.stuff}

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``mapping.json``."""
        maps = {k: {str(a): b for a, b in getattr(self, k).items()} for k in _KINDS}
        return {"matching": self.matching, "fitted_on": self.fitted_on, **maps}


def fit_mapping(
    matching: str, predicted: PanopticSet, truth: Truth, things: Votes, stuff: Votes
) -> ClusterMapping:
    """Return the mapping that the votes give; things and stuff are matched apart.

    Args:
        matching: ``hungarian`` or ``majority``.
        predicted: Gives the category ids of the rows.
        truth: Gives the category ids of the columns.
        things: (K, C) votes of thing clusters for thing classes.
        stuff: (S, D) votes of stuff clusters for stuff classes.
    """
    solve = hungarian_map if matching == "hungarian" else majority_map

    def ids(votes: Votes, rows: Sequence[int], cols: Sequence[int]) -> dict[int, int]:
        chosen = solve(votes).tolist()
        return {row: cols[c] for row, c in zip(rows, chosen, strict=True) if c != UNMATCHED}

    return ClusterMapping(
        things=ids(things, predicted.things, truth.things),
        stuff=ids(stuff, predicted.stuff, truth.stuff),
        fitted_on=ON_SCORED_SPLIT,
        matching=matching,
    )


def identity_mapping(predicted: PanopticSet, truth: Truth) -> ClusterMapping:
    """Return the mapping of a model whose category ids are the true ones.

    Raises:
        UserError: if a predicted category is no true category of the same kind.
    """
    for kind in _KINDS:
        strange = sorted(set(getattr(predicted, kind)) - set(getattr(truth, kind)))
        if strange:
            raise UserError(
                f"U2SEG.EVAL.MATCHING is 'identity', but the predicted {kind} category "
                f"{strange[0]} is none of {truth.source}: use 'hungarian' or 'majority'"
            )
    return ClusterMapping(
        things={i: i for i in predicted.things},
        stuff={i: i for i in predicted.stuff},
        fitted_on=NOT_FITTED,
        matching="identity",
    )


def read_mapping(path: Path, predicted: PanopticSet, truth: Truth) -> ClusterMapping:
    """Return a mapping that an earlier evaluation wrote, e.g. on a held-out split.

    Raises:
        UserError: if the file is missing or garbled, or names an id that is unknown here.
    """
    content = read_json_object(path, "matching", *_KINDS)
    maps: dict[str, dict[int, int]] = {}
    for kind in _KINDS:
        try:
            maps[kind] = {int(a): int(b) for a, b in content[kind].items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {kind!r} must map category ids to ids: {error}") from error
        for known, ids in (
            (getattr(predicted, kind), maps[kind].keys()),
            (getattr(truth, kind), maps[kind].values()),
        ):
            strange = sorted(set(ids) - set(known))
            if strange:
                raise UserError(f"{path}: {kind} id {strange[0]} is unknown: another model's file?")
    return ClusterMapping(maps["things"], maps["stuff"], str(path), str(content["matching"]))
