#!/usr/bin/env python
"""Everything: label photographs, train a model on the labels, evaluate, predict, report."""

from __future__ import annotations

import argparse
import sys

from u2seg.cli import folder, run_tool, setup_logging

EXAMPLES = """\
examples:
  tools/run_pipeline.py --config-file configs/quickstart/quickstart.yaml \\
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
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=formatter)
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
    p.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    p.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings to change")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run everything; see --help."""
    args = parser().parse_intermixed_args(argv)
    setup_logging(args.debug)

    def body() -> int:
        from u2seg.workflow import run_everything

        print(run_everything(args))
        return 0

    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main())
