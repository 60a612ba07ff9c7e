"""``u2seg evaluate``: predictions against truth."""

from __future__ import annotations

import argparse

from u2seg.evaluation.command import evaluate_files
from u2seg.evaluation.command import evaluate_parser as parser
from u2seg.evaluation.command import parse_evaluate as parse

__all__ = ["parse", "parser", "run"]


def run(args: argparse.Namespace) -> int:
    """Score the folder and print the tables; return the exit code."""
    print(evaluate_files(args))
    return 0
