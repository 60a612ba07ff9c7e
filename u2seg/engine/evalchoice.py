"""What ``--protocol`` and ``--mapping`` ask of an evaluation, checked before any work."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from u2seg.config.schema import Settings
from u2seg.engine.setup import label_space
from u2seg.errors import UserError
from u2seg.evaluation.files import GroundTruth, read_truth
from u2seg.evaluation.mapping import check_classes
from u2seg.evaluation.mapping_file import read_mapping, with_class_names
from u2seg.evaluation.protocols import expand_names, protocol_of
from u2seg.evaluation.truth import Truth


@dataclass(frozen=True)
class EvalChoice:
    """How an evaluation goes from clusters to classes.

    Args:
        mapping: ``mapping.json`` of an earlier evaluation; None = fit one.
        protocols: Names; empty = the one of the settings.
    """

    mapping: Path | None = None
    protocols: tuple[str, ...] = ()


def eval_choice(args: argparse.Namespace, settings: Settings) -> EvalChoice:
    """Return the choice of a command line.

    Args:
        args: ``eval_only``, ``mapping`` and ``protocol`` (names with commas); the latter two may
            be missing.
        settings: All settings.

    Raises:
        UserError: if one of the two options is given without ``--eval-only``; a name is unknown;
            a setting contradicts the protocol; or the mapping is of another model.
    """
    mapping, words = getattr(args, "mapping", ""), getattr(args, "protocol", "")
    if (mapping or words) and not args.eval_only:
        raise UserError(
            "--mapping and --protocol are for --eval-only: a training is evaluated by the "
            "protocol U2SEG.EVAL.PROTOCOL"
        )
    names = expand_names([words] if words else [])
    space = label_space(settings)
    for name in names or [settings.eval.protocol]:
        protocol_of(replace(settings.eval, protocol=name), space.num_things)
    if mapping:
        with_class_names(space, Path(mapping))
    return EvalChoice(Path(mapping) if mapping else None, tuple(names))


def check_mapped_classes(mapping: Path | None, truth: GroundTruth | Truth) -> None:
    """Refuse a mapping to other classes than those of the truth, before anything is predicted.

    Raises:
        UserError: if they differ, or a file is missing or garbled.
    """
    if mapping is not None:
        true_set = read_truth(truth) if isinstance(truth, GroundTruth) else truth
        check_classes(read_mapping(mapping), mapping, true_set)


def mapping_of_labels(settings: Settings) -> Path | None:
    """Return the ``mapping.json`` of the training labels, if they have one and it may be used.

    Labels of real classes (``tools/make_lowshot.py``) have one: the model's categories are known,
    whatever their ids, and nothing needs a fit.
    """
    path = Path(settings.data.labels) / "mapping.json"
    usable = settings.data.labels and not settings.eval.fit_share and path.is_file()
    return path if usable else None
