#!/usr/bin/env python3
"""Score a folder of predictions against truth: AP, AR, mIoU, PQ.

python tools/evaluate.py --predictions DIR --truth-json JSON --truth-pngs DIR [KEY VALUE ...]
python tools/evaluate.py --predictions DIR --dataset FORMAT --truth PATH ... --classes SET
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--predictions", required=True, metavar="DIR", help="result folder")
    parser.add_argument("--truth-json", metavar="J", help="COCO panoptic JSON")
    parser.add_argument("--truth-pngs", metavar="DIR", help="its PNG folder")
    parser.add_argument(
        "--dataset",
        default="coco-panoptic",
        metavar="FORMAT",
        help="format of --truth, see datasets/README.md (default: coco-panoptic)",
    )
    parser.add_argument(
        "--truth", nargs="+", default=[], metavar="PATH", help="files and folders of that format"
    )
    parser.add_argument("--classes", metavar="SET", help="class set, e.g. coco-95")
    parser.add_argument("--config-file", metavar="YAML", help="settings (U2SEG.EVAL is read)")
    parser.add_argument(
        "--mapping", metavar="FILE", help="mapping.json of an earlier run instead of a new fit"
    )
    parser.add_argument(
        "--protocol",
        nargs="+",
        default=[],
        metavar="NAME",
        help="protocols to score in one pass, or all (default: U2SEG.EVAL.PROTOCOL)",
    )
    parser.add_argument(
        "--fit-fraction",
        type=float,
        metavar="F",
        help="fit the mapping on this share of the images and score the rest",
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also score the same segments with random clusters, and with one cluster",
    )
    parser.add_argument(
        "--labels", metavar="DIR", help="also score the label files of a labelling run"
    )
    parser.add_argument("--per-class", action="store_true", help="print a row per class")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    args = parser.parse_args(argv)
    # These take as many words as there are; those from the first key on are settings.
    for name in ("protocol", "truth"):
        words = getattr(args, name)
        keys = [i for i, word in enumerate(words) if word.startswith("U2SEG.")]
        if keys:
            setattr(args, name, words[: keys[0]])
            args.opts = [*words[keys[0] :], *args.opts]
    if bool(args.truth) == bool(args.truth_json) or bool(args.truth_json) != bool(args.truth_pngs):
        parser.error("give the truth as --truth PATH ..., or as --truth-json J --truth-pngs DIR")
    return args


def main(argv: Sequence[str]) -> int:
    """Evaluate, print the tables, write metrics.json; return the exit code."""
    args = parse_args(argv)
    from dataclasses import replace
    from pathlib import Path

    from u2seg.cli import run_tool, setup_logging
    from u2seg.config.load import load_settings
    from u2seg.evaluation import evaluate_folder, format_metrics
    from u2seg.evaluation.panoptic_baselines import format_baselines
    from u2seg.evaluation.protocol_table import format_protocols
    from u2seg.evaluation.protocols import expand_names
    from u2seg.evaluation.readers import scored_truth

    def body() -> int:
        settings = load_settings(args.config_file, args.opts).eval
        if args.fit_fraction is not None:
            settings = replace(settings, fit_share=args.fit_fraction)
        if args.baselines:
            settings = replace(settings, baselines=True)
        if args.labels:
            settings = replace(settings, labels=args.labels)
        if args.classes:
            settings = replace(settings, classes=args.classes)
        folder = Path(args.predictions)
        paths = args.truth or [args.truth_json, args.truth_pngs]
        truth = scored_truth(args.dataset, paths, settings, folder)
        mapping = Path(args.mapping) if args.mapping else None
        metrics = evaluate_folder(
            folder,
            truth,
            settings,
            mapping,
            protocols=expand_names(args.protocol),
        )
        if "protocols" in metrics:
            print(format_protocols(metrics))
        else:
            print(format_metrics(metrics, per_class=args.per_class))
        if "baselines" in metrics:
            print(f"\n{format_baselines(metrics)}")
        return 0

    setup_logging(args.debug)
    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
