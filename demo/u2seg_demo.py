#!/usr/bin/env python
"""Segment photographs with a trained model: pictures, COCO JSON, panoptic PNGs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 done, 1 failed half-way, 2 usage or settings."""
    from u2seg.cli import run_tool, setup_logging
    from u2seg.engine.args import demo_parser

    args = demo_parser().parse_args(argv)
    setup_logging(args.debug)

    def body() -> int:
        from u2seg.engine.demo import run_demo

        return run_demo(args)

    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main())
