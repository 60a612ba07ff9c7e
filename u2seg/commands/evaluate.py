"""``u2seg evaluate``: predictions against truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from u2seg.evaluation.command import evaluate_files
from u2seg.evaluation.command import evaluate_parser as parser
from u2seg.evaluation.command import parse_evaluate as parse

__all__ = ["parse", "parser", "run"]


def run(args: argparse.Namespace) -> int:
    """Score the folder and print the tables; return the exit code."""
    print(evaluate_files(args))
    from u2seg.visualization.report import report_line

    predictions = Path(args.predictions)
    results, training = Path(args.output or predictions), predictions.resolve().parent
    parts = {"predictions": predictions, "results": results}
    if (training / "config.yaml").is_file():  # it names the folder of the photographs
        parts["train"] = training
    print(report_line(results, f"Evaluation: {results.resolve().name}", **parts))
    return 0
