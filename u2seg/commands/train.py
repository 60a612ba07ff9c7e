"""``u2seg train``: a model from labels, or its evaluation."""

from __future__ import annotations

import argparse

from u2seg.host.arguments import train_parser as parser

__all__ = ["parser", "run"]


def run(args: argparse.Namespace) -> int:
    """Train or evaluate; return the exit code."""
    from u2seg.engine.run import launch_run

    if args.skip_heads:
        args.opts += ["U2SEG.TRAIN.SKIP_HEADS", "True"]
    return launch_run(args)
