"""Train, or evaluate: what ``u2seg train`` does in every process; and its rehearsal."""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from u2seg.config.load import settings_from_cfg
from u2seg.engine import nonfinite
from u2seg.engine.batch_search import find_batch_size
from u2seg.engine.evaluate import comparison, eval_choice, evaluate, with_protocol_key
from u2seg.engine.loop import Iteration
from u2seg.engine.processes import run_in_processes, share_buffers
from u2seg.engine.telemetry import memory_gb
from u2seg.engine.trainer import Trainer, mixed_precision, run_training
from u2seg.errors import StageError, UserError
from u2seg.host.setup import EVAL_NAME, build_cfg
from u2seg.host.start import remember_settings, setup_cfg
from u2seg.inference.segmenter import load_model
from u2seg.io.checkpoints import load_checkpoint
from u2seg.io.checksums import remove_leftovers, save_checked
from u2seg.io.lock import LOCK, only_run
from u2seg.modeling.checkpoint import SafeCheckpointer
from u2seg.modeling.student import build_student
from u2seg.visualization.report import duration, report_line

logger = logging.getLogger(__name__)
FINAL_EMA = "model_final_ema.pth"
EMA_EVALUATION = "evaluation_ema"
DRY_RUN = "dry-run"
DRY_ITERATIONS = 2
DRY_IMAGES = 4
"""Images that a rehearsal evaluates."""


def launch_run(args: argparse.Namespace) -> int:
    """Run ``train_or_evaluate`` in one process or several; return the exit code."""
    if args.memory_limit and not args.find_batch_size:
        raise UserError(
            f"--memory-limit {args.memory_limit:g} belongs to --find-batch-size; a training takes "
            "the memory that its batch needs"
        )
    if args.find_batch_size:
        logger.info("batch size:\n%s", find_batch_size(args))
        return 0
    run_in_processes(train_or_evaluate, with_protocol_key(args))
    return 0


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Train and then evaluate, or with ``eval_only`` evaluate alone."""
    if args.replay or args.dry_run:
        logger.info("%s", replay(args) if args.replay else dry_run(args))
        return {}
    with setup_cfg(args) as cfg:
        return _run(cfg, args)


def _run(cfg: Any, args: argparse.Namespace) -> dict[str, Any]:
    choice = eval_choice(args, settings_from_cfg(cfg))
    if cfg.DATASETS.TEST and cfg.DATASETS.TEST[0] == EVAL_NAME:
        comparison(cfg, choice)
    if args.eval_only:
        model = _trained_model(cfg, args.resume)
        if not cfg.DATASETS.TEST:
            raise UserError(
                "nothing to evaluate on: set U2SEG.DATA.EVAL_ROOT to a data set with truth "
                "(datasets/README.md), or U2SEG.DATA.LABELS to pseudo-labels"
            )
        metrics = evaluate(cfg, model, choice=choice)
    else:
        metrics = train(cfg, resume=args.resume)
    folder = Path(cfg.OUTPUT_DIR)
    report(folder, f"{'Evaluation' if args.eval_only else 'Training'}: {folder.name}")
    return metrics


def _trained_model(cfg: Any, resume: bool) -> Any:
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


def train(cfg: Any, *, resume: bool = False) -> dict[str, Any]:
    """Train the model of ``cfg`` and evaluate it.

    With ``U2SEG.TRAIN.EMA_DECAY`` the average of the weights becomes ``model_final_ema.pth`` and
    is evaluated too, in ``<OUTPUT_DIR>/evaluation_ema``.
    """
    if comm.is_main_process():
        remember_settings(cfg, resume)
        remove_leftovers(Path(cfg.OUTPUT_DIR))
    trainer = Trainer(cfg, lambda running: _evaluate_running(cfg, running))
    run_training(trainer, resume)
    return _evaluate_trained(cfg, trainer)


def _evaluate_running(cfg: Any, trainer: Any) -> None:
    """Evaluate between iterations: the average, if there is one."""
    share_buffers(trainer.model, trainer.average)
    if trainer.average is None:
        evaluate(cfg, trainer.model)
        return
    with trainer.average.applied(trainer.model):
        evaluate(cfg, trainer.model, Path(cfg.OUTPUT_DIR) / EMA_EVALUATION)


def _evaluate_trained(cfg: Any, trainer: Any, images: int = 0) -> dict[str, Any]:

    share_buffers(trainer.model, trainer.average)
    metrics = evaluate(cfg, trainer.model, images=images)
    if trainer.average is None:
        return metrics
    folder = Path(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        content = {"model": trainer.average.weights}
        save_checked(folder / FINAL_EMA, lambda file: torch.save(content, file))
    with trainer.average.applied(trainer.model):
        averaged = evaluate(cfg, trainer.model, folder / EMA_EVALUATION, images=images)
    return {**metrics, "ema": averaged} if averaged else metrics


def replay(args: argparse.Namespace) -> str:
    """Return the losses of a batch that ``nonfinite.stop`` saved, computed again."""
    cfg = build_cfg(args.config_file, args.opts)

    parts, dtype = cfg.U2SEG.TRAIN.ACCUMULATE, mixed_precision(cfg)
    return nonfinite.replay(build_student(cfg), Path(args.replay), parts=parts, dtype=dtype)


def dry_run(args: argparse.Namespace) -> str:
    """Rehearse a training in ``<OUTPUT_DIR>/dry-run``: everything once, and what it would cost.

    Two iterations, a checkpoint written and read, an evaluation of four images, a report. An
    earlier rehearsal is removed.
    """
    folder = _empty_folder(args)
    opts = [*args.opts, "OUTPUT_DIR", str(folder), "TEST.PRECISE_BN.NUM_ITER", "1"]
    with setup_cfg(argparse.Namespace(**{**vars(args), "opts": opts, "resume": False})) as cfg:
        return _rehearse(cfg, folder)


def _rehearse(cfg: Any, folder: Path) -> str:
    trainer = Trainer(cfg, lambda _: None)
    trainer.max_iter = DRY_ITERATIONS
    seconds: list[float] = []
    note = trainer.loop.done

    def timed(found: Iteration) -> None:
        seconds.append(found.seconds)
        note(found)

    trainer.loop.done = timed
    run_training(trainer, resume=False)
    spent_saving, size = _check_checkpoint(trainer, folder)
    total = _test_images(cfg)
    start = time.perf_counter()
    _evaluate_trained(cfg, trainer, DRY_IMAGES)
    spent_evaluating = (time.perf_counter() - start) / min(DRY_IMAGES, total or 1)
    report(folder, "Rehearsal of a training")

    lines = [
        f"the rehearsal went well; its files are in {folder}",
        f"iteration: {seconds[-1]:.2f} s (the second one)",
        f"training: {_duration(seconds[-1] * cfg.SOLVER.MAX_ITER)} for {cfg.SOLVER.MAX_ITER} "
        "iterations",
        f"checkpoint: {spent_saving:.1f} s, {size / 1e9:.2f} GB, every "
        f"{cfg.SOLVER.CHECKPOINT_PERIOD} iterations",
        f"evaluation: {_duration(spent_evaluating * total)} for {total} images",
        f"peak memory: {memory_gb(trainer.loop.device):.1f} GB",
    ]
    return "\n".join(lines)


def _empty_folder(args: argparse.Namespace) -> Path:
    folder = Path(build_cfg(args.config_file, args.opts).OUTPUT_DIR) / DRY_RUN
    if comm.is_main_process() and folder.exists():
        old = [p for p in folder.iterdir() if p.name != LOCK] if folder.is_dir() else [folder]
        if old and not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} exists and is no earlier dry run: remove or rename it")
        with only_run(folder / LOCK):
            for path in old:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    comm.synchronize()
    return folder


def _check_checkpoint(trainer: Any, folder: Path) -> tuple[float, int]:
    """Write a checkpoint and read it again; return seconds of writing and bytes.

    The first process does: it writes what is its own, into a folder that others may not see.
    """
    start = time.perf_counter()
    trainer.checkpointer.save("model_dry_run")
    seconds = time.perf_counter() - start
    if not comm.is_main_process():
        return seconds, 0
    path = folder / "model_dry_run.pth"
    found = load_checkpoint(path)["model"]
    written = trainer.checkpointer.model.state_dict()
    for name, value in written.items():
        if name not in found or not torch.equal(found[name], value.cpu()):
            raise StageError(f"{path}: {name} was not read as it was written: is the disk sound?")
    return seconds, path.stat().st_size


def _test_images(cfg: Any) -> int:
    return len(DatasetCatalog.get(cfg.DATASETS.TEST[0])) if cfg.DATASETS.TEST else 0


def report(folder: Path, title: str) -> None:
    """Write ``report.html`` in a training's folder and log where it is; the first process does."""
    if comm.is_main_process():
        parts = {"train": folder}
        if (folder / "evaluation").is_dir():
            parts["predictions"] = folder / "evaluation"
        logger.info("%s", report_line(folder, title, **parts))


def _duration(seconds: float) -> str:
    return f"about {duration(seconds)}"
