#!/usr/bin/env python3
"""Score class-agnostic masks against COCO instances, beside two baselines.

python tools/evaluate_masks.py --results RUN --truth JSON [--images DIR --baselines] [--clusters]
python tools/evaluate_masks.py --results instances.json --truth instances_val2017.json

The masks need no labels beyond the stage `masks` (u2seg label --stages masks). AR is
by pycocotools: at 1, 10 and 100 masks per image, and at 100 by true area (32^2 and 96^2 pixels).
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from u2seg.cli import execute
from u2seg.config.arguments import new_parser
from u2seg.errors import UserError


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(__doc__ or "", "")
    p.add_argument(
        "--results",
        required=True,
        metavar="PATH",
        help="COCO results JSON, COCO instances JSON, or the folder of a labelling run",
    )
    p.add_argument("--truth", required=True, metavar="JSON", help="COCO instances JSON")
    p.add_argument("--images", metavar="DIR", help="photographs, for --baselines")
    p.add_argument(
        "--baselines", action="store_true", help="score a centred box and superpixels too"
    )
    p.add_argument("--clusters", action="store_true", help="score the clusters of the masks too")
    p.add_argument("--json", metavar="FILE", help="also write the numbers here")
    return p


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table; return the exit code."""
    from pathlib import Path

    from u2seg.evaluation.label_quality import (
        format_cluster_scores,
        format_mask_metrics,
        score_clusters,
        score_masks,
    )
    from u2seg.io.atomic import write_json

    if args.baselines and not args.images:
        raise UserError("--baselines needs --images")
    images = Path(args.images) if args.baselines else None
    scores = score_masks(Path(args.results), Path(args.truth), images)
    print(format_mask_metrics(scores))
    if args.clusters:
        scores["clusters"] = score_clusters(Path(args.results), Path(args.truth))
        print("\n" + format_cluster_scores(scores["clusters"]))
    if args.json:
        write_json(args.json, scores, indent=1)
    return 0


main = partial(execute, parser(), run)


if __name__ == "__main__":
    sys.exit(main())
