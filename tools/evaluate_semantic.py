#!/usr/bin/env python3
"""Score stuff maps against true label maps: mIoU and pixel accuracy after matching.

python tools/evaluate_semantic.py --predictions DIR [DIR ...] --truth DIR --classes JSON
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

EXAMPLES = """\
examples:
  tools/evaluate_semantic.py --predictions runs/val/semantics \\
      --truth camvid/val/labels --classes camvid/classes.json --controls
  ... --predictions runs/val_0/semantics runs/val_1/semantics runs/val_2/semantics
                              three seeds of one method: each, their mean and their spread

classes.json: {"classes": [{"id": 0, "name": "Sky"}, ...], "ignore_index": 11}
"""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else "",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--predictions", required=True, nargs="+", metavar="DIR", help="cluster maps, 8-bit PNG"
    )
    parser.add_argument("--truth", required=True, metavar="DIR", help="class maps, 8-bit PNG")
    parser.add_argument("--classes", required=True, metavar="JSON", help="names of the classes")
    parser.add_argument(
        "--matching", choices=("hungarian", "majority", "identity"), default="hungarian"
    )
    parser.add_argument("--controls", action="store_true", help="score random and single maps too")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Evaluate and print a table; return the exit code."""
    args = parse_args(argv)
    from u2seg.cli import run_tool, setup_logging
    from u2seg.evaluation.label_maps import evaluate_maps
    from u2seg.io.atomic import write_json

    def body() -> int:
        scores, table = evaluate_maps(
            args.predictions, args.truth, args.classes, args.matching, args.controls
        )
        print(table)
        if args.json:
            write_json(args.json, scores, indent=1)
        return 0

    setup_logging(args.debug)
    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
