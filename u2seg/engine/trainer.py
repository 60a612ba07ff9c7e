"""Detectron2's trainer with this package's loop, samples, checkpoints and evaluation."""

from __future__ import annotations

import copy
import itertools
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from u2seg.config.load import settings_from_cfg
from u2seg.config.training import TrainSettings
from u2seg.data.mapper import without_worker_traceback
from u2seg.data.stream import Sample, TrainStream, build_train_loader, seed_everything, step_seed
from u2seg.engine.ema import KEY, WeightAverage
from u2seg.engine.interrupt import Stop, build_stop_hook, save_interrupted
from u2seg.engine.loop import DTYPES, Batch, Iteration, TrainingLoop
from u2seg.engine.nonfinite import stop
from u2seg.engine.optimizer import build_clip, build_optimizer
from u2seg.engine.pictures import BatchPictures
from u2seg.engine.telemetry import Meter, build_writers
from u2seg.errors import StageError, UserError
from u2seg.labels import LabelFolder
from u2seg.modeling.checkpoint import SafeCheckpointer
from u2seg.modeling.student import build_student

logger = logging.getLogger(__name__)
FINAL = "model_final"
"""The host's name of the last checkpoint, without ending."""


class Trainer(DefaultTrainer):  # type: ignore[misc]
    """The host's trainer with another loop, checkpointer, evaluation and other writers."""

    def __init__(self, cfg: Any, evaluate: Callable[[Any], None]) -> None:
        TrainerBase.__init__(self)  # the host's own constructor would make its own parts
        self.stop = Stop(alone=comm.get_world_size() == 1)
        self.evaluate = evaluate
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        settings = settings_from_cfg(cfg).train
        student = fitted(build_student(cfg), settings)
        logging.getLogger("detectron2.u2seg").debug("Model:\n%s", student)
        self.stream = build_train_loader(cfg, student.tasks)
        if "things" in student.tasks:
            warn_without_things(cfg, self.stream.records)
        self.loop = self._trainer = build_loop(cfg, student, self.stream)
        self.loop.done = self.note
        self.loop.watchers.append(BatchPictures(cfg))
        self.meter = Meter()
        self.average = self.loop.average
        self.scheduler = self.build_lr_scheduler(cfg, self.loop.optimizer)
        checkpointables: dict[str, Any] = {"trainer": weakref.proxy(self)}
        if self.average is not None:
            checkpointables[KEY] = self.average
        self.checkpointer = SafeCheckpointer(
            student,
            cfg.OUTPUT_DIR,
            skip_heads=settings.skip_heads,
            keep=settings.keep_checkpoints,
            **checkpointables,
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[Any]:
        """Return the host's hooks, with ours for the stream, evaluation and interruption."""
        kept = [h for h in super().build_hooks() if not isinstance(h, hooks.EvalHook)]
        kept = [self._precise_bn() if isinstance(h, hooks.PreciseBN) else h for h in kept]
        writers = [i for i, h in enumerate(kept) if isinstance(h, hooks.PeriodicWriter)]
        kept.insert(writers[0] if writers else len(kept), PeriodicEvaluation())
        changing = [
            i for i, h in enumerate(kept) if isinstance(h, hooks.LRScheduler | hooks.PreciseBN)
        ]
        kept.insert(changing[-1] + 1, build_stop_hook(self.stop, self.loop))
        return [StreamHook(self.stream), *kept]

    def _precise_bn(self) -> Any:
        number = self.cfg.TEST.PRECISE_BN.NUM_ITER
        batches = FirstBatches(self.stream, number)
        return hooks.PreciseBN(self.cfg.TEST.EVAL_PERIOD, Losses(self.model), batches, number)

    def build_writers(self) -> list[Any]:
        """Return the host's event writers."""
        folder = Path(self.cfg.OUTPUT_DIR)
        self.event_writers = build_writers(folder, weakref.proxy(self), self.meter)
        return self.event_writers

    def note(self, iteration: Iteration) -> None:
        """Hand the figures of an iteration to the host's storage, under the host's names."""
        self.meter.add(iteration)
        if comm.is_main_process():
            total = sum(iteration.losses.values())
            self.storage.put_scalars(data_time=iteration.data_s, total_loss=total)
            self.storage.put_scalars(**iteration.losses)

    def state_dict(self) -> dict[str, Any]:
        """Return iteration, schedule, optimizer and loss scaling (0.5 leaves two out)."""
        return {**TrainerBase.state_dict(self), "_trainer": self.loop.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``, or from the iteration and schedule of a Detectron2 trainer."""
        TrainerBase.load_state_dict(self, state)
        optimizer = self.loop.optimizer
        # The saved schedule has one rate of each group that there was.
        self.scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        if "_trainer" in state:
            self.loop.load_state_dict(state["_trainer"])
        else:
            logger.warning("the checkpoint has no state of the optimizer: momentum starts at 0")
        for group, rate in zip(optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate


class PeriodicEvaluation(HookBase):  # type: ignore[misc]
    """Evaluates between iterations, never after the last."""

    def after_step(self) -> None:
        """Evaluate, if it is time."""
        done, period = self.trainer.iter + 1, self.trainer.cfg.TEST.EVAL_PERIOD
        if period > 0 and done % period == 0 and done < self.trainer.max_iter:
            self.trainer.evaluate(self.trainer)


class StreamHook(HookBase):  # type: ignore[misc]
    """Ties the stream and the shared random generators to iterations, in all processes.

    The generators are seeded before each iteration by its number, so nothing of theirs needs to
    be saved: whatever happened before, an iteration draws the same numbers.
    """

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream

    def before_train(self) -> None:
        """Begin at the trainer's first iteration."""
        self.stream.start_iteration = self.trainer.start_iter

    def before_step(self) -> None:
        """Seed."""
        seed_everything(step_seed(self.stream.seed, self.trainer.iter, comm.get_rank()))

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint holds of the stream."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self.stream.load_state_dict(state)


class FirstBatches:
    """Endless batches for PreciseBN: the first ones of a training, again and again.

    The host's hook keeps one iterator for all its calls, each of which takes ``number`` batches.
    As every call gets the same ones, the statistics depend on the weights alone, and not on how
    many calls there have been since the training was resumed.
    """

    def __init__(self, stream: TrainStream, number: int) -> None:
        self.stream, self.number = stream, number

    def __iter__(self) -> Iterator[list[Sample]]:
        while True:
            first = copy.copy(self.stream)
            first.start_iteration = 0
            first.plan = replace(first.plan, workers=0)
            yield from itertools.islice(first, self.number)


class Losses(nn.Module):
    """The losses of a student as a forward pass, for what calls models."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the student's losses."""
        losses: dict[str, Tensor] = self.student.losses(batch)
        return losses


def warn_without_things(cfg: Any, records: Iterable[dict[str, Any]]) -> None:
    """Warn of labels without a single thing to a student that learns things."""
    if not comm.is_main_process():
        return
    if any(not a.get("iscrowd", 0) for record in records for a in record.get("annotations", ())):
        return
    logger.warning(
        "%s has no thing (crowds aside), but %s trains to detect things: it will learn that there "
        "are none. If there should be some, see what became of the masks in the labelling run",
        LabelFolder.open(cfg.U2SEG.DATA.LABELS, cfg.U2SEG.DATA.IMAGES).instances_json,
        cfg.MODEL.META_ARCHITECTURE,
    )


def build_loop(cfg: Any, student: Any, loader: Iterable[Batch]) -> TrainingLoop:
    """Return the loop of ``cfg``; ``student`` is put into training mode."""
    settings = settings_from_cfg(cfg).train
    optimizer = build_optimizer(cfg, student)
    return TrainingLoop(
        student.train(),
        loader,
        optimizer,
        clip=build_clip(cfg.SOLVER.CLIP_GRADIENTS, optimizer),
        parts=settings.accumulate,
        dtype=mixed_precision(cfg),
        average=WeightAverage(settings.ema_decay) if settings.ema_decay else None,
        compute=_distributed(student),
        failed=lambda found: stop(found, student, Path(cfg.OUTPUT_DIR)),
    )


def mixed_precision(cfg: Any) -> torch.dtype | None:
    """Return the number format of mixed precision; None = float32 throughout."""
    return DTYPES[str(cfg.U2SEG.TRAIN.AMP_DTYPE)] if cfg.SOLVER.AMP.ENABLED else None


def fitted(student: Any, settings: TrainSettings) -> Any:
    """Return a student with the padding and memory order of the settings."""
    if hasattr(student, "common_padding"):
        student.common_padding = settings.common_padding
    if settings.channels_last:
        student = student.to(memory_format=torch.channels_last)
    return student


def _distributed(student: Any) -> Callable[[Batch], dict[str, Tensor]]:
    """Return what computes the losses of a batch; several processes exchange gradients."""
    if comm.get_world_size() == 1:
        return student.losses  # type: ignore[no-any-return]
    devices = [comm.get_local_rank()] if next(student.parameters()).is_cuda else None
    return DistributedDataParallel(Losses(student), device_ids=devices, broadcast_buffers=False)


def run_training(trainer: Trainer, resume: bool) -> None:
    """Load weights and train to the last iteration; a finished run is left as it is."""
    # The host logs every error of the loop with its traceback; expected ones have their message.
    host_logger = logging.getLogger("detectron2.engine.train_loop")
    host_logger.addFilter(_unexpected)
    try:
        trainer.resume_or_load(resume=resume)
        start, end = trainer.start_iter, trainer.max_iter
        if start >= end:
            logger.info("training is finished already (%d iterations)", start)
            _save_final(trainer)
        else:
            if start:
                last = trainer.checkpointer.get_checkpoint_file()
                logger.info("going on at iteration %d of %d, from %s", start, end, last)
            with trainer.stop:
                trainer.train()
            if trainer.stop.asked():
                raise KeyboardInterrupt
    except (KeyboardInterrupt, Exception) as error:
        if trainer.stop.asked():  # a loading process that got the signal too raises others
            raise save_interrupted(trainer, trainer.stop) from error
        if isinstance(error, StageError):
            raise without_worker_traceback(error) from error
        raise
    finally:
        host_logger.removeFilter(_unexpected)
        # The host closes them after a complete training only.
        for writer in getattr(trainer, "event_writers", ()):
            writer.close()


def _save_final(trainer: Trainer) -> None:
    """Save the final weights of a training that was killed before it could.

    The host writes the last numbered checkpoint first. A ``model_final.pth`` that
    ``last_checkpoint`` does not name is missing, or of an earlier, shorter training.
    """
    last = Path(trainer.checkpointer.get_checkpoint_file()) if comm.is_main_process() else None
    if last is not None and last.stem != FINAL:
        trainer.checkpointer.save(FINAL, iteration=trainer.start_iter - 1)


def _unexpected(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, UserError | StageError)
