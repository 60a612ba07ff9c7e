"""Training and scoring from Python: ``u2seg.train`` and ``u2seg.evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from u2seg.config.words import words_of
from u2seg.errors import UserError
from u2seg.io.jsonfile import read_json_object


def train(
    labels: Path | str,
    output: Path | str,
    config: Path | str = "u2seg/quickstart",
    settings: Mapping[str, Any] | Sequence[str] = (),
    *,
    truth: Path | str = "",
    resume: bool = False,
    gpus: int = 1,
) -> dict[str, Any]:
    """Train a student on labels and evaluate it; return its metrics.

    Args:
        labels: Label folder, as ``u2seg.label`` leaves it.
        output: Folder of checkpoints, log and evaluation; made if missing.
        config: YAML settings, or the name of a config that comes along.
        settings: What to change, as for ``u2seg.label``.
        truth: Data set with ground truth to evaluate on; empty = the labels themselves.
        resume: Go on from the last checkpoint in ``output``.
        gpus: Processes, each with a GPU; 1 also without one.

    Returns:
        The metrics, also in ``<output>/evaluation/metrics.json``.

    Raises:
        UserError: for bad settings, missing data, or an output folder that holds another run.
        StageError: if training fails half-way.
    """
    from u2seg.engine.run import launch_run
    from u2seg.workflows.recipe import training_arguments

    words = [*words_of(settings), "U2SEG.DATA.LABELS", str(labels), "OUTPUT_DIR", str(output)]
    words += ["U2SEG.DATA.EVAL_ROOT", str(truth)] if truth else []
    launch_run(training_arguments(str(config), words, resume=resume, num_gpus=gpus))
    return read_json_object(Path(output) / "evaluation" / "metrics.json")


def evaluate(  # noqa: PLR0913 - all but two have a default
    predictions: Path | str,
    truth: Path | str | Sequence[Path | str],
    output: Path | str = "",
    config: Path | str = "",
    settings: Mapping[str, Any] | Sequence[str] = (),
    *,
    dataset: str = "coco-panoptic",
    protocols: Sequence[str] = (),
    mapping: Path | str = "",
    workers: int = 1,
) -> dict[str, Any]:
    """Score predictions, or labels of the test images, against ground truth.

    Args:
        predictions: Result folder, or a label folder.
        truth: Files and folders of the ground truth, as its format has them.
        output: Folder for everything that is written; empty = that of the predictions.
        config: YAML settings (``U2SEG.EVAL`` is read); empty = defaults.
        settings: What to change, as for ``u2seg.label``.
        dataset: Format of the ground truth.
        protocols: Protocols to score, ``["all"]`` for every one; empty = ``U2SEG.EVAL.PROTOCOL``.
        mapping: ``mapping.json`` of an earlier evaluation instead of a new fit.
        workers: Processes that read files.

    Returns:
        The metrics, also in ``<output>/metrics.json``.

    Raises:
        UserError: if something is missing, garbled or does not fit.
    """
    from u2seg.evaluation.command import evaluate_files, evaluate_parser

    paths = [truth] if isinstance(truth, Path | str) else list(truth)
    args = evaluate_parser().parse_args(["--predictions", str(predictions)])
    args.truth, args.output, args.dataset = [str(path) for path in paths], str(output), dataset
    args.config_file, args.mapping = str(config) or None, str(mapping) or None
    args.protocol, args.workers, args.opts = list(protocols), workers, words_of(settings)
    if not args.truth:
        raise UserError("no ground truth was given")
    evaluate_files(args)
    return read_json_object(Path(output or predictions) / "metrics.json")
