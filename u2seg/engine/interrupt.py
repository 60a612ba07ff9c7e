"""Ctrl-C and SIGTERM during training: the iteration in hand ends, and a checkpoint is written.

All processes end after the same iteration (see ``TrainingLoop.asked``). If that takes too long,
say in an evaluation or while waiting for images, a training of one process leaves what is in hand,
and the checkpoint is of the iteration before: nothing has changed since. Of several processes none
leaves alone what the others wait in.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

from detectron2.engine import HookBase

logger = logging.getLogger(__name__)
PATIENCE = 10.0
"""Seconds for what is in hand."""


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop; the message says what is kept."""


class Stop:
    """Notes SIGINT and SIGTERM within a ``with`` block of the main thread.

    A second signal ends what is in hand at once. While ``held``, the weights are changing: then
    nothing is left half-way.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.signal = 0
        self.held = False
        self.done = -1
        """The last iteration whose changes are all made."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            handlers: dict[int, Any] = {signal.SIGINT: self._note, signal.SIGTERM: self._note}
            if hasattr(signal, "setitimer"):  # not on Windows
                handlers[signal.SIGALRM] = self._leave
            self._before = {n: signal.signal(n, handler) for n, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(signal, "setitimer") and self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            if handler is not None:  # else it is not Python's
                signal.signal(number, handler)
        self._before = {}

    def asked(self) -> bool:
        """Return whether a signal came."""
        return self.signal != 0

    def hold(self, *_: object) -> None:
        """Begin to change weights.

        From the first time on, torch's handler of dying loading processes, which raises wherever
        the main thread is, is out of use: that they died is seen when samples are waited for, too.
        """
        self.held = True
        if self._before and hasattr(signal, "SIGCHLD") and signal.SIGCHLD not in self._before:
            self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _note(self, number: int, _frame: object) -> None:
        again, self.signal = self.asked(), number
        if again:
            self._leave()
        elif self.alone and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def _leave(self, *_: object) -> None:
        if not self.held:
            raise Interrupted
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.5)


def build_stop_hook(stop: Stop, loop: Any) -> Any:
    """Return a hook of the host, to stand behind those that change the state of the training."""
    loop.asked = stop.asked
    loop.optimizer.register_step_pre_hook(stop.hold)

    class StopHook(HookBase):  # type: ignore[misc]
        def before_train(self) -> None:
            stop.done = self.trainer.start_iter - 1

        def after_step(self) -> None:
            stop.done, stop.held = self.trainer.iter, False
            if loop.stopping:
                raise Interrupted

    return StopHook()


def save_interrupted(trainer: Any, stop: Stop) -> Interrupted:
    """Save the last whole iteration, if there is one since the start; return what to raise."""
    told = f"interrupted by {signal.Signals(stop.signal).name}"
    if stop.held or stop.done < trainer.start_iter:
        return Interrupted(f"{told}: there is nothing new to save, checkpoints stay as they are")
    trainer.iter = stop.done
    name = f"model_{stop.done:07d}"
    trainer.checkpointer.save(name, iteration=stop.done)
    message = f"{told}: {name}.pth is saved; --resume goes on at iteration {stop.done + 1}"
    logger.warning("%s", message)
    return Interrupted(message)
