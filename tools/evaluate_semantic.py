#!/usr/bin/env python3
"""Score stuff maps against true label maps: mIoU and pixel accuracy after matching.

python tools/evaluate_semantic.py --predictions DIR [DIR ...] --truth DIR --classes JSON
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from u2seg.cli import execute
from u2seg.config.arguments import new_parser

EXAMPLES = """\
examples:
  tools/evaluate_semantic.py --predictions runs/val/semantics \\
      --truth camvid/val/labels --classes camvid/classes.json --controls
  ... --predictions runs/val_0/semantics runs/val_1/semantics runs/val_2/semantics
                              three seeds of one method: each, their mean and their spread

classes.json: {"classes": [{"id": 0, "name": "Sky"}, ...], "ignore_index": 11}
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(__doc__ or "", EXAMPLES)
    p.add_argument(
        "--predictions", required=True, nargs="+", metavar="DIR", help="cluster maps, 8-bit PNG"
    )
    p.add_argument("--truth", required=True, metavar="DIR", help="class maps, 8-bit PNG")
    p.add_argument("--classes", required=True, metavar="JSON", help="names of the classes")
    p.add_argument("--matching", choices=("hungarian", "majority", "identity"), default="hungarian")
    p.add_argument("--controls", action="store_true", help="score random and single maps too")
    p.add_argument("--json", metavar="FILE", help="also write the numbers here")
    return p


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table; return the exit code."""
    from u2seg.evaluation.label_maps import evaluate_maps
    from u2seg.io.atomic import write_json

    scores, table = evaluate_maps(
        args.predictions, args.truth, args.classes, args.matching, args.controls
    )
    print(table)
    if args.json:
        write_json(args.json, scores, indent=1)
    return 0


main = partial(execute, parser(), run)


if __name__ == "__main__":
    sys.exit(main())
