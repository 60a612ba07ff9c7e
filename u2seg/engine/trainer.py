"""Detectron2's trainer with this package's loop, samples, checkpoints and evaluation."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from u2seg.config.training import TrainSettings
from u2seg.config.yacs_bridge import settings_from_cfg
from u2seg.data.mapper import without_worker_traceback
from u2seg.data.stream import build_train_loader
from u2seg.errors import StageError, UserError

if TYPE_CHECKING:
    import torch

    from u2seg.engine.loop import Iteration

logger = logging.getLogger(__name__)
FINAL = "model_final"
"""The host's name of the last checkpoint, without ending."""


class TrainerParts:
    """What this package changes of the host's ``DefaultTrainer``; a base class before it.

    Args:
        cfg: From ``setup_cfg``; the world size is fitted in.
    """

    iter: int
    storage: Any
    build_model: Callable[[Any], Any]
    build_lr_scheduler: Callable[[Any, Any], Any]

    def assemble(self, cfg: Any) -> None:
        """Make model, loader, optimizer, schedule, loop and checkpointer.

        The host's constructor would make its own.
        """
        from u2seg.engine.ema import KEY
        from u2seg.engine.pictures import BatchPictures
        from u2seg.engine.telemetry import Meter
        from u2seg.modeling.checkpoint import SafeCheckpointer

        self.cfg = cfg
        settings = settings_from_cfg(cfg).train
        model = fitted(self.build_model(cfg), settings)
        optimizer = self.build_optimizer(cfg, model)
        self.stream = self.build_train_loader(cfg)
        self.loop = self._trainer = build_loop(cfg, distributed(model), self.stream, optimizer)
        self.loop.done = self.note
        self.loop.watchers.append(BatchPictures(cfg))
        self.meter = Meter()
        self.average = self.loop.average
        self.scheduler = self.build_lr_scheduler(cfg, self.loop.optimizer)
        kept = {KEY: self.average} if self.average is not None else {}
        trainer = weakref.proxy(self)
        self.checkpointer = SafeCheckpointer(
            self.loop.model,
            cfg.OUTPUT_DIR,
            skip_heads=settings.skip_heads,
            keep=settings.keep_checkpoints,
            trainer=trainer,
            **kept,
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER

    def build_writers(self) -> list[Any]:
        """Return the host's event writers."""
        from u2seg.engine.telemetry import build_writers

        folder = Path(self.cfg.OUTPUT_DIR)
        self.event_writers = build_writers(folder, weakref.proxy(self), self.meter)
        return self.event_writers

    def note(self, iteration: Iteration) -> None:
        """Hand the figures of an iteration to the host's storage, under the host's names."""
        from detectron2.utils import comm

        self.meter.add(iteration)
        if comm.is_main_process():
            total = sum(iteration.losses.values())
            self.storage.put_scalars(data_time=iteration.data_s, total_loss=total)
            self.storage.put_scalars(**iteration.losses)

    def state_dict(self) -> dict[str, Any]:
        """Return iteration, schedule, optimizer and loss scaling (0.5 leaves two out)."""
        from detectron2.engine import TrainerBase

        return {**TrainerBase.state_dict(self), "_trainer": self.loop.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``, or from that of a Detectron2 trainer.

        Raises:
            UserError: if the optimizer's state is of other parameters.
        """
        from detectron2.engine import TrainerBase

        TrainerBase.load_state_dict(self, state)
        # The saved schedule has one rate of each group that there was.
        self.scheduler.base_lrs = [g["initial_lr"] for g in self.loop.optimizer.param_groups]
        if "_trainer" in state:
            self.loop.load_state_dict(state["_trainer"])
        else:
            logger.warning("the checkpoint has no state of the optimizer: momentum starts at 0")
        for group, rate in zip(
            self.loop.optimizer.param_groups, self.scheduler.get_lr(), strict=True
        ):
            group["lr"] = rate

    @classmethod
    def build_optimizer(cls, cfg: Any, model: Any) -> Any:
        """Return the optimizer, its last layers at ``U2SEG.TRAIN.HEAD_LR_FACTOR``."""
        from u2seg.engine.optimizer import build_optimizer

        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        """Return the endless batches of ``cfg``'s labels."""
        stream = build_train_loader(cfg)
        warn_without_things(cfg, stream.records)
        return stream


def warn_without_things(cfg: Any, records: Iterable[dict[str, Any]]) -> None:
    """Warn of labels without a single thing to a model that detects things.

    Args:
        cfg: From ``setup_cfg``.
        records: Of the training set; read up to the first that has a thing.
    """
    from detectron2.utils import comm

    model = cfg.MODEL.META_ARCHITECTURE
    if model == "SemanticSegmentor" or not comm.is_main_process():
        return
    if any(not a.get("iscrowd", 0) for record in records for a in record.get("annotations", ())):
        return
    logger.warning(
        "%s has no thing (crowds aside), but %s trains to detect things: it will learn that there "
        "are none. If there should be some, see what became of the masks in the labelling run",
        Path(cfg.U2SEG.DATA.LABELS) / "panoptic" / "instances.json",
        model,
    )


def build_trainer(cfg: Any, evaluate: Callable[[Any], None]) -> Any:
    """Return a ``DefaultTrainer`` for ``cfg``.

    Args:
        cfg: From ``setup_cfg``.
        evaluate: Called with the trainer every ``TEST.EVAL_PERIOD`` iterations (0 = never). The
            evaluation after the last iteration is the caller's.

    Returns:
        The trainer; its ``loop`` is a ``TrainingLoop``, its ``average`` a ``WeightAverage`` or
        None. Detectron2 is imported here, after the host has been prepared.
    """
    from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
    from detectron2.utils import comm

    from u2seg.engine.interrupt import Stop, build_stop_hook
    from u2seg.engine.stream_hook import FirstBatches, build_stream_hook

    class PeriodicEvaluation(HookBase):  # type: ignore[misc]
        """Evaluates between iterations, never after the last."""

        def after_step(self) -> None:
            done = self.trainer.iter + 1
            period = cfg.TEST.EVAL_PERIOD
            if period > 0 and done % period == 0 and done < self.trainer.max_iter:
                evaluate(self.trainer)

    class Trainer(TrainerParts, DefaultTrainer):  # type: ignore[misc]
        """The host's trainer with another loop, checkpointer, evaluation and other writers."""

        def __init__(self, cfg: Any) -> None:
            TrainerBase.__init__(self)
            self.stop = Stop(alone=comm.get_world_size() == 1)
            self.assemble(DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()))
            self.register_hooks(self.build_hooks())

        def build_hooks(self) -> list[Any]:
            kept = [h for h in super().build_hooks() if not isinstance(h, hooks.EvalHook)]
            kept = [self.precise_bn() if isinstance(h, hooks.PreciseBN) else h for h in kept]
            writers = [i for i, h in enumerate(kept) if isinstance(h, hooks.PeriodicWriter)]
            kept.insert(writers[0] if writers else len(kept), PeriodicEvaluation())
            changing = [
                i for i, h in enumerate(kept) if isinstance(h, hooks.LRScheduler | hooks.PreciseBN)
            ]
            kept.insert(changing[-1] + 1, build_stop_hook(self.stop, self.loop))
            return [build_stream_hook(self.stream), *kept]

        def precise_bn(self) -> Any:
            number = cfg.TEST.PRECISE_BN.NUM_ITER
            batches = FirstBatches(self.stream, number)
            return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, batches, number)

    return Trainer(cfg)


def build_loop(cfg: Any, model: Any, loader: Any, optimizer: Any) -> Any:
    """Return the ``TrainingLoop`` of ``cfg``; ``model`` is put into training mode.

    An ``SGD`` of the host is replaced by a faster one, see ``fused_sgd``.
    """
    from u2seg.engine.ema import WeightAverage
    from u2seg.engine.loop import TrainingLoop
    from u2seg.engine.nonfinite import stop
    from u2seg.engine.sgd import fused_sgd

    settings = settings_from_cfg(cfg).train
    folder = Path(cfg.OUTPUT_DIR)
    optimizer, clip = fused_sgd(optimizer, cfg.SOLVER.CLIP_GRADIENTS)
    loop = TrainingLoop(
        model.train(),
        loader,
        optimizer,
        clip=clip,
        parts=settings.accumulate,
        dtype=mixed_precision(cfg),
        average=WeightAverage(settings.ema_decay) if settings.ema_decay else None,
    )
    loop.failed = lambda found: stop(found, loop.model, folder)
    return loop


def mixed_precision(cfg: Any) -> torch.dtype | None:
    """Return the number format of mixed precision; None = float32 throughout."""
    from u2seg.engine.loop import DTYPES

    return DTYPES[str(cfg.U2SEG.TRAIN.AMP_DTYPE)] if cfg.SOLVER.AMP.ENABLED else None


def fitted(model: Any, settings: TrainSettings) -> Any:
    """Return a model with the padding, memory order and compiled backbone that settings ask for."""
    import torch

    from u2seg.engine.compiled import compile_forward

    model.common_padding = settings.common_padding
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.compile:
        compile_forward(model.backbone)
    return model


def distributed(model: Any) -> Any:
    """Return a model whose processes exchange gradients; itself if there is one process."""
    from detectron2.utils import comm
    from torch.nn.parallel import DistributedDataParallel

    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def run_training(trainer: Any, resume: bool) -> None:
    """Load weights and train to the last iteration; a finished run is left as it is.

    Args:
        trainer: From ``build_trainer``.
        resume: Go on from the last checkpoint of ``OUTPUT_DIR`` if there is one.

    Raises:
        StageError: if the loss is no longer finite.
        UserError: if the weights cannot be loaded.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    from u2seg.engine.interrupt import save_interrupted

    # The host logs every error of the loop with its traceback; expected ones have their message.
    host_logger = logging.getLogger("detectron2.engine.train_loop")
    host_logger.addFilter(_unexpected)
    try:
        trainer.resume_or_load(resume=resume)
        if trainer.start_iter >= trainer.max_iter:
            logger.info("training is finished already (%d iterations)", trainer.start_iter)
            _save_final(trainer)
        else:
            if trainer.start_iter:
                logger.info(
                    "going on at iteration %d of %d, from %s",
                    trainer.start_iter,
                    trainer.max_iter,
                    trainer.checkpointer.get_checkpoint_file(),
                )
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


def _save_final(trainer: Any) -> None:
    """Save the final weights of a training that was killed before it could.

    The host writes the last numbered checkpoint first. A ``model_final.pth`` that
    ``last_checkpoint`` does not name is missing, or of an earlier, shorter training.
    """
    from detectron2.utils import comm

    last = Path(trainer.checkpointer.get_checkpoint_file()) if comm.is_main_process() else None
    if last is not None and last.stem != FINAL:
        trainer.checkpointer.save(FINAL, iteration=trainer.start_iter - 1)


def _unexpected(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, UserError | StageError)
