"""``u2seg run``: everything, from photographs to the report."""

from __future__ import annotations

import argparse

from u2seg.config.arguments import folder, new_parser

ABOUT = "Everything: label photographs, train a model on the labels, evaluate, predict, report."
EXAMPLES = """\
examples:
  u2seg run --config-file u2seg/quickstart \\
      --images photos --output-dir runs/mine
  ... --truth datasets/coco     evaluate on a COCO-panoptic data set instead of the pseudo-labels
  ... --baseline                evaluate the untrained model too
  ... --rounds 2                self-training: twice, the model relabels the photographs and is
                                trained on its labels (U2SEG.ROUNDS)
  ... SOLVER.MAX_ITER 2000      any setting

The same command again resumes. Exit codes: 0 done, 1 failed, 2 usage.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(ABOUT, EXAMPLES)
    p.add_argument("--config-file", required=True, metavar="YAML", help="settings of both halves")
    p.add_argument(
        "--images", required=True, type=folder, metavar="PATH", help="folder, list or .tar shards"
    )
    p.add_argument("--output-dir", required=True, type=folder, metavar="DIR", help="results")
    p.add_argument("--truth", type=folder, metavar="DIR", help="data set with truth to evaluate on")
    p.add_argument("--baseline", action="store_true", help="evaluate the untrained model too")
    p.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="rounds of self-training (default 0)"
    )
    p.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings to change")
    return p


def run(args: argparse.Namespace) -> int:
    """Run everything; return the exit code."""
    from u2seg.workflows.run import run_everything

    print(run_everything(args))
    return 0
