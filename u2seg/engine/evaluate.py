"""The evaluation of a trained model: what is asked of it, checked before any work, and done."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from u2seg.config.load import settings_from_cfg
from u2seg.config.schema import Settings
from u2seg.engine.processes import process_group
from u2seg.errors import UserError
from u2seg.evaluation import evaluate_folder, format_metrics
from u2seg.evaluation.protocols.mapping import LEAVE_OUT, with_class_names
from u2seg.evaluation.protocols.plan import MappingFile, plan_evaluation
from u2seg.evaluation.protocols.rules import expand_names, protocol_of
from u2seg.evaluation.report.table import format_protocols
from u2seg.evaluation.truth.base import Truth, subset
from u2seg.evaluation.truth.coco import GroundTruth, read_truth
from u2seg.evaluation.truth.predictions import PSEUDO_LABELS
from u2seg.host.evaldata import truth_of, truth_paths
from u2seg.host.setup import EVAL_NAME, label_space
from u2seg.host.start import held_by_first
from u2seg.inference.writer import PredictionWriter, check_own, predict_records

logger = logging.getLogger(__name__)
EVALUATION_DIR = "evaluation"


@dataclass(frozen=True)
class EvalChoice:
    """How an evaluation goes from clusters to classes."""

    mapping: Path | None = None
    protocols: tuple[str, ...] = ()
    instead: str = LEAVE_OUT


def eval_choice(args: argparse.Namespace, settings: Settings) -> EvalChoice:
    """Return the choice of a command line: ``mapping`` and ``protocol`` (names with commas)."""
    mapping, words = getattr(args, "mapping", ""), getattr(args, "protocol", "")
    if (mapping or words) and not args.eval_only:
        raise UserError(
            "--mapping and --protocol are for --eval-only: a training is evaluated by the "
            "protocol U2SEG.EVAL.PROTOCOL"
        )
    names = expand_names([words] if words else [])
    space = label_space(settings)
    for name in names or [settings.eval.protocol]:
        protocol_of(replace(settings.eval, protocol=name), space.num_things)
    if mapping:
        with_class_names(space, Path(mapping))
    return EvalChoice(Path(mapping) if mapping else None, tuple(names))


def with_protocol_key(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options with the first of ``--protocol`` as ``U2SEG.EVAL.PROTOCOL`` too.

    What one key may be depends on the protocol, and keys are checked together.
    """
    if not (args.eval_only and args.protocol):
        return args
    opts = [*args.opts, "U2SEG.EVAL.PROTOCOL", expand_names([args.protocol], check=False)[0]]
    return argparse.Namespace(**{**vars(args), "opts": opts})


def check_choice(choice: EvalChoice, settings: Settings, truth: Truth) -> None:
    """Raise ``plan_evaluation``'s UserError before anything is predicted."""
    space = label_space(settings)
    things, stuff = space.num_things, space.num_stuff
    clusters = tuple(range(1, things + 1)), tuple(range(things + 1, things + stuff + 1))
    mapping = MappingFile(choice.mapping, choice.instead) if choice.mapping else None
    plan_evaluation(truth, clusters, settings.eval, mapping, choice.protocols)


def with_mapping_of_labels(choice: EvalChoice, settings: Settings) -> EvalChoice:
    """Return a choice that uses the mapping of the training labels, if it asks for no other."""
    found = None if choice.mapping or choice.protocols else mapping_of_labels(settings)
    if found is None:
        return choice
    return EvalChoice(found, instead="remove that file (it came with U2SEG.DATA.LABELS)")


def own_labels(settings: Settings) -> str:
    """Return what to call the training labels where there is nothing else to compare with."""
    labels = Path(settings.data.labels)
    if (labels / "mapping.json").is_file():
        return f"real labels of {labels}, which the model was trained on"
    return PSEUDO_LABELS


def mapping_of_labels(settings: Settings) -> Path | None:
    """Return the ``mapping.json`` of labels of real classes, for which nothing needs a fit."""
    path = Path(settings.data.labels) / "mapping.json"
    usable = settings.data.labels and not settings.eval.fit_share and path.is_file()
    return path if usable else None


def evaluate(
    cfg: Any,
    model: Any,
    folder: Path | str = "",
    *,
    images: int = 0,
    choice: EvalChoice | None = None,
) -> dict[str, Any]:
    """Predict the test set of ``cfg`` and compare it with its truth.

    Args:
        cfg: From ``setup_cfg``.
        model: A panoptic model of ``cfg``, trained or not.
        folder: Result folder; empty = ``<OUTPUT_DIR>/evaluation``.
        images: Only the first so many, for a rehearsal; 0 = all.
        choice: Protocols, or a mapping to use; None = the mapping of the training labels if
            they are of real classes, else the protocol of the settings.

    Returns:
        The metrics, also in ``<folder>/metrics.json``; empty without evaluation data and in all
        but the first process.

    Raises:
        UserError: if data are garbled, a file cannot be written, or another run is at work in
            the folder.
        StageError: if a photograph cannot be decoded.
    """
    if not cfg.DATASETS.TEST:
        logger.warning("no U2SEG.DATA.EVAL_ROOT and no LABELS: nothing to evaluate on")
        return {}
    name = cfg.DATASETS.TEST[0]
    settings, truth, choice = comparison(cfg, choice or EvalChoice(), part=images > 0)
    target = Path(folder or Path(cfg.OUTPUT_DIR) / EVALUATION_DIR)
    records = DatasetCatalog.get(name)
    if images:
        records = records[:images]
        truth = subset(truth, (record["image_id"] for record in records))
    if comm.is_main_process():
        check_own(target)
    with held_by_first(target):
        writer = PredictionWriter(target, label_space(settings))
        comm.synchronize()
        predict_records(cfg, model, records, writer)
        metrics = evaluate_folder(
            target,
            truth,
            settings.eval,
            choice.mapping,
            str(truth_paths(settings)[0]) if name == EVAL_NAME else own_labels(settings),
            group=process_group(),
            protocols=choice.protocols,
        )
    if comm.is_main_process():
        table = format_protocols if "protocols" in metrics else format_metrics
        logger.info("evaluation on %s:\n%s", name, table(metrics))
    comm.synchronize()
    return metrics


def comparison(
    cfg: Any, choice: EvalChoice, *, part: bool = False
) -> tuple[Settings, Truth, EvalChoice]:
    """Return settings, truth and choice of an evaluation; UserError if it cannot be."""
    settings, name = settings_from_cfg(cfg), cfg.DATASETS.TEST[0]
    if part:
        settings = replace(settings, eval=replace(settings.eval, fit_share=0.0))
    truth: Truth
    if name == EVAL_NAME:
        truth = truth_of(settings)
        choice = with_mapping_of_labels(choice, settings)
    else:
        how = "by --protocol" if choice.protocols else "id by id"
        words = own_labels(settings)
        logger.warning("no U2SEG.DATA.EVAL_ROOT: comparing with the %s, %s", words, how)
        # The labels bear the model's own ids: unless asked for, a fit would only flatter.
        settings = replace(settings, eval=settings.eval.identity())
        metadata = MetadataCatalog.get(name)
        paths = Path(metadata.panoptic_json), Path(metadata.panoptic_root)
        truth = read_truth(GroundTruth(*paths), measure=True)
    check_choice(choice, settings, truth)
    return settings, truth, choice
