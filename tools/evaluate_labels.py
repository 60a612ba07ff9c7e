#!/usr/bin/env python3
"""Score the panoptic labels of a labelling run against truth, without classes: PQ of segments.

python tools/evaluate_labels.py --labels RUN --truth-json JSON --truth-pngs DIR [--json FILE]
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
    p.add_argument("--labels", required=True, metavar="RUN", help="output of a labelling run")
    p.add_argument("--truth-json", required=True, metavar="J", help="COCO panoptic JSON")
    p.add_argument("--truth-pngs", required=True, metavar="DIR", help="its PNG folder")
    p.add_argument("--json", metavar="FILE", help="also write the numbers here")
    return p


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table; return the exit code."""
    from pathlib import Path

    from u2seg.evaluation import GroundTruth
    from u2seg.evaluation.label_quality import format_label_scores, score_labels
    from u2seg.io.atomic import write_json

    truth = GroundTruth(Path(args.truth_json), Path(args.truth_pngs))
    scores = score_labels(Path(args.labels), truth)
    print(format_label_scores(scores))
    if args.json:
        write_json(args.json, scores, indent=1)
    return 0


main = partial(execute, parser(), run)


if __name__ == "__main__":
    sys.exit(main())
