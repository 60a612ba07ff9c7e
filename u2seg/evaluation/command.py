"""The work of ``u2seg evaluate``: its options, and what it prints.

Importing this loads nothing heavy: what is missing is said at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from u2seg.config.arguments import filled, new_parser
from u2seg.errors import UserError
from u2seg.io.packaged import config_path

if TYPE_CHECKING:
    from u2seg.config.evaluation import EvalSettings

_FOLDERS = {
    "predictions": "a result folder, as u2seg train leaves in OUTPUT_DIR/evaluation, or labels",
    "truth_pngs": "the folder of PNGs that --truth-json names",
    "labels": "the output folder of u2seg label",
}
_FILES = {
    "truth_json": "a COCO panoptic JSON",
    "config_file": "a YAML file",
    "mapping": "mapping.json of an earlier evaluation",
}
EXAMPLES = """\
examples:
  score the predictions of a training:
    u2seg evaluate --predictions runs/train/evaluation \\
        --truth-json datasets/coco/annotations/panoptic_val2017.json \\
        --truth-pngs datasets/coco/annotations/panoptic_val2017
  under four protocols in one table: the same command with --protocol all
  fit the mapping on half of the images, score the other half: with --fit-fraction 0.5
  with the mapping of another split, and the earlier results left as they are:
    ... --mapping runs/heldout/mapping.json --output runs/train/evaluation-heldout
"""
_EITHER = {"truth": "a file or folder of the format that --dataset names (datasets/README.md)"}


def evaluate_parser() -> argparse.ArgumentParser:
    """Return the parser of ``u2seg evaluate``."""
    parser = new_parser("Score a folder of predictions against truth: AP, AR, mIoU, PQ.", EXAMPLES)
    parser.add_argument(
        "--predictions", required=True, type=filled, metavar="DIR", help="result or label folder"
    )
    parser.add_argument(
        "--output",
        type=filled,
        metavar="DIR",
        help="folder for everything that is written (default: that of --predictions)",
    )
    parser.add_argument("--truth-json", type=filled, metavar="J", help="COCO panoptic JSON")
    parser.add_argument("--truth-pngs", type=filled, metavar="DIR", help="its PNG folder")
    parser.add_argument(
        "--dataset",
        default="coco-panoptic",
        metavar="FORMAT",
        help="format of --truth, see datasets/README.md (default: coco-panoptic)",
    )
    parser.add_argument(
        "--truth",
        nargs="+",
        type=filled,
        default=[],
        metavar="PATH",
        help="files and folders of that format",
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
        "--labels", type=filled, metavar="DIR", help="also score the label files of a labelling run"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that read files (default 1)"
    )
    parser.add_argument("--per-class", action="store_true", help="print a row per class")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    return parser


def parse_evaluate(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; exits as argparse does if it makes no sense."""
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


def check_paths(args: argparse.Namespace) -> None:
    """Refuse options that name what is not there, or a folder for a file.

    Raises:
        UserError: names the option and its value.
    """
    for name, expected in (_FOLDERS | _FILES | _EITHER).items():
        value = getattr(args, name) or []
        for path in map(config_path, [value] if isinstance(value, str) else value):
            if not path.exists():
                wrong = "does not exist"
            elif name in _FILES and not path.is_file():
                wrong = "is a folder"
            elif name in _FOLDERS and not path.is_dir():
                wrong = "is a file"
            else:
                continue
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} {path} {wrong}, expected {expected}")
    if args.output and Path(args.output).exists() and not Path(args.output).is_dir():
        raise UserError(f"--output {args.output} is a file, expected a folder for the results")


def evaluate_files(args: argparse.Namespace) -> str:
    """Score a folder, write the files there or to ``--output``, and return what to print.

    Raises:
        UserError: as ``check_paths``, ``load_settings`` and ``evaluate_folder``.
    """
    check_paths(args)
    from u2seg.evaluation.evaluate import evaluate_folder
    from u2seg.evaluation.protocols.rules import expand_names
    from u2seg.evaluation.report.table import (
        format_baselines,
        format_classes,
        format_metrics,
        format_protocols,
    )
    from u2seg.evaluation.truth.formats import scored_truth
    from u2seg.evaluation.truth.predictions import ResultFolders
    from u2seg.io.lock import LOCK, only_run

    settings = _settings(args)
    folder = Path(args.predictions)
    paths = args.truth or [args.truth_json, args.truth_pngs]
    output = Path(args.output or folder)
    _check_output(output, paths)
    with only_run(output / LOCK):
        metrics = evaluate_folder(
            ResultFolders(folder, output),
            scored_truth(args.dataset, paths, settings, folder),
            settings,
            Path(args.mapping) if args.mapping else None,
            workers=args.workers,
            protocols=expand_names(args.protocol),
        )
    if "protocols" in metrics:
        text = format_protocols(metrics)
        if args.per_class:
            name = metrics["protocol"]["name"]
            text += f"\n\nclasses under {name}:\n{format_classes(metrics)}"
    else:
        text = format_metrics(metrics, per_class=args.per_class)
    if "baselines" in metrics:
        text += f"\n\n{format_baselines(metrics)}"
    return text


def _check_output(output: Path, truth: Sequence[str]) -> None:
    """Raise UserError if the results would lie among photographs, labels or ground truth."""
    from u2seg.config.schema import ImageSettings
    from u2seg.io.ownership import TRUTH, check_beside_no_photograph, check_no_labels, check_outside

    check_no_labels(output)
    check_beside_no_photograph(output, ImageSettings().extensions)
    for path in map(Path, truth):
        if path.is_dir():
            check_outside(output, path, TRUTH)


def _settings(args: argparse.Namespace) -> EvalSettings:
    """Return the settings of the file and the keys, with the options above them.

    The options are made keys before any key is checked: what one key may be can depend on another.
    """
    from u2seg.compat import host_keys
    from u2seg.config.load import load_settings
    from u2seg.evaluation.protocols.rules import expand_names

    names = expand_names(args.protocol, check=False)  # a plug-in may bring them
    given = {
        "PROTOCOL": names[0] if names else None,
        "FIT_SHARE": args.fit_fraction,
        "BASELINES": args.baselines or None,
        "LABELS": args.labels,
        "CLASSES": args.classes or None,
    }
    words = [
        word
        for key, value in given.items()
        if value is not None
        for word in (f"U2SEG.EVAL.{key}", json.dumps(value))
    ]
    return load_settings(args.config_file, [*args.opts, *words], host_keys()).eval
