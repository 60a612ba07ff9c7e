#!/usr/bin/env python
"""Label a folder of photographs without any annotation: masks, clusters, stuff, panoptic."""

from __future__ import annotations

import argparse
import sys

from u2seg.cli import folder, run_tool, setup_logging

EXAMPLES = """\
examples:
  tools/generate_pseudo.py --config-file configs/quickstart/quickstart.yaml \\
      --images photos --output-dir runs/labels
  ... --dry-run 8                      what will all of it cost?
  ... --stages masks                   one stage; the others later
  ... --workers 8                      processes on this machine; also ray, slurm: docs/scale.md
  ... --status                         how far is it?
  ... U2SEG.CLUSTERS.NUM_CLUSTERS 800  any setting

The same command again resumes where the last run ended. Exit codes: 0 done, 1 failed, 2 usage.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=formatter)
    p.add_argument("--config-file", metavar="YAML", help="settings (U2SEG node)")
    p.add_argument("--images", type=folder, metavar="PATH", help="folder, list file or .tar shards")
    p.add_argument("--output-dir", required=True, type=folder, metavar="DIR", help="labels")
    p.add_argument(
        "--stages", default="masks,clusters,semantics,panoptic", help="comma-separated (all)"
    )
    p.add_argument("--resume", action="store_true", help="the default; kept for clarity")
    p.add_argument("--retry-failed", action="store_true", help="what failed or was set aside")
    p.add_argument("--status", action="store_true", help="say how far the run is, and end")
    p.add_argument("--overwrite", action="store_true", help="make these and later stages anew")
    p.add_argument(
        "--executor", default="local", metavar="NAME", help="local, ray or slurm (local)"
    )
    p.add_argument("--workers", type=int, default=1, metavar="N", help="processes (1)")
    p.add_argument(
        "--executor-options", action="append", default=[], metavar="KEY=VALUE",
        help="address=..., cpus=, gpus= for ray; submitit's parameters for slurm",
    )  # fmt: skip
    p.add_argument("--dry-run", type=int, default=0, metavar="N", help="N images, then estimate")
    p.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    p.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings to change")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the label stages; see --help."""
    args = parser().parse_intermixed_args(argv)
    setup_logging(args.debug)

    def body() -> int:
        from u2seg.workflow import label_folder

        print(label_folder(args))
        return 0

    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main())
