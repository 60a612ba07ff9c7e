#!/usr/bin/env python
"""Train a panoptic model on pseudo-labels, or evaluate one (``--eval-only``)."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 done, 1 failed half-way, 2 usage or settings."""
    from u2seg.cli import run_tool, setup_logging
    from u2seg.engine.args import train_parser

    args = train_parser().parse_intermixed_args(argv)
    if args.skip_heads:
        args.opts += ["U2SEG.TRAIN.SKIP_HEADS", "True"]
    setup_logging(args.debug)

    def body() -> int:
        from u2seg.engine.run import launch_run

        return launch_run(args)

    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main())
