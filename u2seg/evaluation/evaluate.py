"""Score a folder of predictions against truth.

One pass over the images collects tables (``collect``); then clusters are matched to classes by the
rules of a protocol, and panoptic, semantic and instance metrics follow from the tables
(``figures``).

Conventions, also stated in ``protocol`` of the result: all metrics are percentages, None where
undefined; a segment or instance whose cluster has no class is void (its pixels are nobody's, so
it is no false positive but its pixels count as wrong in the semantic metrics) or a false
positive: both are in ``unmatched``; an image without prediction counts as an empty prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from u2seg.config.evaluation import RULE_KEYS, EvalSettings
from u2seg.errors import UserError
from u2seg.evaluation.baselines import NOTES, Baseline, baselines, headline
from u2seg.evaluation.collect import ImageTable, ProcessGroup, collect
from u2seg.evaluation.figures import (
    Scored,
    Scoring,
    ci95,
    detection_sources,
    figure_sources,
    instance_block,
    merging_rows,
    panoptic_block,
    quality_of_parts,
    score,
    treated_rows,
    treatment_sources,
)
from u2seg.evaluation.metrics.bootstrap import Source
from u2seg.evaluation.metrics.overlap import count_overlaps
from u2seg.evaluation.metrics.panoptic import ClassCounts, count_matches
from u2seg.evaluation.protocols.mapping import (
    ClusterMapping,
    fit_mapping,
    identity_mapping,
    mapping_json,
)
from u2seg.evaluation.protocols.plan import MappingFile, Plan, plan_evaluation
from u2seg.evaluation.protocols.rules import PROTOCOLS, EvalProtocol
from u2seg.evaluation.protocols.task_rules import settled, truth_words
from u2seg.evaluation.report.details import count_clusters, unmatched_clusters, write_details
from u2seg.evaluation.truth.base import INSTANCES, Truth, check_ids, check_shape, some
from u2seg.evaluation.truth.coco import GroundTruth, read_panoptic_set, read_truth
from u2seg.evaluation.truth.predictions import (
    Predictions,
    ResultFolders,
    cropped,
    read_predictions,
    scored_on,
)
from u2seg.evaluation.truth.splits import Split, describe_fit, input_hashes, provenance
from u2seg.io.atomic import remove_file, write_json
from u2seg.io.progress import Bar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Evaluation:
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

    def scoring(self, rule: EvalProtocol) -> Scoring:
        """Return how tables are scored under a protocol."""
        return Scoring(rule.merge_stuff, rule.unmatched, self.settings.instance_score)

    def scored(self, rule: EvalProtocol, mapping: ClusterMapping) -> Scored:
        """Return the metrics under a protocol."""
        sides = self.truth, self.predicted, self.tables
        return score(*sides, mapping, self.scoring(rule))

    def intervals(self, sources: Sequence[Source]) -> dict[str, Any]:
        """Return the block ``ci95`` of some figures; empty without resamples."""
        return ci95(sources, len(self.tables), self.settings.bootstrap, self.settings.seed)


def evaluate_folder(
    predictions: Path | ResultFolders,
    truth: GroundTruth | Truth,
    settings: EvalSettings,
    mapping: Path | None = None,
    reference: str = "",
    *,
    workers: int = 1,
    protocols: Sequence[str] = (),
    group: ProcessGroup | None = None,
) -> dict[str, Any]:
    """Return the metrics of a result folder; also written there, or to a folder of their own.

    Args:
        predictions: A result folder or a label folder, see ``read_predictions``; with ``stuff/``
            the semantic head's maps vote, without it predicted stuff segments do.
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
        group: Of a distributed run, all of which call this with the same arguments: they share
            the images, and the first writes. The result does not depend on their number.

    Returns:
        ``protocol``, ``class_agnostic`` and ``instances`` (each with ``box`` and ``segm``),
        ``semantic``, ``panoptic``, ``unmatched``; None for a task that truth or predictions
        cannot answer; ``stuff_merging`` (PQ with stuff of one class merged and not, None where a
        class set collects nothing); ``unmatched_clusters`` and ``ci95`` (None without resamples).
        With several protocols these are of the first, and ``protocols`` holds the same of each by
        name. ``provenance`` has versions, settings and hashes; ``baselines``, if asked for,
        name -> ``note`` and ``protocols`` -> headline figures of a baseline. Also written:
        ``metrics.json``, ``mapping.json`` (of further protocols ``mapping_<name>.json``), and
        the files of ``write_details``.

    Raises:
        UserError: if a file is missing or garbled; predictions are for images without truth;
            sizes differ; a PNG holds ids that its JSON lacks; or as ``plan_evaluation``.
    """
    true_set: Truth = read_truth(truth) if isinstance(truth, GroundTruth) else truth
    if not isinstance(predictions, ResultFolders):
        predictions = ResultFolders(Path(predictions), Path(predictions))
    predicted = read_predictions(Path(predictions.predictions), true_set)
    true_set = scored_on(true_set, predicted)
    predicted = cropped(predicted, true_set)
    clusters = (predicted.panoptic.things, predicted.panoptic.stuff)
    used = MappingFile(mapping) if mapping is not None else None
    plan = plan_evaluation(true_set, clusters, settings, used, protocols)
    tables = collect(true_set, predicted, workers=workers, group=group)
    if group is not None and group.rank > 0:
        return {}
    model = _Evaluation(
        truth=true_set,
        predicted=_of_images(predicted, plan.score_ids),
        fit=[table for table in tables if table.image_id in plan.fit_ids],
        tables=[table for table in tables if table.image_id in plan.score_ids],
        settings=settings,
        reference=reference or str(true_set.source),
        output=Path(predictions.output),
        given=mapping,
    )
    _warn_empty(true_set, model.tables)
    hashes = input_hashes(true_set, predicted, mapping, plan.labels)
    rivals = baselines(settings, true_set, predicted, tables, plan.labels, workers)
    metrics = _score(model, plan)
    if rivals:
        metrics["baselines"] = {rival.name: _baseline(rival, model, plan) for rival in rivals}
    rules = {r.name: plan.given.protocol if plan.given else r.to_json() for r in plan.rules}
    stated = {"protocol", *RULE_KEYS}
    tree = {k.upper(): value for k, value in asdict(settings).items() if k not in stated}
    metrics["provenance"] = provenance(tree, rules, hashes)
    write_json(model.output / "metrics.json", metrics, indent=1)
    return metrics


def _of_images(predicted: Predictions, image_ids: frozenset[int]) -> Predictions:
    kept = {i: found for i, found in sorted(predicted.instances.items()) if i in image_ids}
    return replace(predicted, instances=kept)


def _score(model: _Evaluation, plan: Plan) -> dict[str, Any]:
    """Return the metrics under each protocol, and write the files."""
    truth, folder = model.truth, model.output
    agnostic, limits = _class_agnostic(model)
    clusters = count_clusters(model.tables)
    results: dict[str, dict[str, Any]] = {}
    for old in (
        PROTOCOLS.names() if plan.given is None else ()
    ):  # of an earlier evaluation in this folder
        remove_file(folder / f"mapping_{old}.json")
    for rule in plan.rules:
        mapping = plan.given or _fit(rule, model)
        scored, scoring = model.scored(rule, mapping), model.scoring(rule)
        merging = merging_rows(truth, model.tables, mapping, scoring)
        more = treatment_sources(truth, "stuff_merging", merging)
        if scored.blocks["unmatched"] is not None:
            more += treatment_sources(truth, "unmatched", treated_rows(scored.counts, scoring))
        results[rule.name] = {
            "protocol": _protocol(mapping, model),
            "class_agnostic": agnostic,
            **scored.blocks,
            "stuff_merging": {n: quality_of_parts(truth, rows) for n, rows in merging.items()}
            or None,
            "unmatched_clusters": unmatched_clusters(clusters, model.predicted.panoptic, mapping),
            "ci95": {**_intervals(model, scored, more), **limits} or None,
        }
        first = rule is plan.rules[0]
        path = folder / ("mapping.json" if first else f"mapping_{rule.name}.json")
        if model.given is None or not (path.exists() and path.samefile(model.given)):
            write_json(path, mapping_json(mapping), indent=1)
        if first:
            sides = (truth, model.predicted, model.tables)
            write_details(*sides, scored.counts, clusters, mapping, scored.blocks, folder)
    metrics = results[plan.rules[0].name]
    return {**metrics, "protocols": results} if len(plan.rules) > 1 else metrics


def _class_agnostic(model: _Evaluation) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the figures that no protocol changes, and the tree of their intervals."""
    if INSTANCES not in model.truth.tasks:
        return None, {}
    scoring = Scoring(instance_score=model.settings.instance_score)
    block, matches = instance_block(model.truth, model.predicted, model.tables, scoring)
    return block, model.intervals(detection_sources("class_agnostic", matches))


def _intervals(model: _Evaluation, scored: Scored, more: Sequence[Source] = ()) -> dict[str, Any]:
    sources = [*figure_sources(model.truth, scored.counts), *more]
    return model.intervals([*sources, *detection_sources("instances", scored.matches)])


def _baseline(rival: Baseline, model: _Evaluation, plan: Plan) -> dict[str, Any]:
    """Return the headline figures of a baseline under each protocol, fitted anew if at all."""
    chosen = frozenset(table.image_id for table in model.tables)
    fit, tables = ([t for t in rival.tables if t.image_id in ids] for ids in (plan.fit_ids, chosen))
    predicted = _of_images(rival.predicted, chosen)
    own = replace(model, predicted=predicted, fit=fit, tables=tables)
    results = {}
    for rule in plan.rules:
        mapping = plan.given or _fit(rule, own)
        scored = own.scored(rule, mapping)
        results[rule.name] = {
            "protocol": _protocol(mapping, own),
            **headline(scored.blocks),
            "ci95": _intervals(own, scored) or None,
        }
    return {"note": NOTES[rival.name], "protocols": results}


def _fit(rule: EvalProtocol, model: _Evaluation) -> ClusterMapping:
    clusters, truth = model.predicted.panoptic, model.truth
    if rule.matching == "identity":
        mapping = identity_mapping(rule, (clusters.things, clusters.stuff), truth)
    else:
        mapping = fit_mapping(rule, model.fit, clusters, truth, model.settings.fit_share)
        mapping = settled(mapping, truth, model.fit)
    return replace(mapping, class_set=str(truth_words(truth)["class_set"]))


def _warn_empty(truth: Truth, tables: Sequence[ImageTable]) -> None:
    empty = sum(table.empty for table in tables)
    if empty and truth.tasks != {INSTANCES}:
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


def _protocol(mapping: ClusterMapping, model: _Evaluation) -> dict[str, Any]:
    truth, predicted, tables = model.truth, model.predicted, model.tables
    fit = describe_fit(mapping.fitted_on, Split.of(truth, [table.image_id for table in tables]))
    votes_from = None  # nothing was fitted on these images
    if mapping.fitted_on is not None and model.given is None:
        maps = mapping.protocol["apart"] and predicted.has_stuff_maps
        votes_from = "stuff maps" if maps else "panoptic segments"
    return {
        "reference": model.reference,
        **truth_words(truth),
        **mapping.protocol,
        "mapping": fit,
        "mapping_fitted_on": fit["in_words"],
        "instance_score": model.settings.instance_score,
        "stuff_votes_from": votes_from,
        "images": len(tables),
        "images_without_prediction": sum(table.empty for table in tables),
        "clusters": {
            "things": len(predicted.panoptic.things),
            "stuff": len(predicted.panoptic.stuff),
            "matched_things": len(mapping.things),
            "matched_stuff": len(mapping.stuff),
        },
        "classes": {"things": len(truth.things), "stuff": len(truth.stuff)},
    }


def panoptic_quality(
    truth: GroundTruth, predicted: GroundTruth, threads: int = 1
) -> dict[str, Any]:
    """Return what panopticapi's ``pq_compute`` returns, in percent, from the same files.

    Args:
        truth: Its annotated images are scored.
        predicted: A prediction of every one of them, with category ids of the truth.
        threads: Decode and count in so many at once; the result does not depend on it.

    Returns:
        ``all``, ``things``, ``stuff`` and ``per_class``, as ``panoptic`` of ``metrics.json``.

    Raises:
        UserError: if a file is missing or garbled, an image has no prediction, a category is
            unknown, sizes differ, or a map holds ids that its JSON lacks or the other way round.
    """
    right = read_truth(truth)
    found = read_panoptic_set(predicted.panoptic_json, predicted.panoptic_pngs)
    if missing := set(right.segments) - set(found.segments):
        raise UserError(f"{found.source} has no prediction of image id {some(missing)}")
    if strange := set(found.names) - set(right.names):
        raise UserError(
            f"{found.source} has the category id {some(strange)}, which {right.source} lacks: "
            "predictions need the truth's categories here"
        )

    def count(image_id: int) -> dict[int, ClassCounts]:
        ids, other = right.read_ids(image_id), found.read_ids(image_id)
        check_shape(found.path(image_id), other.shape, ids.shape, "the true map has")
        overlap, segments = count_overlaps(ids, other), right.segments[image_id]
        check_ids(right, image_id, segments, overlap.truth.tolist())
        found.check_ids(image_id, overlap.predicted.tolist(), every=True)
        classes = {segment: info.category for segment, info in found.segments[image_id].items()}
        return count_matches(overlap, segments, classes)

    with ThreadPoolExecutor(threads) as pool:
        counted = pool.map(count, right.segments)
        rows = list(Bar(counted, total=len(right.segments), desc="PQ", unit="image"))
    return panoptic_block(right, rows)
