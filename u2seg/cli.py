"""Exit codes and messages of every tool, in one place.

0 done, 1 a stage failed, 2 usage or settings, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from u2seg.errors import StageError, UserError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def folder(text: str) -> Path:
    """Return a folder given on a command line; argparse refuses an empty one.

    ``--output-dir "$OUT"`` with ``OUT`` unset must not mean the working directory.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the folder name is empty")
    return Path(text)


def run_tool(main_body: Callable[[], int], debug: bool = False) -> int:
    """Run the body of a tool and return its exit code; errors become one line on stderr.

    Args:
        main_body: Does the work and returns the exit code.
        debug: Show the traceback of the expected errors too.

    Returns:
        What ``main_body`` returned; 2 after ``UserError``, 1 after ``StageError``, 130 after
        Ctrl-C.

    Raises:
        Exception: anything else passes through: it is a defect, and its traceback is wanted.

    Examples:
        >>> run_tool(lambda: 0)
        0
    """
    try:
        return main_body()
    except UserError as error:
        return _report(error, EXIT_USAGE, debug)
    except StageError as error:
        return _report(error, EXIT_FAILED, debug)
    except KeyboardInterrupt as error:
        return _report(error, EXIT_INTERRUPTED, debug)


def setup_logging(debug: bool = False) -> None:
    """Send the log of this package to stderr: INFO, or DEBUG; harmless if done twice."""
    logger = logging.getLogger("u2seg")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is when a message comes, not when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _report(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    interrupted = "interrupted; the same command goes on (tools/train_net.py: with --resume)"
    message = interrupted if isinstance(error, KeyboardInterrupt) else f"error: {error}"
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    return code
