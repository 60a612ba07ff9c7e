"""``u2seg label``: photographs to pseudo-labels."""

from __future__ import annotations

import argparse

from u2seg.config.arguments import folder, new_parser

ABOUT = "Label a folder of photographs without any annotation: masks, clusters, stuff, panoptic."
EXAMPLES = """\
examples:
  u2seg label --config-file u2seg/quickstart \\
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
    p = new_parser(ABOUT, EXAMPLES)
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
    p.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings to change")
    return p


def run(args: argparse.Namespace) -> int:
    """Run the label stages; return the exit code."""
    from u2seg.workflows.run import label_folder

    print(label_folder(args))
    return 0
