"""``u2seg predict``: photographs through a trained model."""

from __future__ import annotations

import argparse

from u2seg.host.arguments import demo_parser as parser

__all__ = ["parser", "run"]


def run(args: argparse.Namespace) -> int:
    """Segment the photographs; return the exit code."""
    from u2seg.inference.demo import run_demo

    args.opts = [*args.opts, *args.settings]
    return run_demo(args)
