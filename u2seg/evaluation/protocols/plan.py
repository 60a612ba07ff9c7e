"""How an evaluation goes from clusters to classes: settled, and checked, before any work.

What contradicts itself is refused here, so that a model need not predict first: a mapping and
rules that differ from those it was made by, ids that are no classes, images that cannot be held
out, label files that do not fit the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from u2seg.config.evaluation import CUSTOM, RULE_KEYS, EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation.protocols.mapping import (
    LEAVE_OUT,
    ClusterIds,
    ClusterMapping,
    check_classes,
    check_clusters,
    identity_mapping,
    read_mapping,
)
from u2seg.evaluation.protocols.rules import PLACES, EvalProtocol, protocol_of
from u2seg.evaluation.protocols.task_rules import rule_for, with_merging
from u2seg.evaluation.truth.base import Truth
from u2seg.evaluation.truth.predictions import Predictions, check_maps, cropped, read_labels
from u2seg.evaluation.truth.splits import hold_out


@dataclass(frozen=True)
class MappingFile:
    """A mapping to use instead of a fit.

    Args:
        path: ``mapping.json`` of an earlier evaluation.
        instead: What to do to be rid of it, for messages.
    """

    path: Path
    instead: str = LEAVE_OUT


@dataclass(frozen=True)
class Plan:
    """What an evaluation will do.

    Args:
        rules: Protocols as they are used on the truth; with a mapping its own.
        given: The mapping to use; None = fit one for each protocol.
        fit_ids: Images that votes are taken from.
        score_ids: Images that are scored.
        labels: Label files to score beside the model, if any.
    """

    rules: tuple[EvalProtocol, ...]
    given: ClusterMapping | None
    fit_ids: frozenset[int]
    score_ids: frozenset[int]
    labels: Predictions | None


def plan_evaluation(
    truth: Truth,
    clusters: ClusterIds,
    settings: EvalSettings,
    mapping: MappingFile | None = None,
    protocols: Sequence[str] = (),
) -> Plan:
    """Return the plan of an evaluation; no map is read, but headers of label files.

    Args:
        truth: What is scored against.
        clusters: Of the model.
        settings: ``U2SEG.EVAL``.
        mapping: Used instead of a fit.
        protocols: Names; empty = the one of ``settings``.

    Raises:
        UserError: if a key contradicts a protocol, or either the mapping; the mapping is missing,
            garbled, or of other clusters or classes, or leaves nothing to fit; ids are no
            classes under ``identity``; a part of the images would be empty; or the label files
            are missing, garbled or of other sizes.
    """
    names = protocols or (settings.protocol,)
    rules = tuple(
        _rule(replace(settings, protocol=name), len(clusters[0]), truth) for name in names
    )
    given = None
    if mapping is not None:
        given = _given(mapping, clusters, truth)
        _check_one(mapping, settings, rules)
        rule = _brought(rules[0], given, truth)
        named = bool(protocols) or settings.protocol != CUSTOM
        given = replace(given, protocol={**given.protocol, "merge_stuff": rule.merge_stuff})
        _check_agreement(mapping, given.protocol, settings, rules[0], named=named)
        rules = (rule,)
    else:
        _check_identity(rules, clusters, truth, "the model")
    fit_ids, score_ids = _parts(truth, settings.fit_share)
    labels = _labels(settings, truth, rules, mapping, given)
    return Plan(rules, given, fit_ids, score_ids, labels)


def _rule(settings: EvalSettings, num_things: int, truth: Truth) -> EvalProtocol:
    rule = rule_for(protocol_of(settings, num_things), truth)
    if settings.protocol == CUSTOM and rule.merge_stuff and not settings.merge_stuff:
        raise UserError(
            "U2SEG.EVAL.MERGE_STUFF is False, but U2SEG.EVAL.MERGE_TRUE_STUFF is True: stuff of "
            "collected classes is merged in truth and prediction, or in neither"
        )
    return rule


def _given(mapping: MappingFile, clusters: ClusterIds, truth: Truth) -> ClusterMapping:
    found = read_mapping(mapping.path)
    check_clusters(found, mapping.path, clusters, mapping.instead)
    check_classes(found, mapping.path, truth, mapping.instead)
    return found


def _check_one(mapping: MappingFile, settings: EvalSettings, rules: Sequence[EvalProtocol]) -> None:
    """Refuse a mapping beside something to fit."""
    if settings.fit_share or len(rules) > 1:
        other = (
            f"U2SEG.EVAL.FIT_SHARE is {settings.fit_share}"
            if settings.fit_share
            else f"{len(rules)} protocols are asked for"
        )
        raise UserError(
            f"the mapping {mapping.path} is given and {other}, but a given mapping leaves nothing "
            "to fit: leave one of the two out"
        )


def _brought(rule: EvalProtocol, mapping: ClusterMapping, truth: Truth) -> EvalProtocol:
    """Return a protocol that scores as that of a mapping does, on this truth."""
    stated = mapping.protocol
    brought = replace(
        rule,
        name=str(stated["name"]),
        unmatched=stated["unmatched"],
        merge_stuff=stated["merge_stuff"],
    )
    return with_merging(brought, truth)


def _check_agreement(
    mapping: MappingFile,
    stated: Mapping[str, Any],
    settings: EvalSettings,
    rule: EvalProtocol,
    *,
    named: bool,
) -> None:
    """Refuse rules that are asked for and not those of the mapping; a default asks for nothing."""
    if named and rule.name != stated["name"]:
        raise UserError(
            f"the protocol {rule.name} is asked for (U2SEG.EVAL.PROTOCOL or --protocol), but "
            f"{mapping.path} was made by the protocol {stated['name']}: ask for that one, or "
            f"{mapping.instead}"
        )
    ours, default = rule.to_json(), EvalSettings()
    for key in RULE_KEYS:
        value, theirs = getattr(settings, key), _at(stated, PLACES[key])
        if value == getattr(default, key) or theirs is None:
            continue
        if theirs not in (value, _at(ours, PLACES[key])):
            raise UserError(
                f"U2SEG.EVAL.{key.upper()} is {value!r}, but {mapping.path} was made with "
                f"{theirs!r}, and a mapping is used with its own rules: remove the key, or "
                f"{mapping.instead}"
            )


def _at(content: Mapping[str, Any], place: Sequence[str]) -> Any:
    found: Any = content
    for word in place:
        found = found.get(word) if isinstance(found, Mapping) else None
    return found


def _check_identity(
    rules: Sequence[EvalProtocol], clusters: ClusterIds, truth: Truth, whose: str
) -> None:
    """Refuse ids that are no classes where a protocol takes them for classes."""
    for rule in rules:
        if rule.matching == "identity":
            identity_mapping(rule, clusters, truth, whose)


def _parts(truth: Truth, share: float) -> tuple[frozenset[int], frozenset[int]]:
    if not share:
        every = frozenset(truth.stems)
        return every, every
    fit, score = hold_out(truth.stems, share)
    return frozenset(fit), frozenset(score)


def _labels(
    settings: EvalSettings,
    truth: Truth,
    rules: Sequence[EvalProtocol],
    mapping: MappingFile | None,
    given: ClusterMapping | None,
) -> Predictions | None:
    if not settings.labels:
        return None
    folder = Path(settings.labels)
    labels = read_labels(folder, truth)
    clusters = labels.panoptic.things, labels.panoptic.stuff
    if mapping is not None and given is not None:
        check_clusters(given, mapping.path, clusters, mapping.instead, f"the labels {folder} have")
    else:
        _check_identity(rules, clusters, truth, f"the labels {folder}")
    labels = cropped(labels, truth)
    check_maps(truth, labels, sorted(truth.stems))
    return labels
