#!/usr/bin/env python
"""Take shares of a labelled data set (COCO) and write them as label folders to train on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

EXAMPLES = """\
examples:
  tools/make_lowshot.py --truth-root datasets/coco --percent 1 2 5 10 --output runs/lowshot
  tools/train_net.py --config-file configs/lowshot/coco_1.yaml --num-gpus 8 \\
      U2SEG.DATA.LABELS runs/lowshot/1

A share holds every smaller one of the same seed. Exit codes: 0 done, 2 data or usage.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=formatter)
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
    p.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Write the shares; return the exit code."""
    args = parser().parse_args(argv)
    from pathlib import Path

    from u2seg.cli import run_tool, setup_logging
    from u2seg.data.lowshot import LabelledSet
    from u2seg.engine.lowshot import make_splits

    setup_logging(args.debug)

    def body() -> int:
        root = Path(args.truth_root)
        names = (args.images, args.panoptic_json, args.panoptic_pngs, args.instances_json)
        source = LabelledSet(*(root / name for name in names))
        print("\n".join(make_splits(source, args.percent, args.seed, args.output)))
        return 0

    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main())
