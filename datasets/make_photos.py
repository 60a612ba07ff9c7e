#!/usr/bin/env python
"""Write a dozen real photographs out of installed packages: nothing is downloaded."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from u2seg.cli import execute
from u2seg.config.arguments import folder, new_parser

EXAMPLES = """\
example:
  datasets/make_photos.py --output runs/photos

The photographs ship with scikit-image (astronaut, camera, cat, coffee, coins, hubble, motorcycle,
retina, rocket), scikit-learn (china, flower) and matplotlib (grace_hopper); their licences are in
those packages.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(__doc__ or "", EXAMPLES)
    p.add_argument("--output", required=True, type=folder, metavar="DIR", help="folder to write to")
    return p


def run(args: argparse.Namespace) -> int:
    """Write the photographs; return the exit code."""
    from scenes.photos import write_photos

    names = write_photos(args.output)
    print(f"{len(names)} photographs in {args.output}")
    return 0


main = partial(execute, parser(), run)

if __name__ == "__main__":
    sys.exit(main())
