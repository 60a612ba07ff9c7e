#!/usr/bin/env python3
"""Score a folder of predictions against truth: AP, AR, mIoU, PQ.

python tools/evaluate.py --predictions DIR --truth-json JSON --truth-pngs DIR [KEY VALUE ...]
python tools/evaluate.py --predictions DIR --dataset FORMAT --truth PATH ... --classes SET
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Evaluate, print the tables, write metrics.json; return the exit code."""
    from u2seg.cli import run_tool, setup_logging
    from u2seg.evaluation.command import evaluate_files, evaluate_parser, parse_evaluate

    args = parse_evaluate(evaluate_parser(__doc__ or ""), argv)

    def body() -> int:
        print(evaluate_files(args))
        return 0

    setup_logging(args.debug)
    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
