#!/usr/bin/env python3
"""Make a small data set with exact panoptic truth: composed, textured scenes, no download.

    python datasets/make_scenes.py --output datasets/scenes

The same seed gives the same bytes. See datasets/README.md for the layout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=int, default=200, help="scenes to train on (200)")
    parser.add_argument("--val", type=int, default=50, help="scenes to evaluate on (50)")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (128)")
    parser.add_argument("--seed", type=int, default=0, help="decides every scene (0)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Write the scenes; return the exit code."""
    args = parse_args(argv)
    from pathlib import Path

    from u2seg.cli import run_tool
    from u2seg.scenes import SceneSettings, write_scenes

    def body() -> int:
        settings = SceneSettings(args.train, args.val, args.size, args.seed)
        counts = write_scenes(Path(args.output), settings)
        print(", ".join(f"{count} {name}" for name, count in counts.items()), "->", args.output)
        return 0

    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
