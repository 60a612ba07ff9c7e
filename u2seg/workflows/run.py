"""What the tools do: label a folder; or everything, from photographs to the report.

The only module that knows both halves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.compat import host_keys
from u2seg.config.env import warn_unread
from u2seg.config.load import load_settings
from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes, sha256_bytes, write_json
from u2seg.io.imagefile import image_file
from u2seg.io.jsonfile import read_json_object
from u2seg.io.lock import LOCK, only_run
from u2seg.io.sources import open_source
from u2seg.io.yamlfile import load_yaml
from u2seg.workflows.folders import Folders, anew, rounds_left_out

if TYPE_CHECKING:
    from u2seg.inference.detector import Detector

logger = logging.getLogger(__name__)
MAX_REPORTED = 50_000
"""Photographs up to which labelling writes its report: a gigabyte of masks, at three each."""
NOT_COMPARABLE = (
    "without --truth each round is compared with its own labels: these figures cannot be "
    "compared between rounds"
)


def label_folder(args: argparse.Namespace) -> str:
    """Do the work of ``u2seg label``.

    Args:
        args: config_file, images, output_dir, stages, overwrite, retry_failed, dry_run, status,
            executor, workers, executor_options, opts.

    Returns:
        What to tell the user.

    Raises:
        UserError: for anything wrong in the arguments or settings.
        StageError: if a stage fails.
    """
    from u2seg.pipeline import generate_labels
    from u2seg.pipeline.runner import ORDER, estimate
    from u2seg.pipeline.status import status
    from u2seg.pipeline.workspace import remove_run
    from u2seg.shards.pool import build_pool

    if args.status:
        return status(args.output_dir, [stage.name for stage in ORDER])
    if not args.config_file or not args.images:
        raise UserError("--config-file and --images are needed (not so with --status)")
    settings = load_settings(args.config_file, args.opts, host_keys())
    warn_unread(settings)
    if args.dry_run < 0:
        raise UserError(f"--dry-run is {args.dry_run}, expected a number of images > 0")
    output: Path = args.output_dir
    if args.dry_run:
        output = output / "dry-run"
        remove_run(output)
    generate_labels(
        settings,
        args.images,
        output,
        stages=[stage.strip() for stage in args.stages.split(",")],
        overwrite=args.overwrite,
        retry_failed=args.retry_failed,
        limit=args.dry_run,
        detector=_detector(settings),
        pool=build_pool(args.executor, args.workers, args.executor_options),
    )
    told = estimate(output, args.workers) if args.dry_run else f"labels are in {output}"
    return f"{told}\n{report_labels(output)}"


def report_labels(labels: Path) -> str:
    """Write ``report.html`` among the labels; return a line that says so, or why not."""
    from u2seg.visualization.report import report_line

    listed = labels / "images" / "manifest.json"
    images = read_json_object(listed)["counts"]["images"] if listed.is_file() else 0
    if images > MAX_REPORTED:  # the page is made from all masks in memory
        return f"no report of {images} photographs by itself: u2seg report {labels} writes it"
    return report_line(labels, f"Labels: {labels.resolve().name}", labels=labels)


def _detector(settings: Settings) -> Detector | None:
    """Return the trained model that predicts the masks, if the settings ask for one."""
    from u2seg.inference.detector import Detector
    from u2seg.masks.base import DETECTOR

    if settings.masks.proposer != DETECTOR:
        return None
    return Detector(settings.masks, settings.features.device)


def run_everything(args: argparse.Namespace) -> str:
    """Do the work of ``u2seg run``: label, train, evaluate, predict, report.

    Args:
        args: config_file, images, output_dir, truth, baseline, rounds, debug, opts.

    Returns:
        What to tell the user.

    Raises:
        UserError: for anything wrong in the arguments or settings, or an output folder that
            holds a run with other ones or in which another is at work.
        StageError: if a stage fails.
    """
    from u2seg.host.evaldata import register_eval
    from u2seg.host.setup import EVAL_NAME, build_cfg
    from u2seg.host.start import check_output
    from u2seg.pipeline.workspace import Workspace, check_apart

    folders = Folders(args.output_dir)
    settings = load_settings(args.config_file, args.opts, host_keys())
    source = open_source(args.images, settings.images.extensions)  # there, before hours of work
    check_apart(source, Workspace(folders.root), ())
    if args.truth and not args.truth.is_dir():
        raise UserError(f"data set {args.truth} does not exist (--truth)")
    if args.rounds < 0:
        raise UserError(f"--rounds is {args.rounds}, expected a number of rounds >= 0")
    build_cfg(args.config_file, _training_opts(args, folders), training=True)  # can it be trained?
    if args.truth:  # and is everything there that its evaluation needs?
        data = replace(settings.data, labels="", eval_root=str(args.truth))
        check_output(folders.root, replace(settings, data=data), "")
        register_eval(EVAL_NAME, replace(settings, data=data))
    with only_run(folders.root / LOCK):
        return _run_everything(args, settings, folders)


def _run_everything(args: argparse.Namespace, settings: Settings, folders: Folders) -> str:
    from u2seg.pipeline import generate_labels
    from u2seg.visualization.report import write_report

    left_out = rounds_left_out(folders, args.rounds)
    if left_out:
        logger.warning("%s", left_out)
    with _own_advice(folders):
        generate_labels(settings, args.images, folders.labels, detector=_detector(settings))
    logger.info("%s", report_labels(folders.labels))
    opts = _training_opts(args, folders)
    told = []
    if args.baseline:
        _check_same_run(args, folders, opts)
        untrained = _untrained_metrics(args, folders, opts)
        told.append(_line("untrained model", untrained))
    metrics = _train(args, folders, opts)
    told.append(_line("trained model", metrics))
    rows = [_summary(folders, metrics)]
    for number in range(1, args.rounds + 1):
        before, folders = folders, Folders(args.output_dir, number)
        opts = _relabel(args, settings, before, folders)
        metrics = _train(args, folders, opts)
        told.append(_line(f"round {number}", metrics))
        rows.append(_summary(folders, metrics))
    write_json(folders.summary, {"rounds": rows}, indent=1)
    agreement = _is_agreement(metrics)
    if agreement and args.rounds:
        told.append(NOT_COMPARABLE)
    if args.baseline:  # untrained and first training were compared with the same labels
        told.append(_ratio(untrained, rows[0] if agreement else metrics))
    _predict(args, folders, opts)
    report = write_report(
        folders.root / "report.html",
        labels=Folders(args.output_dir).labels,
        train=folders.train,
        predictions=folders.evaluation,
        title=f"u2seg: {folders.root.name}",
        rounds=folders.summary,
    )
    return "\n".join([*told, f"pictures: {folders.predictions / 'pictures'}", f"report: {report}"])


@contextlib.contextmanager
def _own_advice(folders: Folders) -> Iterator[None]:
    """Say what a user of this tool can do about labels of another run: it has no --overwrite."""
    from u2seg.pipeline.stage import OtherRunError

    try:
        yield
    except OtherRunError as error:
        raise UserError(f"{error.finding}. {anew(folders, labels=True)}") from error


def _train(args: argparse.Namespace, folders: Folders, opts: list[str]) -> dict[str, Any]:
    """Train on the labels of a round, or go on with it, and evaluate; return the metrics."""
    from u2seg.engine.run import train_or_evaluate

    _check_same_run(args, folders, opts)
    resume = (folders.train / "last_checkpoint").is_file()
    finished = folders.final_model.is_file()
    start = time.perf_counter()
    metrics = train_or_evaluate(_arguments(args.config_file, opts, resume=resume))
    if not finished:  # a second evaluation of a trained model says nothing about its cost
        _add_seconds(folders.train / "timings.json", "train and evaluate", start)
    return metrics


def _relabel(
    args: argparse.Namespace, settings: Settings, before: Folders, folders: Folders
) -> list[str]:
    """Make the labels of a round; return the overrides of its training."""
    from u2seg.host.setup import build_cfg
    from u2seg.inference.segmenter import Segmenter
    from u2seg.pipeline.relabel_stage import relabel_images

    rounds = settings.rounds
    averaged = rounds.weights == "ema" and before.averaged_model.is_file()
    weights = before.averaged_model if averaged else before.final_model
    least = min(rounds.agreed_score, rounds.threshold(folders.number))
    if not weights.is_file():
        raise UserError(f"{weights} does not exist: the training that makes it has not ended")
    opts = _training_opts(args, before)
    teacher = Segmenter.from_config(args.config_file, weights, opts, least, lazy=True)
    logger.info("round %d: %s relabels the photographs", folders.number, weights)
    with _own_advice(folders):
        relabel_images(
            settings, args.images, folders.labels, before.labels, teacher, folders.number
        )
    opts = _training_opts(args, folders)
    rate = build_cfg(args.config_file, opts).SOLVER.BASE_LR
    opts += ["SOLVER.BASE_LR", repr(rate * rounds.lr_factor)]
    opts += ["U2SEG.TRAIN.DROPLOSS", str(rounds.droploss)]
    if rounds.start == "previous":
        # Its own model fits: heads are only skipped of the weights a user named.
        opts += ["MODEL.WEIGHTS", str(before.final_model), "U2SEG.TRAIN.SKIP_HEADS", "False"]
    return opts


def _summary(folders: Folders, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what ``rounds.json`` says of a round."""
    manifest = read_json_object(folders.labels / "panoptic" / "manifest.json", "counts")
    blocks = {part: metrics.get(part) for part in ("panoptic", "semantic", "class_agnostic")}
    return {"round": folders.number, "labels": manifest["counts"], **blocks}


def _training_opts(args: argparse.Namespace, folders: Folders) -> list[str]:
    opts = [*args.opts, "OUTPUT_DIR", str(folders.train)]
    opts += ["U2SEG.DATA.LABELS", str(folders.labels)]
    if args.truth:
        opts += ["U2SEG.DATA.EVAL_ROOT", str(args.truth)]
    return opts


def _arguments(config_file: str, opts: list[str], *, resume: bool) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=config_file,
        opts=opts,
        resume=resume,
        eval_only=False,
        num_gpus=1,
        num_machines=1,
        machine_rank=0,
        dist_url="auto",
        debug=False,
    )


def _check_same_run(args: argparse.Namespace, folders: Folders, opts: list[str]) -> None:
    """Refuse to continue a training with other settings or labels; remember these."""
    from u2seg.workflows.rerun import changed_opts, changes_in_words, only_evaluation

    path, manifest = folders.home / "run.json", folders.labels / "manifest.json"
    content = read_json_object(manifest, "inputs", "files")
    told = {
        "config": sha256_bytes(json_bytes(load_yaml(args.config_file))),
        "opts": opts,
        "labels": sha256_bytes(manifest.read_bytes()),
        # The manifest itself also names settings that the labels do not depend on.
        "label_files": sha256_bytes(json_bytes([content["inputs"], content["files"]])),
    }
    if path.is_file() and (folders.train / "last_checkpoint").is_file():
        found = read_json_object(path)
        changes = changed_opts(found.get("opts", ()), opts)
        other = [] if found.get("config") == told["config"] else [f"settings in {args.config_file}"]
        made = "label_files" if "label_files" in found or changes or other else "labels"
        if found.get(made, told[made]) != told[made]:
            other.append(f"labels (made anew in {folders.labels})")
        if only_evaluation(changes) and not other:
            raise UserError(_evaluate_instead(args, folders, changes_in_words(changes)))
        if changes or other:
            named = ", ".join([*other, *([changes_in_words(changes)] if changes else [])])
            raise UserError(
                f"{folders.train} was trained with other {named}; results are never mixed. "
                f"{anew(folders, labels=False)}"
            )
    write_json(path, told, indent=1)


def _evaluate_instead(args: argparse.Namespace, folders: Folders, changed: str) -> str:
    """Return how to evaluate the last model of a run otherwise than the run did."""
    from u2seg.workflows.rerun import evaluation_command

    rounds = [Folders(folders.root, number) for number in range(args.rounds + 1)]
    trained = [each for each in rounds if each.final_model.is_file()]
    told = f"{folders.train} was trained and evaluated with other {changed}; "
    if not trained:
        return told + "finish it with the command it was begun with, and evaluate it otherwise then"
    last = trained[-1]
    opts = _training_opts(args, last)
    command = evaluation_command(
        args.config_file, opts, last.final_model, last.home / "other-evaluation"
    )
    return f"{told}only the evaluation differs, so keep the training and evaluate it: {command}"


def _untrained_metrics(
    args: argparse.Namespace, folders: Folders, opts: list[str]
) -> dict[str, Any]:
    """Evaluate the model as it is before training, once."""
    path = folders.untrained / "metrics.json"
    if not path.is_file():
        from u2seg.compat import prepare_host

        prepare_host()
        import torch
        from detectron2.modeling import build_model

        from u2seg.engine.evaluate import evaluate
        from u2seg.host.setup import build_cfg

        # Not setup_cfg: it would end the log of the training, and write a second config.yaml.
        opts = [*opts, "OUTPUT_DIR", str(folders.untrained)]
        cfg = build_cfg(args.config_file, opts, register=True)
        torch.manual_seed(max(cfg.SEED, 0))
        model = build_model(cfg)
        model.eval()
        evaluate(cfg, model, folders.untrained)
    return read_json_object(path)


def _predict(args: argparse.Namespace, folders: Folders, opts: list[str]) -> None:
    """Run the demo on (at most 24 of) the photographs."""
    from u2seg.inference.demo import segment_images
    from u2seg.pipeline.ingest import spread

    content = read_json_object(folders.labels / "images.json", "images", "info")
    root = content["info"]["image_root"]
    chosen = spread(content["images"], 24)
    inputs = [(record["file_name"], image_file(root, record)) for record in chosen]
    segment_images(
        argparse.Namespace(
            config_file=args.config_file,
            output=str(folders.predictions),
            weights=str(folders.final_model),
            confidence_threshold=0.3,
            opts=opts,
        ),
        inputs,
    )


def _add_seconds(path: Path, name: str, start: float) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    content[name] = round(content.get(name, 0.0) + time.perf_counter() - start, 2)
    write_json(path, content, indent=1)


def _line(name: str, metrics: dict[str, Any]) -> str:
    """Return a model's headline figures in words.

    Examples:
        >>> _line("model", {"panoptic": {"all": {"PQ": 12.34, "SQ": 50.0, "RQ": 24.0}}})
        'model: PQ 12.3, SQ 50.0, RQ 24.0'
        >>> _line("model", {"protocol": {"reference": "pseudo-labels"}})
        'model: PQ 0.0 (agreement with the pseudo-labels, not accuracy)'
    """
    panoptic = metrics.get("panoptic", {}).get("all", {})
    values = [f"{key} {panoptic[key]:.1f}" for key in ("PQ", "SQ", "RQ") if panoptic.get(key)]
    told = " (agreement with the pseudo-labels, not accuracy)" if _is_agreement(metrics) else ""
    return f"{name}: {', '.join(values) or 'PQ 0.0'}{told}"


def _is_agreement(metrics: dict[str, Any]) -> bool:
    from u2seg.evaluation import PSEUDO_LABELS

    return bool(metrics.get("protocol", {}).get("reference") == PSEUDO_LABELS)


def _ratio(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return in words how much better the trained model is.

    Examples:
        >>> none, some = ({"panoptic": {"all": {"PQ": value}}} for value in (0.0, 12.5))
        >>> _ratio(none, some)
        'trained / untrained: PQ 12.5 against 0.0, so there is no ratio'
    """
    low = before["panoptic"]["all"]["PQ"] or 0.0
    high = after["panoptic"]["all"]["PQ"] or 0.0
    if not low:
        return f"trained / untrained: PQ {high:.1f} against 0.0, so there is no ratio"
    return f"trained / untrained: {high / low:.1f} times the PQ"
