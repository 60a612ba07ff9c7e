"""The host's set-up of a run, and its log: of this run alone, and without colours in files.

The host's ``setup_logger`` adds handlers and removes none. So the second run in one process would
write every line twice, and its own lines into the first run's ``log.txt`` too.
"""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
from pathlib import Path
from typing import Any

_LOGGERS = ("detectron2", "fvcore")
"""Those that the host's set-up gives handlers."""
_ADDED: list[tuple[logging.Logger, logging.Handler]] = []
"""What the last set-up of this process added."""
_LONG = ("Environment info:", "Running with full config:", "Model:")
"""Beginnings of messages of the host that no console needs."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def set_up_host(cfg: Any, args: argparse.Namespace) -> None:
    """Begin a run as the host does: log, ``config.yaml``, seeds.

    The log goes to stdout and ``OUTPUT_DIR/log.txt``, which alone has what is hundreds of lines
    long, and all that this package says too. Handlers that an earlier call added are removed
    first; those of others stay.

    Args:
        cfg: From ``build_cfg``; ``OUTPUT_DIR`` exists.
        args: From ``engine.args``; the log begins with them as ``command_words``.
    """
    from detectron2.engine import default_setup
    from detectron2.utils import logger as host_log

    while _ADDED:
        logger, handler = _ADDED.pop()
        logger.removeHandler(handler)
    # It would add none for a folder that it has seen, or write to a file that was removed since.
    host_log.setup_logger.cache_clear()
    host_log._cached_log_stream.cache_clear()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    seen = {id(handler) for logger in loggers for handler in logger.handlers}

    def first(record: logging.LogRecord) -> bool:
        _tune(loggers, seen)  # before the host's first line, which comes with its handlers
        return _without_colours(record)  # the host colours the config, whatever reads it

    loggers[0].addFilter(first)
    try:
        default_setup(cfg, _Shown(eval_only=args.eval_only, words=command_words(args)))
    finally:
        loggers[0].removeFilter(first)
        _tune(loggers, seen)
    told = "environment, full config and model are in %s"
    logging.getLogger("detectron2.u2seg").info(told, Path(cfg.OUTPUT_DIR) / "log.txt")


def _tune(loggers: list[logging.Logger], seen: set[int]) -> None:
    """Have the host's new handlers show what belongs there, and note them in ``_ADDED``."""
    for logger in loggers:
        for handler in [each for each in logger.handlers if id(each) not in seen]:
            seen.add(id(handler))
            _ADDED.append((logger, handler))
            console = getattr(handler, "stream", None) is sys.stdout
            if console:
                handler.addFilter(_is_short)
            elif logger is loggers[0]:
                ours = logging.getLogger("u2seg")
                ours.addHandler(handler)
                _ADDED.append((ours, handler))
            if not (console and sys.stdout.isatty()):
                handler.setFormatter(_PlainFormatter(handler.formatter))


def command_words(args: argparse.Namespace) -> str:
    """Return a command line of ``u2seg train``, as far as it says something.

    Examples:
        >>> words = ["SEED", "4", "SOLVER.STEPS", "(2, 3)"]
        >>> command_words(argparse.Namespace(config_file="a.yaml", resume=True, opts=words))
        "--config-file a.yaml --resume SEED 4 SOLVER.STEPS '(2, 3)'"
    """
    from u2seg.engine.args import train_parser

    parser = train_parser()
    words: list[str] = []
    for name, value in vars(args).items():
        if name == "opts" or value == parser.get_default(name):
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return shlex.join([*words, *map(str, args.opts)])


class _Shown(argparse.Namespace):
    """What the host needs of the options; printed as the command line."""

    def __str__(self) -> str:
        return str(self.words)


class _PlainFormatter(logging.Formatter):
    """Formats as another one does, and removes codes of colours."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return _COLOUR.sub("", self._inner.format(record))


def _is_short(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_LONG)


def _without_colours(record: logging.LogRecord) -> bool:
    record.msg, record.args = _COLOUR.sub("", record.getMessage()), ()
    return True
