"""Measure speed and memory beside peers, in one run; exit code 1 if a target is missed.

python -m benchmarks masks [--json FILE] [--repeats 5] [--rows cut,crf]
python -m benchmarks busy --rows train_loop,train_torch,train_quiet
python -m benchmarks clusters --json clusters.json
python -m benchmarks evaluate [--truth-json J --truth-pngs DIR --predictions DIR]
"""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial

from u2seg.cli import execute
from u2seg.config.arguments import new_parser

SUITES = ("masks", "clusters", "merge", "ledger", "train", "evaluate", "busy")
"""Modules of ``benchmarks`` with a table ``ROWS``."""
FILES = {"evaluate": ("truth_json", "truth_pngs", "predictions"), "train": ("labels",)}
"""Real files that a suite can be measured on."""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(__doc__ or "", "")
    p.add_argument("suite", choices=SUITES, help="what to measure")
    p.add_argument("--json", metavar="FILE", help="also write the rows here")
    p.add_argument("--repeats", type=int, default=5, metavar="N", help="timed calls a side")
    p.add_argument(
        "--rows", default="", metavar="A,B", help="only these (an unknown name lists them)"
    )
    p.add_argument("--truth-json", metavar="J", help="evaluate: real files, all three")
    p.add_argument("--truth-pngs", metavar="DIR", help="PNG folder of the truth")
    p.add_argument("--predictions", metavar="DIR", help="result folder, the truth's classes")
    p.add_argument("--labels", metavar="DIR", help="train: a label folder, else scenes")
    return p


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON; return the exit code."""
    from benchmarks import rows as table
    from benchmarks.masks import run as measure
    from u2seg.errors import UserError
    from u2seg.io.atomic import write_json

    names = [name.strip() for name in args.rows.split(",") if name.strip()]
    suite = importlib.import_module(f"benchmarks.{args.suite}")
    known = [key for keys in FILES.values() for key in keys]
    files = {key: value for key in known if (value := getattr(args, key)) is not None}
    if not files.keys() <= set(FILES.get(args.suite, ())):
        raise UserError(f"the suite {args.suite} does not take {', '.join(sorted(files))}")
    there = suite.table(**files) if files else suite.ROWS
    machine, rows = measure(names, args.repeats, table=there)
    print(table.format_table(machine, rows))
    if args.json:
        write_json(args.json, table.to_json(machine, rows), indent=1)
    return table.exit_code(rows)


main = partial(execute, parser(), run)


if __name__ == "__main__":
    sys.exit(main())
