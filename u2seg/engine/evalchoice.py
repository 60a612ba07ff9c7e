"""What ``--protocol`` and ``--mapping`` ask of an evaluation, checked before any work."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from u2seg.config.schema import Settings
from u2seg.errors import UserError
from u2seg.evaluation.protocols.mapping import LEAVE_OUT, with_class_names
from u2seg.evaluation.protocols.plan import MappingFile, plan_evaluation
from u2seg.evaluation.protocols.rules import expand_names, protocol_of
from u2seg.evaluation.truth.base import Truth
from u2seg.evaluation.truth.predictions import PSEUDO_LABELS
from u2seg.host.setup import label_space


@dataclass(frozen=True)
class EvalChoice:
    """How an evaluation goes from clusters to classes.

    Args:
        mapping: ``mapping.json`` of an earlier evaluation; None = fit one.
        protocols: Names; empty = the one of the settings.
        instead: What to do to be rid of the mapping, for messages.
    """

    mapping: Path | None = None
    protocols: tuple[str, ...] = ()
    instead: str = LEAVE_OUT


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


def with_protocol_key(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options with the first of ``--protocol`` as ``U2SEG.EVAL.PROTOCOL`` too.

    What one key may be depends on the protocol, and keys are checked together.

    Args:
        args: From ``host.arguments.train_parser``.

    Raises:
        UserError: if a name is unknown.
    """
    if not (args.eval_only and args.protocol):
        return args
    opts = [*args.opts, "U2SEG.EVAL.PROTOCOL", expand_names([args.protocol])[0]]
    return argparse.Namespace(**{**vars(args), "opts": opts})


def check_choice(choice: EvalChoice, settings: Settings, truth: Truth) -> None:
    """Refuse an evaluation that its own rules would refuse, before anything is predicted.

    Args:
        choice: With the mapping of the labels, if it is used.
        settings: All settings.
        truth: What will be scored against.

    Raises:
        UserError: as ``plan_evaluation``.
    """
    space = label_space(settings)
    things, stuff = space.num_things, space.num_stuff
    clusters = tuple(range(1, things + 1)), tuple(range(things + 1, things + stuff + 1))
    mapping = MappingFile(choice.mapping, choice.instead) if choice.mapping else None
    plan_evaluation(truth, clusters, settings.eval, mapping, choice.protocols)


def with_mapping_of_labels(choice: EvalChoice, settings: Settings) -> EvalChoice:
    """Return a choice that uses the mapping of the training labels, if it asks for no other."""
    found = None if choice.mapping or choice.protocols else mapping_of_labels(settings)
    if found is None:
        return choice
    return EvalChoice(found, instead="remove that file (it came with U2SEG.DATA.LABELS)")


def own_labels(settings: Settings) -> str:
    """Return what to call the training labels where there is nothing else to compare with."""
    labels = Path(settings.data.labels)
    if (labels / "mapping.json").is_file():
        return f"real labels of {labels}, which the model was trained on"
    return PSEUDO_LABELS


def mapping_of_labels(settings: Settings) -> Path | None:
    """Return the ``mapping.json`` of the training labels, if they have one and it may be used.

    Labels of real classes (``tools/make_lowshot.py``) have one: the model's categories are known,
    whatever their ids, and nothing needs a fit.
    """
    path = Path(settings.data.labels) / "mapping.json"
    usable = settings.data.labels and not settings.eval.fit_share and path.is_file()
    return path if usable else None
