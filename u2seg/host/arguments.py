"""Command-line parsers shared by the tools; importing this loads nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from u2seg.config.arguments import filled, folder, new_parser
from u2seg.config.words import is_key

TRAIN_EXAMPLES = """examples:
  train on the labels in runs/labels (made by u2seg label):
    u2seg train --config-file u2seg/COCO-PanopticSegmentation/u2seg_R50_800 \\
        --num-gpus 8 U2SEG.DATA.LABELS runs/labels OUTPUT_DIR runs/train
  the same on two machines, or in processes on a CPU: on each
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m u2seg train --config-file ... U2SEG.DATA.LABELS runs/labels OUTPUT_DIR runs/train
  go on after an interruption: the same command with --resume
  rehearse everything first: the same command with --dry-run
  how many images fit into memory: the same command with --find-batch-size
  evaluate a checkpoint:
    u2seg train --config-file u2seg/u2seg_eval_800 \\
        --eval-only MODEL.WEIGHTS model_final.pth U2SEG.DATA.EVAL_ROOT datasets/coco
"""
DEMO_EXAMPLES = """examples:
  u2seg predict --config-file u2seg/quickstart \\
      --weights runs/quickstart/train/model_final.pth --input photos 'more/*.jpg' --output shown
  with names of classes, from the mapping that an evaluation wrote:
    ... --mapping runs/quickstart/train/evaluation/mapping.json
  on the CPU, more segments:
    ... --confidence-threshold 0.3 MODEL.DEVICE cpu
"""
REFUSED = {
    "--eval-mode": "an evaluation fits the mapping and applies it, --mapping FILE applies the "
    "mapping.json of an earlier one",
    "--hungarian_matching": "--mapping FILE names clusters by the mapping.json of an evaluation",
    "--video-input": "make pictures of the video (ffmpeg does) and give their folder to --input",
    "--webcam": "give photographs to --input",
}
"""Options of the published commands -> what to do instead."""


class _Refused(argparse.Action):
    """An option of the published commands that is not here; ``const`` says what is instead."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"there is no {self.option_strings[0]} here: {self.const}")


class _Inputs(argparse.Action):
    """Takes photographs up to the first word that is a key and no file; the rest is settings."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
        values: str | Sequence[str] | None, option_string: str | None = None,
    ) -> None:  # fmt: skip
        words = list(values or ())
        keys = [i for i, word in enumerate(words) if is_key(word) and not Path(word).exists()]
        first = keys[0] if keys else len(words)
        if not first:
            parser.error(f"{option_string} names no photograph before {words[0]}")
        namespace.input = words[:first]
        namespace.opts = [*namespace.opts, *words[first:]]


def train_parser() -> argparse.ArgumentParser:
    """Return the parser of ``u2seg train``; use ``parse_intermixed_args``."""
    parser = new_parser("Train a panoptic model on pseudo-labels, or evaluate one.", TRAIN_EXAMPLES)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML settings")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="rehearse in OUTPUT_DIR/dry-run: two iterations, checkpoint, evaluation, report; "
        "tells what the training will cost",
    )
    instead.add_argument(
        "--find-batch-size",
        action="store_true",
        help="try real training steps: how many images fit, how fast, which settings follow",
    )
    parser.add_argument(
        "--memory-limit",
        type=float,
        default=0.0,
        metavar="GB",
        help="with --find-batch-size: memory of a process (default: 80 %% of what is free on a "
        "CPU, all of a GPU)",
    )
    instead.add_argument(
        "--replay",
        metavar="FILE",
        default="",
        help="losses, image by image, of a batch in OUTPUT_DIR/nonfinite",
    )
    parser.add_argument(
        "--skip-heads",
        action="store_true",
        help="start from a checkpoint of other class numbers: U2SEG.TRAIN.SKIP_HEADS True",
    )
    parser.add_argument(
        "--protocol",
        default="",
        metavar="NAMES",
        help="with --eval-only: protocols to score, with commas, or all "
        "(default: U2SEG.EVAL.PROTOCOL)",
    )
    parser.add_argument(
        "--mapping",
        default="",
        metavar="FILE",
        help="with --eval-only: mapping.json of an earlier evaluation instead of a new fit",
    )
    _refuse(parser, "--eval-mode")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs per machine (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine")
    parser.add_argument(
        "--dist-url", default="auto", help="address for several machines (default: a free port)"
    )
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="settings that win over the file"
    )
    return parser


def demo_parser() -> argparse.ArgumentParser:
    """Return the parser of ``u2seg predict``."""
    parser = new_parser("Segment photographs with a trained model.", DEMO_EXAMPLES)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML settings")
    parser.add_argument(
        "--input",
        nargs="+",
        type=filled,
        action=_Inputs,
        required=True,
        metavar="PATH",
        help="files, folders, globs or .tar shards",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=folder,
        metavar="PATH",
        help="result folder; for a single photograph also a picture to write, such as out.jpg",
    )
    _refuse(parser, "--video-input", "--webcam", "--hungarian_matching")
    parser.add_argument(
        "--weights", default="", metavar="FILE", help="checkpoint (default: MODEL.WEIGHTS)"
    )
    parser.add_argument(
        "--mapping",
        default="",
        metavar="FILE",
        help="mapping.json of an evaluation: show names of classes, not numbers of clusters",
    )
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="score of things, 0..1 (0.5)"
    )
    parser.add_argument(
        "--opts", nargs="*", action="extend", default=[], metavar="KEY VALUE",
        help="settings that win over the file, as those without --opts",
    )  # fmt: skip
    parser.add_argument("settings", nargs="*", metavar="KEY VALUE", help="the same")
    return parser


def _refuse(parser: argparse.ArgumentParser, *options: str) -> None:
    for option in options:
        parser.add_argument(
            option, action=_Refused, nargs="?", const=REFUSED[option], help=argparse.SUPPRESS
        )
