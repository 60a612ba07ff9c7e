"""The command ``u2seg``: exit codes and messages of all commands.

0 done, 1 a stage failed, 2 usage or settings, 130 interrupted, 141 nobody reads the output.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from u2seg.commands import COMMANDS
from u2seg.config.env import go_offline
from u2seg.errors import StageError, UserError
from u2seg.io.paths import expand_option
from u2seg.version import __version__

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141  # as a shell says of what SIGPIPE ended
Body = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``u2seg COMMAND ...``; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:<{width}}{found.about}" for name, found in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="u2seg",
        description="Unsupervised universal image segmentation.",
        epilog=f"commands:\n{rows}\n\nEach has its own help: u2seg label --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"u2seg {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="see below")
    return command(parser.parse_args(words[:1]).command, words[1:])


def command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run a command of ``COMMANDS``; return the exit code."""
    found = COMMANDS[name]
    parser = found.parser()
    parser.prog = f"u2seg {name}"
    return execute(parser, found.run, argv, found.parse, found.extras)


def execute(
    parser: argparse.ArgumentParser,
    run: Body,
    argv: Sequence[str] | None = None,
    parse: Callable[[argparse.ArgumentParser, Sequence[str]], argparse.Namespace] | None = None,
    extras: str = "labels,train",
) -> int:
    """Read a command line, set up the log, and run; return the exit code."""
    words = [expand_option(word) for word in (sys.argv[1:] if argv is None else argv)]
    args = parse(parser, words) if parse else parser.parse_intermixed_args(words)
    setup_logging(args.debug)
    if args.offline:
        go_offline()
    return run_tool(lambda: run(args), args.debug, extras)


def run_tool(
    main_body: Callable[[], int], debug: bool = False, extras: str = "labels,train"
) -> int:
    """Run the body of a tool and return its exit code; errors become one line on stderr.

    Returns:
        What ``main_body`` returned; 2 after ``UserError`` or if a library of an extra is
        missing, 1 after ``StageError``, 130 after Ctrl-C, 141 if stdout was closed (``| head``).

    Examples:
        >>> run_tool(lambda: 0)
        0
    """
    try:
        code = main_body()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _unread():
            raise
        return EXIT_UNREAD
    except UserError as error:
        return _report(f"error: {error}", EXIT_USAGE, debug)
    except StageError as error:
        return _report(f"error: {error}", EXIT_FAILED, debug)
    except ModuleNotFoundError as error:
        from u2seg.doctor import advice_if_missing

        advice = advice_if_missing(error.name or "", extras)
        if not advice:
            raise
        return _report(f"error: {advice}", EXIT_USAGE, debug)
    except KeyboardInterrupt as error:
        told = "interrupted; the same command goes on (u2seg train: with --resume)"
        return _report(str(error) or told, EXIT_INTERRUPTED, debug)


def setup_logging(debug: bool = False) -> None:
    """Send the log of this package to stderr: INFO, or DEBUG; harmless if done twice."""
    logger = logging.getLogger("u2seg")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)


def _unread() -> bool:
    """Return whether stdout leads nowhere any more; what is left for it is then dropped."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is when a message comes, not when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _report(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    return code
