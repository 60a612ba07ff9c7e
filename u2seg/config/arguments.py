"""What all command lines share; importing this loads nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path


def new_parser(description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every command: ``--offline`` and ``--debug``.

    Examples:
        >>> args = new_parser("Do it.", "examples: ...").parse_args(["--offline"])
        >>> args.offline, args.debug
        (True, False)
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("of every command")
    group.add_argument("--offline", action="store_true", help="ask nothing of the network")
    group.add_argument(
        "--debug", action="store_true", help="show tracebacks of errors and debug messages"
    )
    return parser


def folder(text: str) -> Path:
    """Return a folder given on a command line; argparse refuses an empty one.

    ``--output-dir "$OUT"`` with ``OUT`` unset must not mean the working directory.
    """
    return Path(filled(text))


def filled(text: str) -> str:
    """Return the name of a file or pattern as it is given; argparse refuses an empty one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text
