"""Score a folder of predictions against truth.

One pass over the images gathers tables (``gather``); then clusters are matched to classes by the
rules of a protocol, and panoptic, semantic and instance metrics follow from the tables
(``figures``).

Conventions, also stated in ``protocol`` of the result: all metrics are percentages, None where
undefined; a segment or instance whose cluster has no class is void (its pixels are nobody's, so
it is no false positive but its pixels count as wrong in the semantic metrics) or a false
positive: both are in ``unmatched``; an image without prediction counts as an empty prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from u2seg.config.evaluation import PROTOCOLS, RULE_KEYS, EvalSettings
from u2seg.evaluation.baselines import NOTES, Baseline, baselines, headline
from u2seg.evaluation.collect import ImageTable, Ranks, gather
from u2seg.evaluation.figures import (
    Rows,
    Scored,
    Scoring,
    ci95,
    class_agnostic_block,
    detection_sources,
    figure_sources,
    merging_rows,
    score,
    stuff_merging,
    treated_rows,
    treatment_sources,
)
from u2seg.evaluation.metrics.bootstrap import Matches, Source
from u2seg.evaluation.protocols.mapping import (
    ClusterMapping,
    fit_mapping,
    identity_mapping,
    mapping_json,
)
from u2seg.evaluation.protocols.plan import MappingFile, Plan, plan_evaluation
from u2seg.evaluation.protocols.rules import EvalProtocol
from u2seg.evaluation.protocols.task_rules import settled, truth_words
from u2seg.evaluation.report.details import count_clusters, unmatched_clusters, write_details
from u2seg.evaluation.truth.base import INSTANCES, Truth
from u2seg.evaluation.truth.coco import GroundTruth, read_truth
from u2seg.evaluation.truth.predictions import Predictions, ResultFolders, cropped, read_predictions
from u2seg.evaluation.truth.splits import Split, describe_fit, input_hashes, provenance
from u2seg.io.atomic import remove_file, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pass:
    """What all protocols of an evaluation share.

    Args:
        truth: The truth.
        predicted: The predictions; instances of scored images alone.
        fit: Tables of the images that votes are taken from.
        tables: Tables of the images that are scored.
        settings: ``U2SEG.EVAL``.
        reference: What the predictions are compared with, for people.
        output: Gets the files.
        given: ``mapping.json`` that was given; None = the mapping is fitted.
    """

    truth: Truth
    predicted: Predictions
    fit: list[ImageTable]
    tables: list[ImageTable]
    settings: EvalSettings
    reference: str
    output: Path
    given: Path | None = None


def evaluate_folder(
    predictions: Path | ResultFolders,
    truth: GroundTruth | Truth,
    settings: EvalSettings,
    mapping: Path | None = None,
    reference: str = "",
    *,
    workers: int = 1,
    protocols: Sequence[str] = (),
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Return the metrics of a result folder; also written there, or to a folder of their own.

    Args:
        predictions: Folder with ``panoptic.json``, ``panoptic/``, ``instances.json`` and, to
            vote with the semantic head, ``stuff/``; without it predicted stuff segments vote.
            ``ResultFolders`` = write elsewhere, and leave this one as it is.
        truth: COCO panoptic files, or any truth; the annotated images are scored, all of them
            unless ``settings.fit_share`` holds some out.
        settings: Protocol and thresholds.
        mapping: ``mapping.json`` of an earlier evaluation (e.g. of a held-out split) to use
            instead of fitting one; its protocol is then used, and other rules that are asked
            for are refused. The file itself is never written over.
        reference: What the predictions are compared with, for people; ``PSEUDO_LABELS`` if it
            is no ground truth; empty = the path of the truth.
        workers: Processes that read the images; the result does not depend on it.
        protocols: Names of protocols to score one after the other from the same pass; empty =
            the one of ``settings``.
        ranks: Of a distributed run, all of which call this with the same arguments: they share
            the images, and the first writes. The result does not depend on their number.

    Returns:
        ``protocol``, ``class_agnostic`` and ``instances`` (each with ``box`` and ``segm``),
        ``semantic``, ``panoptic``, ``unmatched``; None for a task the truth cannot answer;
        ``stuff_merging`` (PQ with stuff of one class merged and not, None where a class set
        collects nothing); ``unmatched_clusters`` and ``ci95`` (None without resamples). With
        several protocols these are of the first, and ``protocols`` holds the same of each by
        name. ``provenance`` has versions, settings and hashes; ``baselines``, if asked for,
        name -> ``note`` and ``protocols`` -> headline figures of a baseline. Also written:
        ``metrics.json``, ``mapping.json`` (of further protocols ``mapping_<name>.json``), and
        the files of ``write_details``.

    Raises:
        UserError: if a file is missing or garbled; predictions are for images without truth;
            sizes differ; a PNG holds ids that its JSON lacks; or as ``plan_evaluation``.
    """
    true_set = read_truth(truth) if isinstance(truth, GroundTruth) else truth
    if not isinstance(predictions, ResultFolders):
        predictions = ResultFolders(Path(predictions), Path(predictions))
    predicted = cropped(read_predictions(Path(predictions.predictions), true_set), true_set)
    clusters = (predicted.panoptic.things, predicted.panoptic.stuff)
    used = MappingFile(mapping) if mapping is not None else None
    plan = plan_evaluation(true_set, clusters, settings, used, protocols)
    tables = gather(true_set, predicted, workers=workers, ranks=ranks)
    if ranks is not None and ranks.rank > 0:
        return {}
    parts = (plan.fit_ids, plan.score_ids)
    fit, scored = ([t for t in tables if t.image_id in ids] for ids in parts)
    kept = {i: found for i, found in predicted.instances.items() if i in plan.score_ids}
    shared = _Pass(
        truth=true_set,
        predicted=replace(predicted, instances=kept),
        fit=fit,
        tables=scored,
        settings=settings,
        reference=reference or str(true_set.source),
        output=Path(predictions.output),
        given=mapping,
    )
    _warn_empty(true_set, scored)
    hashes = input_hashes(true_set, predicted, mapping, plan.labels)
    rivals = baselines(settings, true_set, predicted, tables, plan.labels, workers)
    metrics = _score(shared, plan.rules, plan.given)
    if rivals:
        metrics["baselines"] = {rival.name: _baseline(rival, shared, plan) for rival in rivals}
    rules = {rule.name: _rules_json(rule, plan.given) for rule in plan.rules}
    metrics["provenance"] = provenance(_settings_tree(settings), rules, hashes)
    write_json(shared.output / "metrics.json", metrics, indent=1)
    return metrics


def _score(
    shared: _Pass, rules: Sequence[EvalProtocol], given: ClusterMapping | None
) -> dict[str, Any]:
    """Return the metrics under each protocol, and write the files."""
    folder = shared.output
    agnostic, limits = _class_agnostic(shared)
    clusters = count_clusters(shared.tables)
    results: dict[str, dict[str, Any]] = {}
    for old in PROTOCOLS if given is None else ():  # of an earlier evaluation in this folder
        remove_file(folder / _mapping_name(old))
    for rule in rules:
        mapping = given or _fit(rule, shared)
        scored, scoring = _scored(rule, mapping, shared), _scoring(rule, shared)
        merging = merging_rows(shared.truth, shared.tables, mapping, scoring)
        results[rule.name] = {
            "protocol": _protocol(mapping, shared),
            "class_agnostic": agnostic,
            **scored.blocks,
            "stuff_merging": stuff_merging(shared.truth, merging),
            "unmatched_clusters": unmatched_clusters(clusters, shared.predicted.panoptic, mapping),
            "ci95": _intervals(
                shared, scored, limits, _treatments(shared.truth, scored, scoring, merging)
            ),
        }
        first = rule is rules[0]
        path = folder / _mapping_name("" if first else rule.name)
        if not _same_file(path, shared.given):
            write_json(path, mapping_json(mapping), indent=1)
        if first:
            sides = (shared.truth, shared.predicted, shared.tables)
            write_details(*sides, scored.counts, clusters, mapping, scored.blocks, folder)
    metrics = results[rules[0].name]
    if len(rules) > 1:
        metrics = {**metrics, "protocols": results}
    return metrics


def _treatments(
    truth: Truth, scored: Scored, scoring: Scoring, merging: Mapping[str, Rows]
) -> list[Source]:
    """Return the sources of panoptic quality under other treatments than the headline's."""
    sources = treatment_sources(truth, "stuff_merging", merging)
    if scored.blocks["unmatched"] is not None:
        rows = treated_rows(scored.counts, scoring)
        sources += treatment_sources(truth, "unmatched", rows)
    return sources


def _mapping_name(protocol: str) -> str:
    return f"mapping_{protocol}.json" if protocol else "mapping.json"


def _same_file(path: Path, given: Path | None) -> bool:
    return given is not None and path.exists() and path.samefile(given)


def _scored(rule: EvalProtocol, mapping: ClusterMapping, shared: _Pass) -> Scored:
    scoring = _scoring(rule, shared)
    return score(shared.truth, shared.predicted, shared.tables, mapping, scoring)


def _scoring(rule: EvalProtocol, shared: _Pass) -> Scoring:
    return Scoring(rule.merge_stuff, rule.unmatched, shared.settings.instance_score)


def _baseline(rival: Baseline, model: _Pass, plan: Plan) -> dict[str, Any]:
    """Return the headline figures of a baseline under each protocol, fitted anew if at all."""
    chosen = {table.image_id for table in model.tables}
    found = rival.predicted.instances
    kept = replace(rival.predicted, instances={i: found[i] for i in sorted(chosen & set(found))})
    fit, tables = ([t for t in rival.tables if t.image_id in ids] for ids in (plan.fit_ids, chosen))
    shared = replace(model, predicted=kept, fit=fit, tables=tables)
    results = {}
    for rule in plan.rules:
        mapping = plan.given or _fit(rule, shared)
        scored = _scored(rule, mapping, shared)
        results[rule.name] = {
            "protocol": _protocol(mapping, shared),
            **headline(scored.blocks),
            "ci95": _intervals(shared, scored, {}),
        }
    return {"note": NOTES[rival.name], "protocols": results}


def _class_agnostic(shared: _Pass) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the figures that no protocol changes, and the tree of their intervals."""
    if INSTANCES not in shared.truth.tasks:
        return None, {}
    scoring = Scoring(instance_score=shared.settings.instance_score)
    matches: dict[str, Matches] = {}
    block = class_agnostic_block(shared.predicted, shared.tables, scoring, matches)
    return block, _draws(shared, detection_sources({"class_agnostic": matches}))


def _intervals(
    shared: _Pass, scored: Scored, known: dict[str, Any], more: Sequence[Source] = ()
) -> dict[str, Any] | None:
    """Return the block ``ci95``; ``known`` are trees over the same draws."""
    if not shared.settings.bootstrap:
        return None
    sources = [*figure_sources(shared.truth, scored.counts), *more]
    sources += detection_sources({"instances": scored.matches})
    return {**_draws(shared, sources), **known}


def _draws(shared: _Pass, sources: Sequence[Source]) -> dict[str, Any]:
    settings = shared.settings
    if not settings.bootstrap:
        return {}
    return ci95(sources, len(shared.tables), settings.bootstrap, settings.seed)


def _settings_tree(settings: EvalSettings) -> dict[str, Any]:
    """Return ``U2SEG.EVAL`` but for what the protocols say."""
    stated = {"protocol", *RULE_KEYS}
    return {k.upper(): value for k, value in asdict(settings).items() if k not in stated}


def _rules_json(rule: EvalProtocol, given: ClusterMapping | None) -> dict[str, Any]:
    return rule.to_json() if given is None else given.protocol


def _fit(rule: EvalProtocol, shared: _Pass) -> ClusterMapping:
    clusters, truth = shared.predicted.panoptic, shared.truth
    if rule.matching == "identity":
        mapping = identity_mapping(rule, (clusters.things, clusters.stuff), truth)
    else:
        share = shared.settings.fit_share
        mapping = fit_mapping(rule, shared.fit, clusters, truth, share)
        mapping = settled(mapping, truth, shared.fit)
    return replace(mapping, class_set=str(truth_words(truth)["class_set"]))


def _warn_empty(truth: Truth, tables: Sequence[ImageTable]) -> None:
    empty = sum(table.empty for table in tables)
    if empty:
        logger.warning(
            "%d of %d images have no panoptic prediction and count as empty maps",
            empty,
            len(tables),
        )
    crowds = [bool(r["iscrowd"]) for table in tables for r in table.instances]
    if crowds and all(crowds):
        logger.warning(
            "all %d true instances of %s are crowds (iscrowd 1), so no object can be found: "
            "annotation tools write iscrowd 1 for every mask stored as RLE",
            len(crowds),
            truth.source,
        )
    if not any(table.truth or table.instances for table in tables):
        logger.warning(
            "no figure is defined: none of the %d scored images of %s has a segment or an "
            "instance of its %d classes",
            len(tables),
            truth.source,
            len(truth.names),
        )


def _protocol(clusters: ClusterMapping, shared: _Pass) -> dict[str, Any]:
    truth, predicted, tables = shared.truth, shared.predicted, shared.tables
    scored = Split.of(truth, [table.image_id for table in tables])
    fit = describe_fit(clusters.fitted_on, scored)
    return {
        "reference": shared.reference,
        **truth_words(truth),
        **clusters.protocol,
        "mapping": fit,
        "mapping_fitted_on": fit["in_words"],
        "instance_score": shared.settings.instance_score,
        "stuff_votes_from": _stuff_votes_from(clusters, shared),
        "images": len(tables),
        "images_without_prediction": sum(table.empty for table in tables),
        "clusters": {
            "things": len(predicted.panoptic.things),
            "stuff": len(predicted.panoptic.stuff),
            "matched_things": len(clusters.things),
            "matched_stuff": len(clusters.stuff),
        },
        "classes": {"things": len(truth.things), "stuff": len(truth.stuff)},
    }


def _stuff_votes_from(mapping: ClusterMapping, shared: _Pass) -> str | None:
    """Return which maps voted for stuff; None if nothing was fitted on these images."""
    fitted_here = mapping.fitted_on is not None and shared.given is None
    if not fitted_here:
        return None
    maps = mapping.protocol["apart"] and shared.predicted.has_stuff_maps
    return "stuff maps" if maps else "panoptic segments"
