#!/usr/bin/env python3
"""Make a small data set with exact panoptic truth: composed, textured scenes, no download.

    python datasets/make_scenes.py --output datasets/scenes

The same seed gives the same bytes. See datasets/README.md for the layout.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from u2seg.cli import execute
from u2seg.config.arguments import new_parser


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(__doc__ or "", "")
    p.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    p.add_argument("--train", type=int, default=200, help="scenes to train on (200)")
    p.add_argument("--val", type=int, default=50, help="scenes to evaluate on (50)")
    p.add_argument("--size", type=int, default=128, help="side in pixels (128)")
    p.add_argument("--seed", type=int, default=0, help="decides every scene (0)")
    return p


def run(args: argparse.Namespace) -> int:
    """Write the scenes; return the exit code."""
    from pathlib import Path

    from scenes import SceneSettings, write_scenes

    settings = SceneSettings(args.train, args.val, args.size, args.seed)
    counts = write_scenes(Path(args.output), settings)
    print(", ".join(f"{count} {name}" for name, count in counts.items()), "->", args.output)
    return 0


main = partial(execute, parser(), run)


if __name__ == "__main__":
    sys.exit(main())
