"""Protocols: the rules by which predicted clusters become classes; named ones are in a data file.

A protocol of one's own is a function of ``EvalSettings`` and K that returns an ``EvalProtocol``,
registered in ``PROTOCOLS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

from u2seg.config.evaluation import CUSTOM, RULE_KEYS, EvalSettings
from u2seg.errors import UserError
from u2seg.registry import Registry

COMPARED = ("u2seg-released", "u2seg-paper", "one-to-one", "cups")
"""The protocols that ``--protocol all`` stands for."""
ALL = "all"
PAPER = "u2seg-paper"
PROTOCOLS = Registry("protocol")
PLACES: dict[str, tuple[str, ...]] = {
    **{key: (key,) for key in RULE_KEYS},
    "thing_votes": ("things", "votes"),
    "match_overlap": ("things", "overlap"),
    "match_iou": ("things", "iou"),
    "match_score": ("things", "score"),
    "match_pairs": ("things", "pairs"),
    "match_crowds": ("things", "crowds"),
    "stuff_votes": ("stuff", "votes"),
    "stuff_iou": ("stuff", "iou"),
}
"""Key of ``EvalSettings`` -> where an ``EvalProtocol`` has it."""


@dataclass(frozen=True)
class ThingRule:
    """What a vote for a thing class is.

    Args:
        votes: ``instances`` (pairs of instances), or ``pixels`` of the panoptic maps, or ``none``
            (no class of things is fitted); then the rest does not apply.
        overlap: ``mask`` or ``box`` IoU.
        iou: Least IoU of a pair, 0..1.
        strict: The IoU must be above ``iou``, not equal to it.
        score: Least score of the prediction, 0..1.
        strict_score: The score must be above ``score``.
        crowds: True crowds can be voted for.
        pairs: ``all``, or of each prediction only the ``best`` (the first of equals).
    """

    votes: str = "instances"
    overlap: str = "mask"
    iou: float = 0.5
    strict: bool = False
    score: float = 0.3
    strict_score: bool = False
    crowds: bool = False
    pairs: str = "all"

    def in_words(self) -> str:
        """Return the rule for people.

        Examples:
            >>> ThingRule(overlap="box", iou=0.7, strict=True, crowds=True).in_words()
            'pairs with a box IoU > 0.7, score >= 0.3, crowds too'
        """
        if self.votes != "instances":
            return self.votes
        pairs = "best pair of a prediction" if self.pairs == "best" else "pairs"
        iou = f"{self.overlap} IoU {'>' if self.strict else '>='} {self.iou:g}"
        score = f"score {'>' if self.strict_score else '>='} {self.score:g}"
        return f"{pairs} with a {iou}, {score}, {'crowds too' if self.crowds else 'no crowds'}"


@dataclass(frozen=True)
class StuffRule:
    """What a vote for a stuff class is.

    Args:
        votes: ``pixels``, or ``images``: one vote for each image in which the IoU is enough.
        iou: For ``images``: IoU of the cluster's pixels with the class's that must be exceeded.
    """

    votes: str = "pixels"
    iou: float = 0.15

    def in_words(self) -> str:
        """Return the rule for people."""
        return "pixels" if self.votes == "pixels" else f"images with a mask IoU > {self.iou:g}"


@dataclass(frozen=True)
class EvalProtocol:
    """Rules from clusters to classes; see ``EvalSettings`` for the values.

    Args:
        name: A member of ``PROTOCOLS``.
        matching: ``hungarian``, ``majority``, ``hungarian+majority`` or ``identity``.
        things, stuff: What a vote is.
        apart: Things and stuff are matched apart.
        unmatched: ``void`` or ``false_positive``, for the headline; both are reported.
        merge_stuff: Predicted segments of one stuff class become one.
        note: Where the thresholds come from, for people.
    """

    name: str
    matching: str
    things: ThingRule = ThingRule()
    stuff: StuffRule = StuffRule()
    apart: bool = True
    unmatched: str = "void"
    merge_stuff: bool = True
    note: str = ""

    def in_words(self) -> tuple[str, str, str, str, str]:
        """Return matching, votes for things, votes for stuff, stuff segments, unmatched ones."""
        rules = ("-", "-")
        if self.matching != "identity":
            rules = (self.things.in_words(), self.stuff.in_words())
        merged = "merged" if self.merge_stuff else "as predicted"
        together = "" if self.apart else ", things and stuff together"
        return (self.matching + together, *rules, merged, self.unmatched.replace("_", " "))

    def to_json(self) -> dict[str, Any]:
        """Return the protocol as it stands in ``metrics.json``; rules that apply, no others."""
        content = asdict(self)
        if self.matching == "identity":
            del content["things"], content["stuff"], content["apart"]
            return content
        if self.things.votes != "instances":
            content["things"] = {"votes": self.things.votes}
        if self.stuff.votes == "pixels":
            content["stuff"] = {"votes": "pixels"}
        return content


def protocol_of(settings: EvalSettings, num_things: int) -> EvalProtocol:
    """Return the protocol that the settings name.

    Args:
        settings: ``U2SEG.EVAL``.
        num_things: K of the predictions; ``u2seg-paper`` has thresholds for each.

    Raises:
        UserError: if there is none of that name, or a key that it fixes is set to something else.

    Examples:
        >>> protocol_of(EvalSettings(protocol="u2seg-paper"), 800).things.score
        0.4
        >>> protocol_of(EvalSettings(protocol="one-to-one", match_iou=0.6), 800)
        Traceback (most recent call last):
            ...
        u2seg.errors.UserError: U2SEG.EVAL.MATCH_IOU is 0.6, but the protocol one-to-one makes \
it 0.5: remove the key, or write U2SEG.EVAL.PROTOCOL custom U2SEG.EVAL.MATCH_IOU 0.6 in place \
of the protocol
    """
    protocol: EvalProtocol = PROTOCOLS.get(settings.protocol)(settings, num_things)
    if settings.protocol != CUSTOM:
        _check_keys(settings, protocol)
    return protocol


def expand_names(names: Sequence[str], *, check: bool = True) -> list[str]:
    """Return the protocols of a ``--protocol`` option: ``all`` spelt out, each once, in order.

    Args:
        names: Words; one may hold several names with commas between them.
        check: Look the names up; False before plug-ins are loaded.

    Raises:
        UserError: if a name is unknown.

    Examples:
        >>> expand_names(["cups,identity", "all"])
        ['cups', 'identity', 'u2seg-released', 'u2seg-paper', 'one-to-one']
    """
    found: dict[str, None] = {}
    for name in (part for word in names for part in word.split(",")):
        if check and name != ALL:
            PROTOCOLS.get(name)
        found.update(dict.fromkeys(COMPARED if name == ALL else (name,)))
    return list(found)


def paper_thresholds(data: str, num_things: int) -> tuple[float, float, str]:
    """Return (IoU, confidence) published for a data set and K, and what to say about it.

    The paper has thresholds for three K; for any other those of the nearest are returned (of the
    smaller of two that are as near).

    Examples:
        >>> paper_thresholds("voc", 800)
        (0.8, 0.2, "the paper's thresholds for voc and 800 thing clusters")
        >>> _, _, note = paper_thresholds("coco", 54)
        >>> note.removeprefix("the paper's thresholds for coco and 300 thing clusters")
        ' (it has none for 54; 300 is the nearest)'
    """
    rows = _data()["paper_thresholds"][data]
    nearest = min(rows, key=lambda k: (abs(k - num_things), k))
    iou, score = rows[nearest]
    note = f"the paper's thresholds for {data} and {nearest} thing clusters"
    if nearest != num_things:
        note += f" (it has none for {num_things}; {nearest} is the nearest)"
    return iou, score, note


@cache
def _data() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("protocols.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _named(settings: EvalSettings, num_things: int) -> EvalProtocol:
    row = _data()["protocols"][settings.protocol]
    things, stuff = ThingRule(**row.get("things", {})), StuffRule(**row.get("stuff", {}))
    rule = EvalProtocol(settings.protocol, **{**row, "things": things, "stuff": stuff})
    if rule.name != PAPER:
        return rule
    iou, score, note = paper_thresholds(settings.paper_data, num_things)
    return replace(rule, things=replace(things, iou=iou, score=score), note=note)


for _name in _data()["protocols"]:
    PROTOCOLS.register(_name)(_named)


@PROTOCOLS.register(CUSTOM)
def _custom(settings: EvalSettings, num_things: int) -> EvalProtocol:
    rules: dict[str, Any] = {"things": {}, "stuff": {}}
    for key, place in PLACES.items():
        node = rules[place[0]] if len(place) > 1 else rules
        node[place[-1]] = getattr(settings, key)
    things, stuff = ThingRule(**rules.pop("things")), StuffRule(**rules.pop("stuff"))
    return EvalProtocol(CUSTOM, things=things, stuff=stuff, note="U2SEG.EVAL", **rules)


def _check_keys(settings: EvalSettings, protocol: EvalProtocol) -> None:
    """Refuse a key that says something else than the protocol; a default says nothing."""
    default, content = EvalSettings(), asdict(protocol)
    fixed = {
        key: content[place[0]][place[1]] if len(place) > 1 else content[place[0]]
        for key, place in PLACES.items()
    }
    for key in RULE_KEYS:
        given, value = getattr(settings, key), fixed[key]
        if given not in (getattr(default, key), value):
            raise UserError(
                f"U2SEG.EVAL.{key.upper()} is {given!r}, but the protocol {protocol.name} makes "
                f"it {value!r}: remove the key, or {_instead(settings, protocol, fixed)}"
            )


def _instead(settings: EvalSettings, protocol: EvalProtocol, fixed: dict[str, Any]) -> str:
    """Return how to have a protocol's rules with the keys that contradict it."""
    default = EvalSettings()
    rules = {
        key: given if (given := getattr(settings, key)) != getattr(default, key) else fixed[key]
        for key in RULE_KEYS
    }
    try:
        replace(default, **rules)
        fits = not (protocol.things.strict or protocol.things.strict_score)
    except UserError:  # these do not go together
        fits = False
    if not fits:
        return f"set U2SEG.EVAL.PROTOCOL {CUSTOM} to choose rules one by one"
    words = [
        f"U2SEG.EVAL.{key.upper()} {value}"
        for key, value in rules.items()
        if value != getattr(default, key)
    ]
    return f"write {' '.join([f'U2SEG.EVAL.PROTOCOL {CUSTOM}', *words])} in place of the protocol"
