#!/usr/bin/env python
"""Take shares of a labelled data set (COCO) and write them as label folders to train on."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from u2seg.cli import execute
from u2seg.config.arguments import new_parser

EXAMPLES = """\
examples:
  tools/make_lowshot.py --truth-root datasets/coco --percent 1 2 5 10 --output runs/lowshot
  u2seg train --config-file u2seg/lowshot/coco_1 --num-gpus 8 \\
      U2SEG.DATA.LABELS runs/lowshot/1

A share holds every smaller one of the same seed. Exit codes: 0 done, 2 data or usage.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(__doc__ or "", EXAMPLES)
    p.add_argument("--truth-root", required=True, metavar="DIR", help="root of the data set")
    p.add_argument("--output", required=True, metavar="DIR", help="a label folder per share")
    p.add_argument(
        "--percent", type=float, nargs="+", default=[1, 2, 5, 10, 20, 30, 40, 50, 100],
        metavar="P", help="shares of the images (1 2 5 10 20 30 40 50 100)",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=42, help="of the choice (42)")
    p.add_argument("--images", default="train2017", metavar="DIR", help="photographs (train2017)")
    p.add_argument("--panoptic-json", default="annotations/panoptic_train2017.json", metavar="FILE")
    p.add_argument("--panoptic-pngs", default="annotations/panoptic_train2017", metavar="DIR")
    p.add_argument(
        "--instances-json", default="annotations/instances_train2017.json", metavar="FILE",
        help="like all names, relative to --truth-root; the defaults are COCO's",
    )  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    """Write the shares; return the exit code."""
    from pathlib import Path

    from u2seg.engine.lowshot import LabelledSet, make_splits

    root = Path(args.truth_root)
    names = (args.images, args.panoptic_json, args.panoptic_pngs, args.instances_json)
    source = LabelledSet(*(root / name for name in names))
    print("\n".join(make_splits(source, args.percent, args.seed, args.output)))
    return 0


main = partial(execute, parser(), run)


if __name__ == "__main__":
    sys.exit(main())
