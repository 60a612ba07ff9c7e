"""A run of a recipe: rounds of labels and a student, evaluated, predicted with and reported.

Every round makes labels (by the label stages, from a folder, or by the model of an earlier round
and a relabel rule) and trains a student on them, or ends with the labels alone. Each step resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from u2seg.compat import host_keys
from u2seg.config.load import load_settings
from u2seg.config.schema import Settings
from u2seg.config.words import words_of
from u2seg.errors import UserError
from u2seg.io.atomic import json_bytes, sha256_bytes, write_json
from u2seg.io.jsonfile import read_json, read_json_object
from u2seg.io.lock import LOCK, only_run
from u2seg.io.sources import open_source
from u2seg.io.yamlfile import load_yaml
from u2seg.workflows.folders import (
    Folders,
    anew,
    changed_opts,
    changes_in_words,
    evaluation_command,
    only_evaluation,
    rounds_left_out,
)
from u2seg.workflows.label import detector_of, report_labels

logger = logging.getLogger(__name__)
NOT_COMPARABLE = (
    "without ground truth each round is compared with its own labels: these figures cannot be "
    "compared between rounds"
)
USUAL_SCORE = 0.05
"""Least score of what a relabel rule sees, unless its settings have a ``least_score``."""
SHOWN = 24
"""Photographs that a run predicts for its pictures."""


def run(
    images: Path | str,
    output: Path | str,
    config: Path | str = "u2seg/quickstart",
    settings: Mapping[str, Any] | Sequence[str] = (),
    *,
    truth: Path | str = "",
    rounds: int | None = None,
    baseline: bool = False,
) -> str:
    """Label photographs, train on the labels, evaluate, predict, report; again: go on.

    Args:
        images: As for ``u2seg.label``.
        output: Folder of everything; made if missing.
        config: YAML settings of both halves, or the name of a config that comes along.
        settings: What to change in it, as for ``u2seg.label``.
        truth: Data set with ground truth to evaluate on; empty = the labels themselves.
        rounds: So many rounds of self-training after the first training (U2Seg's recipe);
            None = ``U2SEG.RECIPE.ROUNDS``.
        baseline: Evaluate the untrained model too.

    Returns:
        What was found, in words.

    Raises:
        UserError: for anything wrong in arguments or settings, or an output folder that holds a
            run with other ones or in which another is at work.
        StageError: if a stage fails.
    """
    if rounds is not None and rounds < 0:
        raise UserError(f"{rounds} rounds of self-training, expected a number >= 0")
    words = words_of(settings)
    recipe = list(load_settings(config, words, host_keys()).recipe.rounds)
    if rounds is not None:
        recipe = [recipe[0], *({} for _ in range(rounds))]
    made = _Run(Path(images), Path(output), str(config), str(truth), baseline, words, recipe)
    made.check()
    with only_run(made.root / LOCK):
        return made.go()


@dataclass(frozen=True)
class _Round:
    """A round; without a ``rule`` its labels come from the label stages or a folder."""

    folders: Folders
    words: list[str]
    settings: Settings
    rule: str
    trains: bool


@dataclass
class _Run:
    """A run: the arguments of ``run``, settings as words, and the mappings of its rounds."""

    images: Path
    root: Path
    config: str
    truth: str
    baseline: bool
    words: list[str]
    recipe: list[dict[str, Any]]

    @functools.cached_property
    def rounds(self) -> list[_Round]:
        """The rounds, every setting looked at."""
        return [self._round(number, each) for number, each in enumerate(self.recipe)]

    def _round(self, number: int, given: Mapping[str, Any]) -> _Round:
        words = [*words_of(given.get("settings", {})), *self.words]
        student = given.get("student", True)
        if isinstance(student, str):
            words = ["MODEL.META_ARCHITECTURE", student, *words]
        source = given.get("labels", "stages" if not number else "")
        rule = given.get("relabel") or ""
        settings = load_settings(self.config, words, host_keys())
        if not source:
            rule = rule or settings.rounds.rule
            settings = replace(settings, rounds=replace(settings.rounds, rule=rule))
        folder = None if source in ("", "stages") else Path(source)
        if folder is not None and not folder.is_dir():
            raise UserError(f"labels of round {number}: {folder} does not exist")
        folders = Folders(self.root, number, folder)
        return _Round(folders, words, settings, "" if source else rule, bool(student))

    def check(self) -> None:
        """Refuse before hours of work what could not be finished."""
        from u2seg.host.evaldata import register_eval
        from u2seg.host.setup import EVAL_NAME, build_cfg
        from u2seg.host.start import check_output
        from u2seg.pipeline.workspace import Workspace, check_apart

        settings = self.rounds[0].settings
        check_apart(open_source(self.images, settings.images.extensions), Workspace(self.root), ())
        if self.truth and not Path(self.truth).is_dir():
            raise UserError(f"the data set with ground truth, {self.truth}, does not exist")
        for number, each in enumerate(self.rounds):
            if each.rule and not any(before.trains for before in self.rounds[:number]):
                raise UserError(f"round {number} relabels, and no round before it trains a model")
            if each.trains:
                build_cfg(self.config, self.train_words(each), training=True)
        trains = any(each.trains for each in self.rounds)
        root = self.truth or (settings.data.eval_root if trains else "")
        if root:
            data = replace(settings.data, labels="", eval_root=root)
            check_output(self.root, replace(settings, data=data), "")
            register_eval(EVAL_NAME, replace(settings, data=data))

    def go(self) -> str:
        """Do what is not done; return what to tell."""
        from u2seg.visualization.report import report_line

        told: list[str] = []
        rows: list[dict[str, Any]] = []
        untrained: dict[str, Any] = {}
        teacher: tuple[_Round, list[str]] | None = None
        left_out = rounds_left_out(self.root, len(self.rounds) - 1)
        if left_out:
            logger.warning("%s", left_out)
        for number, each in enumerate(self.rounds):
            words = self.train_words(each)
            if each.rule and teacher:
                self.relabel(each, *teacher)
                words = self.later_words(each, teacher[0], words)
            else:
                self.label(each)
            metrics: dict[str, Any] = {}
            if each.trains:
                if self.baseline and not untrained:
                    self.check_same(each, words)
                    untrained = self.untrained(words)
                    told.append(_line("untrained model", untrained))
                metrics = self.train(each, words)
                teacher = each, words
                told.append(_line(f"round {number}" if number else "trained model", metrics))
            elif self.truth:
                metrics = self.score_labels(each)
                told.append(_line(f"labels of round {number}", metrics))
            rows.append(_summary(each.folders, metrics))
            write_json(self.rounds[0].folders.summary, {"rounds": rows}, indent=1)
        if teacher and _is_agreement(metrics):
            told += [NOT_COMPARABLE] if len(rows) > 1 else []
        if untrained:  # it and the first training were compared with the same labels
            told.append(_ratio(untrained, rows[0] if _is_agreement(metrics) else metrics))
        if teacher:
            self.predict(*teacher)
            told.append(f"pictures: {self.rounds[0].folders.predictions / 'pictures'}")
        report = report_line(
            self.root,
            f"u2seg: {self.root.name}",
            labels=self.rounds[0].folders.labels,
            train=teacher[0].folders.train if teacher else None,
            **self.scored(teacher),
            rounds=self.rounds[0].folders.summary,
        )
        return "\n".join([*told, report])

    def scored(self, teacher: tuple[_Round, list[str]] | None) -> dict[str, Path]:
        """Return where the report finds what the run ends with, and its figures."""
        last = self.rounds[-1]
        if not last.trains and self.truth:
            folders = last.folders
            return {
                "predictions": folders.test_labels / "panoptic",
                "results": folders.label_scores,
            }
        return {"predictions": teacher[0].folders.evaluation} if teacher else {}

    def train_words(self, each: _Round) -> list[str]:
        """Return the settings of a round's training."""
        words = [*each.words, "OUTPUT_DIR", str(each.folders.train)]
        words += ["U2SEG.DATA.LABELS", str(each.folders.labels)]
        return [*words, "U2SEG.DATA.EVAL_ROOT", self.truth] if self.truth else words

    def later_words(self, each: _Round, before: _Round, words: list[str]) -> list[str]:
        """Return the settings of a training on labels of the model before."""
        from u2seg.host.setup import build_cfg

        rounds = each.settings.rounds
        cfg = build_cfg(self.config, words)
        words = [*words, "SOLVER.BASE_LR", repr(cfg.SOLVER.BASE_LR * rounds.lr_factor)]
        words += ["U2SEG.TRAIN.DROPLOSS", str(rounds.droploss)]
        same = build_cfg(self.config, before.words).MODEL.META_ARCHITECTURE
        if rounds.start == "previous" and same == cfg.MODEL.META_ARCHITECTURE:
            # Its own model fits: heads are only skipped of the weights a user named.
            words += ["MODEL.WEIGHTS", str(before.folders.final_model)]
            words += ["U2SEG.TRAIN.SKIP_HEADS", "False"]
        return words

    def label(self, each: _Round) -> None:
        """Make the labels of a round by the label stages, unless they were given."""
        from u2seg.pipeline import generate_labels

        if each.folders.given:
            return
        with _own_advice(each.folders):
            detector = detector_of(each.settings)
            generate_labels(each.settings, self.images, each.folders.labels, detector=detector)
        logger.info("%s", report_labels(each.folders.labels))

    def relabel(self, each: _Round, by: _Round, words: list[str]) -> None:
        """Make the labels of a round by the model of one before."""
        from u2seg.inference.segmenter import Segmenter
        from u2seg.panoptic.relabel import RELABEL_RULES
        from u2seg.pipeline.relabel_stage import relabel_images

        rounds, folders = each.settings.rounds, each.folders
        averaged = rounds.weights == "ema" and by.folders.averaged_model.is_file()
        weights = by.folders.averaged_model if averaged else by.folders.final_model
        if not weights.is_file():
            raise UserError(f"{weights} does not exist: the training that makes it has not ended")
        own = RELABEL_RULES.own(rounds.rule, rounds)
        least = getattr(own, "least_score", USUAL_SCORE)
        teacher = Segmenter.from_config(self.config, weights, words, least, lazy=True)
        previous = self.rounds[folders.number - 1].folders.labels
        logger.info("round %d: %s relabels the photographs", folders.number, weights)
        with _own_advice(folders):
            relabel_images(
                each.settings, self.images, folders.labels, previous, teacher, folders.number
            )

    def train(self, each: _Round, words: list[str]) -> dict[str, Any]:
        """Train on the labels of a round, or go on with it, and evaluate; return the metrics."""
        from u2seg.engine.run import train_or_evaluate

        folders = each.folders
        self.check_same(each, words)
        resume = (folders.train / "last_checkpoint").is_file()
        finished = folders.final_model.is_file()
        start = time.perf_counter()
        metrics = train_or_evaluate(training_arguments(self.config, words, resume=resume))
        if not finished:  # a second evaluation of a trained model says nothing about its cost
            _add_seconds(folders.train / "timings.json", "train and evaluate", start)
        return metrics

    def check_same(self, each: _Round, words: list[str]) -> None:
        """Refuse to continue a training with other settings or labels; remember these."""
        folders = each.folders
        path = folders.home / "run.json"
        told = {
            "config": sha256_bytes(json_bytes(load_yaml(self.config))),
            "opts": words,
            "label_files": _labels_digest(folders),
        }
        if path.is_file() and (folders.train / "last_checkpoint").is_file():
            found = read_json_object(path)
            changes = changed_opts(found.get("opts", ()), words)
            other = [] if found.get("config") == told["config"] else [f"settings in {self.config}"]
            if found.get("label_files") != told["label_files"]:
                other.append(f"labels (made anew in {folders.labels})")
            if only_evaluation(changes) and not other:
                raise UserError(self.evaluate_instead(each, changes_in_words(changes)))
            if changes or other:
                named = ", ".join([*other, *([changes_in_words(changes)] if changes else [])])
                raise UserError(
                    f"{folders.train} was trained with other {named}; results are never mixed. "
                    f"{anew(folders, labels=False)}"
                )
        write_json(path, told, indent=1)

    def evaluate_instead(self, each: _Round, changed: str) -> str:
        """Return how to evaluate the last model of a run otherwise than the run did."""
        trained = [r for r in self.rounds if r.folders.final_model.is_file()]
        told = f"{each.folders.train} was trained and evaluated with other {changed}; "
        if not trained:
            return told + "finish it as it was begun, and evaluate it otherwise then"
        last = trained[-1].folders
        words, output = self.train_words(trained[-1]), last.home / "other-evaluation"
        command = evaluation_command(self.config, words, last.final_model, output)
        return f"{told}only the evaluation differs, so keep the training and evaluate it: {command}"

    def untrained(self, words: list[str]) -> dict[str, Any]:
        """Evaluate the model as it is before training, once."""
        folder = self.rounds[0].folders.untrained
        path = folder / "metrics.json"
        if not path.is_file():
            from u2seg.compat import prepare_host

            prepare_host()
            import torch

            from u2seg.engine.evaluate import evaluate
            from u2seg.host.setup import build_cfg
            from u2seg.modeling.student import build_student

            # Not setup_cfg: it would end the log of the training, and write a second config.yaml.
            cfg = build_cfg(self.config, [*words, "OUTPUT_DIR", str(folder)], register=True)
            torch.manual_seed(max(cfg.SEED, 0))
            model = build_student(cfg)
            model.eval()
            evaluate(cfg, model, folder)
        return read_json_object(path)

    def score_labels(self, each: _Round) -> dict[str, Any]:
        """Label the test images as the photographs were, and score the labels like predictions."""
        from u2seg.host.evaldata import truth_of
        from u2seg.pipeline import generate_labels

        made, folders = each.folders.labels, each.folders
        fitted = {
            "U2SEG.CLUSTERS.CENTROIDS": made / "clusters" / "centroids.npy",
            "U2SEG.SEMANTICS.MODEL": made / "semantics" / "model.safetensors",
        }
        known = words_of({key: path for key, path in fitted.items() if path.is_file()})
        words = [*each.words, *known, "U2SEG.DATA.EVAL_ROOT", self.truth]
        settings = load_settings(self.config, words, host_keys())
        images = Path(self.truth) / settings.data.eval_tree.images
        with _own_advice(folders):
            detector = detector_of(settings)
            generate_labels(settings, images, folders.test_labels, detector=detector)
        from u2seg.evaluation import evaluate_folder
        from u2seg.evaluation.truth.predictions import ResultFolders

        target = ResultFolders(folders.test_labels, folders.label_scores)
        return evaluate_folder(target, truth_of(settings), settings.eval)

    def predict(self, each: _Round, words: list[str]) -> None:
        """Run a round's model on some of the photographs."""
        from u2seg.inference.demo import segment_images
        from u2seg.labels import LabelFolder
        from u2seg.pipeline.ingest import spread

        labels = LabelFolder.open(each.folders.labels, each.settings.data.images)
        chosen = spread(list(labels.images), SHOWN)
        segment_images(
            argparse.Namespace(
                config_file=self.config,
                output=str(each.folders.predictions),
                weights=str(each.folders.final_model),
                confidence_threshold=0.3,
                opts=words,
            ),
            [(image.file_name, labels.photograph(image)) for image in chosen],
        )


@contextlib.contextmanager
def _own_advice(folders: Folders) -> Iterator[None]:
    """Say what can be done about labels of another run: here nothing is overwritten."""
    from u2seg.pipeline.stage import OtherRunError

    try:
        yield
    except OtherRunError as error:
        raise UserError(f"{error.finding}. {anew(folders, labels=True)}") from error


def training_arguments(config: str, words: list[str], **given: Any) -> argparse.Namespace:
    """Return the arguments of ``engine.run``, the usual ones but for those given."""
    from u2seg.host.arguments import train_parser

    args = train_parser().parse_args(["--config-file", config])
    vars(args).update(opts=words, **given)
    return args


def _summary(folders: Folders, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what ``rounds.json`` says of a round."""
    manifest = folders.labels / "panoptic" / "manifest.json"
    counts = read_json_object(manifest).get("counts", {}) if manifest.is_file() else {}
    blocks = {part: metrics.get(part) for part in ("panoptic", "semantic", "class_agnostic")}
    return {"round": folders.number, "labels": counts, **blocks}


def _labels_digest(folders: Folders) -> str:
    if folders.given:
        from u2seg.labels import LabelFolder

        return LabelFolder.open(folders.given).digest()
    # Not the manifest itself: it also names settings that the labels do not depend on.
    content = read_json_object(folders.labels / "manifest.json", "inputs", "files")
    return sha256_bytes(json_bytes([content["inputs"], content["files"]]))


def _add_seconds(path: Path, name: str, start: float) -> None:
    content = read_json(path) if path.is_file() else {}
    content[name] = round(content.get(name, 0.0) + time.perf_counter() - start, 2)
    write_json(path, content, indent=1)


def _line(name: str, metrics: dict[str, Any]) -> str:
    """Return a model's headline figures in words.

    Examples:
        >>> _line("model", {"panoptic": {"all": {"PQ": 12.34, "SQ": 50.0, "RQ": 24.0}}})
        'model: PQ 12.3, SQ 50.0, RQ 24.0'
        >>> _line("labels", {"panoptic": None, "semantic": {"mIoU": 7.0}})
        'labels: mIoU 7.0'
        >>> _line("model", {"protocol": {"reference": "pseudo-labels"}})
        'model: PQ 0.0 (agreement with the pseudo-labels, not accuracy)'
    """
    panoptic = (metrics.get("panoptic") or {}).get("all") or {}
    values = [f"{key} {panoptic[key]:.1f}" for key in ("PQ", "SQ", "RQ") if panoptic.get(key)]
    key, value = _headline(metrics)
    told = " (agreement with the pseudo-labels, not accuracy)" if _is_agreement(metrics) else ""
    return f"{name}: {', '.join(values) or f'{key} {value:.1f}'}{told}"


def _headline(metrics: dict[str, Any]) -> tuple[str, float]:
    """Return the name and the value of the figure that says most: PQ, or mIoU of stuff alone."""
    semantic = metrics.get("semantic") or {}
    if not metrics.get("panoptic") and semantic.get("mIoU") is not None:
        return "mIoU", float(semantic["mIoU"])
    return "PQ", float(((metrics.get("panoptic") or {}).get("all") or {}).get("PQ") or 0.0)


def _is_agreement(metrics: dict[str, Any]) -> bool:
    from u2seg.evaluation import PSEUDO_LABELS

    return bool(metrics.get("protocol", {}).get("reference") == PSEUDO_LABELS)


def _ratio(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return in words how much better the trained model is.

    Examples:
        >>> none, some = ({"panoptic": {"all": {"PQ": value}}} for value in (0.0, 12.5))
        >>> _ratio(none, some)
        'trained / untrained: PQ 12.5 against 0.0, so there is no ratio'
    """
    (_, low), (name, high) = _headline(before), _headline(after)
    if not low:
        return f"trained / untrained: {name} {high:.1f} against 0.0, so there is no ratio"
    return f"trained / untrained: {high / low:.1f} times the {name}"
