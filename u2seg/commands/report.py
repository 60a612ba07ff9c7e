"""``u2seg report``: the report of a run, made anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from u2seg.config.arguments import folder, new_parser
from u2seg.errors import UserError

EXAMPLES = """\
examples:
  u2seg report runs/mine                                   of u2seg run, label or train
  u2seg report runs/labels --train runs/train --output runs/report.html

A page of its own: no server, no network, no script. Exit codes: 0 done, 2 nothing to report.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser("Write the report of a run anew, from the files that it left.", EXAMPLES)
    p.add_argument("folder", type=folder, metavar="DIR", help="output folder of the run")
    p.add_argument("--labels", type=folder, metavar="DIR", help="labels (DIR or DIR/labels)")
    p.add_argument("--train", type=folder, metavar="DIR", help="training (DIR or DIR/train)")
    p.add_argument(
        "--predictions", type=folder, metavar="DIR",
        help="results of an evaluation (DIR or the evaluation folder of the training)",
    )  # fmt: skip
    p.add_argument("--output", type=folder, metavar="FILE", help="the page (DIR/report.html)")
    return p


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path; return the exit code."""
    from u2seg.visualization.report import write_report
    from u2seg.workflows.folders import Folders

    root: Path = args.folder
    whole = Folders(root)
    labels = args.labels or _first("images.json", root, whole.labels)
    train = args.train or _first("config.yaml", root, whole.train)
    inside = [
        root,
        root / "evaluation",
        whole.evaluation,
        *([train / "evaluation"] if train else []),
    ]
    predictions = args.predictions or _first("labelspace.json", *inside)
    if not (labels or train or predictions):
        raise UserError(f"{root} holds no labels, training or evaluation to report on")
    rounds = whole.summary if whole.summary.is_file() else None
    print(
        write_report(
            args.output or root / "report.html",
            labels=labels,
            train=train,
            predictions=predictions,
            title=f"u2seg: {root.resolve().name}",
            rounds=rounds,
        )
    )
    return 0


def _first(mark: str, *folders: Path) -> Path | None:
    """Return the first folder that holds a file of that name."""
    return next((folder for folder in folders if (folder / mark).is_file()), None)
