"""The table of commands: of each a parser and a function from arguments to the exit code.

Options mean the same everywhere: ``--output`` is where results go, ``--labels`` a folder of labels,
``--truth`` ground truth, ``--resume`` goes on. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2seg.config.arguments import filled, folder, new_parser
from u2seg.errors import UserError

Parser = argparse.ArgumentParser
Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """A command of ``u2seg``.

    Args:
        about: Its line in ``u2seg --help``.
        extras: Of the package, that a message names if a library is missing.
        parser: Makes its parser.
        run: Does the work and returns the exit code.
        parse: Reads its options; None = options and settings mixed.
    """

    about: str
    extras: str
    parser: Callable[[], Parser]
    run: Callable[[Arguments], int]
    parse: Callable[[Parser, Sequence[str]], Arguments] | None = None


LABEL = """\
examples:
  u2seg label --config-file u2seg/quickstart \\
      --images photos --output runs/labels
  ... --dry-run 8                      what will all of it cost?
  ... --stages masks                   one stage; the others later
  ... --workers 8                      processes on this machine; also ray, slurm: docs/scale.md
  ... --status                         how far is it?
  ... U2SEG.CLUSTERS.NUM_CLUSTERS 800  any setting

The same command again resumes where the last run ended. Exit codes: 0 done, 1 failed, 2 usage.
"""
MASKS = """\
examples:
  u2seg masks --config-file u2seg/quickstart --images photos --output runs/labels
  u2seg label ... the same later makes the other stages

As `u2seg label --stages masks`. Exit codes: 0 done, 1 failed, 2 usage.
"""


def label_parser(masks: bool = False) -> Parser:
    """Return the parser of ``label``, or of ``masks``."""
    about = (
        "Label a folder of photographs without any annotation: masks, clusters, stuff, panoptic."
    )
    if masks:
        about = "Propose masks of objects on a folder of photographs, without any annotation."
    p = new_parser(about, MASKS if masks else LABEL)
    p.add_argument("--config-file", metavar="YAML", help="settings (U2SEG node)")
    p.add_argument("--images", type=folder, metavar="PATH", help="folder, list file or .tar shards")
    _output(p, "labels", required=True)
    stages = argparse.SUPPRESS if masks else "comma-separated (all)"
    p.add_argument("--stages", default="masks" if masks else "", help=stages)
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
    return _settings(p)


def label(args: Arguments) -> int:
    """Run the label stages."""
    from u2seg.workflows import label as workflow

    if args.status:
        print(workflow.status(args.output))
        return 0
    if not args.config_file or not args.images:
        raise UserError("--config-file and --images are needed (not so with --status)")
    given: dict[str, Any] = {
        "images": args.images,
        "config": args.config_file,
        "settings": args.opts,
        "stages": [stage.strip() for stage in args.stages.split(",")] if args.stages else (),
        "overwrite": args.overwrite,
        "retry_failed": args.retry_failed,
        "executor": args.executor,
        "workers": args.workers,
        "executor_options": args.executor_options,
    }
    if args.dry_run:
        print(workflow.dry_run(args.output, args.dry_run, **given))
        return 0
    labels = workflow.label(output=args.output, **given)
    print(f"labels are in {labels}\n{workflow.report_labels(labels)}")
    return 0


def train_parser() -> Parser:
    """Return the parser of ``train``."""
    from u2seg.host import arguments

    p = arguments.train_parser()
    p.add_argument("--labels", metavar="DIR", help="labels to train on: U2SEG.DATA.LABELS")
    p.add_argument("--truth", metavar="DIR", help="data set to evaluate on: U2SEG.DATA.EVAL_ROOT")
    _output(p, "results: OUTPUT_DIR")
    return p


def train(args: Arguments) -> int:
    """Train or evaluate."""
    from u2seg.engine.run import launch_run

    keys = {"labels": "U2SEG.DATA.LABELS", "truth": "U2SEG.DATA.EVAL_ROOT", "output": "OUTPUT_DIR"}
    for name, key in keys.items():
        if getattr(args, name):
            args.opts += [key, str(getattr(args, name))]
    if args.skip_heads:
        args.opts += ["U2SEG.TRAIN.SKIP_HEADS", "True"]
    return launch_run(args)


def evaluate(args: Arguments) -> int:
    """Score a folder and print the tables."""
    from u2seg.evaluation.command import evaluate_files

    print(evaluate_files(args))
    from u2seg.visualization.report import report_line

    predictions = Path(args.predictions)
    results, training = Path(args.output or predictions), predictions.resolve().parent
    parts = {"predictions": predictions, "results": results}
    if (training / "config.yaml").is_file():  # it names the folder of the photographs
        parts["train"] = training
    print(report_line(results, f"Evaluation: {results.resolve().name}", **parts))
    return 0


def predict(args: Arguments) -> int:
    """Segment photographs."""
    from u2seg.inference.demo import run_demo

    args.opts = [*args.opts, *args.settings]
    return run_demo(args)


RUN = """\
examples:
  u2seg run --config-file u2seg/quickstart \\
      --images photos --output runs/mine
  ... --truth datasets/coco     evaluate on a COCO-panoptic data set instead of the pseudo-labels
  ... --baseline                evaluate the untrained model too
  ... --rounds 2                self-training: twice, the model relabels the photographs and is
                                trained on its labels (U2SEG.ROUNDS)
  ... SOLVER.MAX_ITER 2000      any setting

A config may name other rounds: U2SEG.RECIPE.ROUNDS. The same command again resumes. Exit codes: 0
done, 1 failed, 2 usage.
"""


def run_parser() -> Parser:
    """Return the parser of ``run``."""
    p = new_parser(
        "Everything: label photographs, train a model on the labels, evaluate, predict, report.",
        RUN,
    )
    p.add_argument("--config-file", required=True, metavar="YAML", help="settings of both halves")
    p.add_argument(
        "--images", required=True, type=folder, metavar="PATH", help="folder, list or .tar shards"
    )
    _output(p, "results", required=True)
    p.add_argument("--truth", type=folder, metavar="DIR", help="data set with truth to evaluate on")
    p.add_argument("--baseline", action="store_true", help="evaluate the untrained model too")
    p.add_argument(
        "--rounds", type=int, metavar="N",
        help="rounds of self-training (default: U2SEG.RECIPE.ROUNDS, usually none)",
    )  # fmt: skip
    p.add_argument("--resume", action="store_true", help="the default; kept for clarity")
    return _settings(p)


def run(args: Arguments) -> int:
    """Run everything."""
    from u2seg.workflows import recipe

    told = recipe.run(
        args.images,
        args.output,
        args.config_file,
        args.opts,
        truth=args.truth or "",
        rounds=args.rounds,
        baseline=args.baseline,
    )
    print(told)
    return 0


REPORT = """\
examples:
  u2seg report runs/mine                                   of u2seg run, label or train
  u2seg report runs/labels --train runs/train --output runs/report.html

A page of its own: no server, no network, no script. Exit codes: 0 done, 2 nothing to report.
"""


def report_parser() -> Parser:
    """Return the parser of ``report``."""
    p = new_parser("Write the report of a run anew, from the files that it left.", REPORT)
    p.add_argument("folder", type=folder, metavar="DIR", help="output folder of the run")
    p.add_argument("--labels", type=folder, metavar="DIR", help="labels (DIR or DIR/labels)")
    p.add_argument("--train", type=folder, metavar="DIR", help="training (DIR or DIR/train)")
    p.add_argument(
        "--predictions", type=folder, metavar="DIR",
        help="results of an evaluation (DIR or the evaluation folder of the training)",
    )  # fmt: skip
    p.add_argument("--output", type=folder, metavar="FILE", help="the page (DIR/report.html)")
    return p


def report(args: Arguments) -> int:
    """Write the page and print its path."""
    from u2seg.visualization.report import write_report
    from u2seg.workflows.folders import Folders

    root: Path = args.folder
    whole = Folders(root)
    labels = args.labels or _first("images.json", root, whole.labels)
    train = args.train or _first("config.yaml", root, whole.train)
    inside = [root, root / "evaluation", whole.evaluation]
    inside += [train / "evaluation"] if train else []
    predictions = args.predictions or _first("labelspace.json", *inside)
    if not (labels or train or predictions):
        raise UserError(f"{root} holds no labels, training or evaluation to report on")
    page = write_report(
        args.output or root / "report.html",
        labels=labels,
        train=train,
        predictions=predictions,
        title=f"u2seg: {root.resolve().name}",
        rounds=whole.summary if whole.summary.is_file() else None,
    )
    print(page)
    return 0


CONVERT = """\
examples:
  u2seg convert dino_resnet50_pretrain.pth weights/dino_RN50_pretrain_d2_format.pkl
  u2seg convert moco_v2_800ep_pretrain.pth.tar weights/moco_v2_R50.pkl --kind moco
  u2seg convert cocostuff27_vit_base_5.ckpt weights/stego_cocostuff27.safetensors --kind stego

Nothing in the input is executed. Exit codes: 0 done, 2 the file is not such a model.
"""


def convert_parser() -> Parser:
    """Return the parser of ``convert``."""
    p = new_parser(
        "Convert a pretrained ResNet of torchvision, timm, DINO or MoCo for MODEL.WEIGHTS, or a "
        "checkpoint\nof STEGO for U2SEG.SEMANTICS.MODEL.",
        CONVERT,
    )
    p.add_argument(
        "input", type=filled, metavar="INPUT",
        help="weight file: .pth, .pth.tar, .safetensors, .pkl",
    )  # fmt: skip
    p.add_argument(
        "output", type=filled, metavar="OUTPUT", help="file to write: .pkl or .pth; .safetensors"
    )
    p.add_argument(
        "--kind",
        choices=("auto", "torchvision", "dino", "moco", "timm", "stego"),
        default="auto",
        help="where the file is from (auto)",
    )
    return p


def convert(args: Arguments) -> int:
    """Convert a file."""
    if args.kind == "stego":
        from u2seg.semantics.convert import convert_stego

        print(convert_stego(args.input, args.output))
        return 0
    from u2seg.modeling.convert import convert_file

    print(convert_file(args.input, args.output, args.kind))
    return 0


CONFIGS = """\
examples:
  u2seg configs                              names and what each is for
  u2seg configs --copy mine                  all files, to change them
  u2seg configs --copy mine u2seg/quickstart one, and what it is based on
  u2seg label --config-file u2seg/quickstart ...
  u2seg label --config-file mine/quickstart/quickstart.yaml ...

Files that are there already are never written over.
"""


def configs_parser() -> Parser:
    """Return the parser of ``configs``."""
    p = new_parser("List the configs that come along, or copy them.", CONFIGS)
    p.add_argument("--copy", type=folder, metavar="DIR", help="copy them into this folder")
    p.add_argument("names", nargs="*", metavar="NAME", help="only these (all)")
    return p


def configs(args: Arguments) -> int:
    """List or copy."""
    from u2seg.io.packaged import config_names

    chosen = {name: _packaged(name) for name in args.names} or config_names()
    if args.copy:
        copy_configs(chosen.values(), args.copy)
        return 0
    width = max(map(len, chosen), default=0) + 2
    for name, path in chosen.items():
        headline = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"{name:<{width}}{headline}")
    return 0


def copy_configs(paths: Iterable[Path], target: Path) -> None:
    """Copy packaged configs and what they are based on; say which.

    Raises:
        UserError: if one of the files is there already; nothing is written then.
    """
    from u2seg.io.atomic import write_bytes
    from u2seg.io.packaged import config_folder
    from u2seg.io.yamlfile import base_of

    root = config_folder()
    files: dict[Path, Path] = {}
    for path in paths:
        step: Path | None = path
        while step is not None:
            files[target / step.resolve().relative_to(root.resolve())] = step
            step = base_of(step)
    there = next((file for file in files if file.exists()), None)
    if there is not None:
        raise UserError(f"{there} exists and is not written over: choose another --copy folder")
    for file, source in sorted(files.items()):
        write_bytes(file, source.read_bytes())
        print(file)


def _packaged(name: str) -> Path:
    """Return the file of a config that comes along; UserError if there is none of that name."""
    from u2seg.io.packaged import config_folder, config_path, name_hint

    path = config_path(name)
    if not (path.is_file() and path.resolve().is_relative_to(config_folder().resolve())):
        hint = name_hint(name) or "; `u2seg configs` lists them"
        raise UserError(f"{name} is not the name of a config that comes along{hint}")
    return path


DOCTOR = """\
examples:
  u2seg doctor
  u2seg doctor --install-detectron2                 the first route that works
  u2seg doctor --install-detectron2 --route index   no compiler, no git
  u2seg doctor --install-detectron2 --sdist detectron2_cdo-0.5.tar.gz   no network

Exit codes: 0 the label stages can run (Detectron2 is there), 1 not, 2 usage.
"""


def doctor_parser() -> Parser:
    """Return the parser of ``doctor``."""
    from u2seg.compat.install import add_options

    p = new_parser("Show what is installed, what works, and what to run for the rest.", DOCTOR)
    add_options(p)
    return p


def doctor(args: Arguments) -> int:
    """Print what works, or install the host."""
    module = "u2seg.compat.install" if args.install_detectron2 else "u2seg.doctor"
    body = importlib.import_module(module)
    code: int = body.install(args) if args.install_detectron2 else body.main()
    return code


def _output(p: Parser, what: str, *, required: bool = False) -> None:
    p.add_argument(
        "--output", "--output-dir", required=required, type=folder, metavar="DIR", help=what
    )


def _settings(p: Parser) -> Parser:
    p.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings to change")
    return p


def _later(module: str, name: str) -> Callable[..., Any]:
    """Return a function that is imported when it is called."""
    return lambda *args: getattr(importlib.import_module(module), name)(*args)


def _first(mark: str, *folders: Path) -> Path | None:
    """Return the first folder that holds a file of that name."""
    return next((folder for folder in folders if (folder / mark).is_file()), None)


LABELS = """\
examples:
  u2seg labels check runs/labels                   every file against every other, pixel by pixel
  u2seg labels export runs/labels --output DIR     as u2seg_annotations, for U2Seg's released code

Exit codes: 0 done, 1 failed, 2 usage, or a folder that is not sound.
"""


def labels_parser() -> Parser:
    """Return the parser of ``u2seg labels``."""
    p = new_parser("Check label folders, or hand them to other programs.", LABELS)
    p.add_argument("action", choices=("check", "export"))
    p.add_argument("folder", type=folder, help="output folder of u2seg label")
    p.add_argument("--output", type=folder, metavar="DIR", help="where an export goes")
    return p


def labels(args: Arguments) -> int:
    """Check or export a label folder."""
    from u2seg.labels.exchange import check_folder, export_published

    if args.action == "check":
        print(check_folder(args.folder))
    elif args.output is None:
        raise UserError("u2seg labels export needs --output DIR")
    else:
        print(f"labels are in {export_published(args.folder, args.output)}")
    return 0


BOTH = "labels,train"
EVALUATE = "u2seg.evaluation.command"
COMMANDS = {
    "label": Command(
        "label a folder of photographs without any annotation", "labels", label_parser, label
    ),
    "masks": Command(
        "only its first stage: masks of objects", "labels", lambda: label_parser(True), label
    ),
    "train": Command("train a model on labels, or evaluate one", BOTH, train_parser, train),
    "evaluate": Command(
        "score a folder of predictions against truth", "labels",
        _later(EVALUATE, "evaluate_parser"), evaluate, _later(EVALUATE, "parse_evaluate"),
    ),
    "predict": Command(
        "segment photographs with a trained model", BOTH,
        _later("u2seg.host.arguments", "demo_parser"), predict,
    ),
    "run": Command(
        "everything: label, train, evaluate, predict, report", BOTH, run_parser, run
    ),
    "labels": Command("check label folders, or export them", "labels", labels_parser, labels),
    "report": Command("write the report of a run anew", "labels", report_parser, report),
    "convert": Command(
        "convert a pretrained ResNet, or a checkpoint of STEGO", "train", convert_parser, convert
    ),
    "configs": Command(
        "list the configs that come along, or copy them", "", configs_parser, configs
    ),
    "doctor": Command(
        "what is installed, what works, what to run for the rest", "", doctor_parser, doctor
    ),
}  # fmt: skip
