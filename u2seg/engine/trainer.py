"""Detectron2's trainer with this package's samples, checkpoints and evaluation."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from u2seg.data.mapper import PanopticMapper, without_worker_traceback
from u2seg.errors import StageError, UserError

logger = logging.getLogger(__name__)


def build_trainer(cfg: Any, evaluate: Callable[[Any], None]) -> Any:
    """Return a ``DefaultTrainer`` for ``cfg``.

    Args:
        cfg: From ``setup_cfg``.
        evaluate: Called with the model every ``TEST.EVAL_PERIOD`` iterations (0 = never). The
            evaluation after the last iteration is the caller's.

    Returns:
        The trainer; Detectron2 is imported here, after the host has been prepared.
    """
    from detectron2.data import build_detection_train_loader
    from detectron2.engine import DefaultTrainer, HookBase, hooks
    from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter

    from u2seg.modeling.checkpoint import SafeCheckpointer

    class PeriodicEvaluation(HookBase):  # type: ignore[misc]
        """Evaluates between iterations, never after the last."""

        def after_step(self) -> None:
            done = self.trainer.iter + 1
            period = cfg.TEST.EVAL_PERIOD
            if period > 0 and done % period == 0 and done < self.trainer.max_iter:
                evaluate(self.trainer.model)

    class Trainer(DefaultTrainer):  # type: ignore[misc]
        """The host's trainer; its own evaluation hook and checkpointer are replaced."""

        def build_hooks(self) -> list[Any]:
            # DefaultTrainer.__init__ has just made its checkpointer and asks for hooks next.
            self.checkpointer = SafeCheckpointer.for_trainer(self)
            kept = [h for h in super().build_hooks() if not isinstance(h, hooks.EvalHook)]
            writers = [i for i, h in enumerate(kept) if isinstance(h, hooks.PeriodicWriter)]
            kept.insert(writers[0] if writers else len(kept), PeriodicEvaluation())
            return kept

        def build_writers(self) -> list[Any]:
            folder = Path(self.cfg.OUTPUT_DIR)
            writers = [CommonMetricPrinter(self.max_iter), JSONWriter(str(folder / "metrics.json"))]
            if importlib.util.find_spec("tensorboard"):
                writers.append(TensorboardXWriter(str(folder)))
            self.event_writers = writers
            return writers

        @classmethod
        def build_train_loader(cls, cfg: Any) -> Any:
            return build_detection_train_loader(cfg, mapper=PanopticMapper.from_cfg(cfg, True))

    return Trainer(cfg)


def run_training(trainer: Any, resume: bool) -> None:
    """Load weights and train to the last iteration; a finished run is left as it is.

    Args:
        trainer: From ``build_trainer``.
        resume: Go on from the last checkpoint of ``OUTPUT_DIR`` if there is one.

    Raises:
        StageError: if the loss is no longer finite.
        UserError: if the weights cannot be loaded.
    """
    # The host logs every error of the loop with its traceback; expected ones have their message.
    host_logger = logging.getLogger("detectron2.engine.train_loop")
    host_logger.addFilter(_unexpected)
    try:
        trainer.resume_or_load(resume=resume)
        if trainer.start_iter >= trainer.max_iter:
            logger.info("training is finished already (%d iterations)", trainer.start_iter)
        else:
            trainer.train()
    except StageError as error:
        raise without_worker_traceback(error) from error
    except FloatingPointError as error:
        raise StageError(
            f"the loss became infinite or NaN ({error}): lower SOLVER.BASE_LR, lengthen "
            "SOLVER.WARMUP_ITERS or enable SOLVER.CLIP_GRADIENTS, then go on with --resume"
        ) from error
    finally:
        host_logger.removeFilter(_unexpected)
        # The host closes them after a complete training only.
        for writer in getattr(trainer, "event_writers", ()):
            writer.close()


def _unexpected(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, UserError | StageError | FloatingPointError)
