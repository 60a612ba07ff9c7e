#!/usr/bin/env python3
"""Score the panoptic labels of a labelling run against truth, without classes: PQ of segments.

python tools/evaluate_labels.py --labels RUN --truth-json JSON --truth-pngs DIR [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--labels", required=True, metavar="RUN", help="output of a labelling run")
    parser.add_argument("--truth-json", required=True, metavar="J", help="COCO panoptic JSON")
    parser.add_argument("--truth-pngs", required=True, metavar="DIR", help="its PNG folder")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Evaluate and print a table; return the exit code."""
    args = parse_args(argv)
    from pathlib import Path

    from u2seg.cli import run_tool, setup_logging
    from u2seg.evaluation import GroundTruth
    from u2seg.evaluation.label_scores import format_label_scores, score_labels
    from u2seg.io.atomic import write_json

    def body() -> int:
        truth = GroundTruth(Path(args.truth_json), Path(args.truth_pngs))
        scores = score_labels(Path(args.labels), truth)
        print(format_label_scores(scores))
        if args.json:
            write_json(args.json, scores, indent=1)
        return 0

    setup_logging(args.debug)
    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
