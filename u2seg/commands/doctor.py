"""``u2seg doctor``: what is installed, what works, and what to run for the rest."""

from __future__ import annotations

import argparse

from u2seg.compat.install import add_options
from u2seg.config.arguments import new_parser

EXAMPLES = """\
examples:
  u2seg doctor
  u2seg doctor --install-detectron2                 the first route that works
  u2seg doctor --install-detectron2 --route index   no compiler, no git
  u2seg doctor --install-detectron2 --sdist detectron2_cdo-0.5.tar.gz   no network

Exit codes: 0 the label stages can run (Detectron2 is there), 1 not, 2 usage.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser("Show what is installed, what works, and what to run for the rest.", EXAMPLES)
    add_options(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Print the findings, or install the host; return the exit code."""
    if args.install_detectron2:
        from u2seg.compat.install import install

        return install(args)
    from u2seg.doctor import main

    return main()
