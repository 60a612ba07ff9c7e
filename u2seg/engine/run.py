"""Train, or evaluate: what ``u2seg train`` does in every process."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.config.schema import Settings
from u2seg.config.yacs_bridge import settings_from_cfg
from u2seg.engine.evalchoice import (
    EvalChoice,
    check_choice,
    eval_choice,
    own_labels,
    with_mapping_of_labels,
    with_protocol_key,
)
from u2seg.errors import UserError
from u2seg.host.evaldata import truth_of, truth_paths
from u2seg.host.setup import EVAL_NAME, label_space
from u2seg.host.start import held_by_first, setup_cfg

if TYPE_CHECKING:
    from u2seg.evaluation.truth.base import Truth

logger = logging.getLogger(__name__)
EVALUATION_DIR = "evaluation"


def launch_run(args: argparse.Namespace) -> int:
    """Run ``train_or_evaluate`` in one process or several; return the exit code.

    Raises:
        UserError: as ``processes.run_in_processes``, or for a limit that nothing would heed.
    """
    from u2seg.engine.processes import run_in_processes

    if args.memory_limit and not args.find_batch_size:
        raise UserError(
            f"--memory-limit {args.memory_limit:g} belongs to --find-batch-size; a training takes "
            "the memory that its batch needs"
        )
    if args.find_batch_size:
        from u2seg.engine.batch_trial import find_batch_size

        logger.info("batch size:\n%s", find_batch_size(args))
        return 0
    run_in_processes(train_or_evaluate, with_protocol_key(args))
    return 0


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Train and then evaluate, or with ``eval_only`` evaluate alone.

    Args:
        args: From ``host.arguments.train_parser``. With ``dry_run`` or ``replay`` what they find is
            logged instead.

    Returns:
        The metrics; empty without evaluation data and in all but the first process.

    Raises:
        UserError: for bad settings, missing data, or an output folder that holds another run.
        StageError: if training fails half-way.
    """
    from u2seg.engine import training

    for told in (training.replay, training.dry_run):
        if getattr(args, told.__name__, None):
            training.logger.info("%s", told(args))
            return {}
    with setup_cfg(args) as cfg:
        return _run(cfg, args)


def _run(cfg: Any, args: argparse.Namespace) -> dict[str, Any]:
    from u2seg.engine import training

    choice = eval_choice(args, settings_from_cfg(cfg))
    if cfg.DATASETS.TEST and cfg.DATASETS.TEST[0] == EVAL_NAME:
        _comparison(cfg, choice)
    if args.eval_only:
        model = _trained_model(cfg, args.resume)
        if not cfg.DATASETS.TEST:
            raise UserError(
                "nothing to evaluate on: set U2SEG.DATA.EVAL_ROOT to a data set with truth "
                "(datasets/README.md), or U2SEG.DATA.LABELS to pseudo-labels"
            )
        metrics = evaluate(cfg, model, choice=choice)
    else:
        metrics = training.train(cfg, resume=args.resume)
    folder = Path(cfg.OUTPUT_DIR)
    training.report(folder, f"{'Evaluation' if args.eval_only else 'Training'}: {folder.name}")
    return metrics


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
    from detectron2.data import DatasetCatalog
    from detectron2.utils import comm

    from u2seg.engine.ranks import host_ranks
    from u2seg.evaluation import evaluate_folder, format_metrics
    from u2seg.evaluation.report.table import format_protocols
    from u2seg.evaluation.truth.base import subset
    from u2seg.inference.writer import PredictionWriter, check_own, predict_records

    name = cfg.DATASETS.TEST[0]
    settings, truth, choice = _comparison(cfg, choice or EvalChoice(), part=images > 0)
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
            ranks=host_ranks(),
            protocols=choice.protocols,
        )
    if comm.is_main_process():
        table = format_protocols if "protocols" in metrics else format_metrics
        logger.info("evaluation on %s:\n%s", name, table(metrics))
    comm.synchronize()
    return metrics


def _comparison(
    cfg: Any, choice: EvalChoice, *, part: bool = False
) -> tuple[Settings, Truth, EvalChoice]:
    """Return the settings of an evaluation, its truth, and what is used; refused if it cannot be.

    Args:
        cfg: From ``setup_cfg``; it has a test set.
        choice: Of the command line.
        part: Only some images will be scored, and none held out.

    Raises:
        UserError: as ``check_choice``, or if the truth is missing or garbled.
    """
    from u2seg.evaluation.truth.coco import GroundTruth, read_truth

    settings, name = settings_from_cfg(cfg), cfg.DATASETS.TEST[0]
    if part:
        settings = replace(settings, eval=replace(settings.eval, fit_share=0.0))
    truth: Truth
    if name == EVAL_NAME:
        truth = truth_of(settings)
        choice = with_mapping_of_labels(choice, settings)
    else:
        from detectron2.data import MetadataCatalog

        how = "by --protocol" if choice.protocols else "id by id"
        words = own_labels(settings)
        logger.warning("no U2SEG.DATA.EVAL_ROOT: comparing with the %s, %s", words, how)
        # The labels bear the model's own ids: unless asked for, a fit would only flatter.
        settings = replace(settings, eval=settings.eval.identity())
        metadata = MetadataCatalog.get(name)
        paths = Path(metadata.panoptic_json), Path(metadata.panoptic_root)
        truth = read_truth(GroundTruth(*paths))
    check_choice(choice, settings, truth)
    return settings, truth, choice


def _trained_model(cfg: Any, resume: bool) -> Any:
    from u2seg.inference.segmenter import load_model
    from u2seg.modeling.checkpoint import SafeCheckpointer

    weights = cfg.MODEL.WEIGHTS
    folder = Path(cfg.OUTPUT_DIR)
    if resume and (folder / "last_checkpoint").is_file():
        weights = SafeCheckpointer.last_in(folder)
    if not weights:
        raise UserError(
            "nothing to evaluate: give trained weights with MODEL.WEIGHTS FILE, or add --resume "
            f"to take the last checkpoint in OUTPUT_DIR {folder}"
        )
    return load_model(cfg, str(weights))
