#!/usr/bin/env python3
"""Score class-agnostic masks against COCO instances, beside two baselines.

python tools/evaluate_masks.py --results RUN --truth JSON [--images DIR --baselines] [--clusters]
python tools/evaluate_masks.py --results instances.json --truth instances_val2017.json

The masks need no labels beyond the stage `masks` (tools/generate_pseudo.py --stages masks). AR is
by pycocotools: at 1, 10 and 100 masks per image, and at 100 by true area (32^2 and 96^2 pixels).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--results",
        required=True,
        metavar="PATH",
        help="COCO results JSON, COCO instances JSON, or the folder of a labelling run",
    )
    parser.add_argument("--truth", required=True, metavar="JSON", help="COCO instances JSON")
    parser.add_argument("--images", metavar="DIR", help="photographs, for --baselines")
    parser.add_argument(
        "--baselines", action="store_true", help="score a centred box and superpixels too"
    )
    parser.add_argument(
        "--clusters", action="store_true", help="score the clusters of the masks too"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    args = parser.parse_args(argv)
    if args.baselines and not args.images:
        parser.error("--baselines needs --images")
    return args


def main(argv: Sequence[str]) -> int:
    """Evaluate and print a table; return the exit code."""
    args = parse_args(argv)
    from pathlib import Path

    from u2seg.cli import run_tool, setup_logging
    from u2seg.evaluation.clustering import format_cluster_scores, score_clusters
    from u2seg.evaluation.mask_scores import format_mask_metrics, score_masks
    from u2seg.io.atomic import write_json

    def body() -> int:
        images = Path(args.images) if args.baselines else None
        scores = score_masks(Path(args.results), Path(args.truth), images)
        print(format_mask_metrics(scores))
        if args.clusters:
            scores["clusters"] = score_clusters(Path(args.results), Path(args.truth))
            print("\n" + format_cluster_scores(scores["clusters"]))
        if args.json:
            write_json(args.json, scores, indent=1)
        return 0

    setup_logging(args.debug)
    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
