#!/usr/bin/env python
"""Write a dozen real photographs out of installed packages: nothing is downloaded."""

from __future__ import annotations

import argparse
import sys

from u2seg.cli import run_tool
from u2seg.config.arguments import folder

EXAMPLES = """\
example:
  datasets/make_photos.py --output runs/photos

The photographs ship with scikit-image (astronaut, camera, cat, coffee, coins, hubble, motorcycle,
retina, rocket), scikit-learn (china, flower) and matplotlib (grace_hopper); their licences are in
those packages.
"""


def main(argv: list[str] | None = None) -> int:
    """Write the photographs; see --help."""
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=formatter)
    p.add_argument("--output", required=True, type=folder, metavar="DIR", help="folder to write to")
    args = p.parse_args(argv)

    def body() -> int:
        from u2seg.scenes.photos import write_photos

        names = write_photos(args.output)
        print(f"{len(names)} photographs in {args.output}")
        return 0

    return run_tool(body)


if __name__ == "__main__":
    sys.exit(main())
