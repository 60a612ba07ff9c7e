"""What a finished training was made with, compared with what a command asks for, in words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from u2seg.config.words import override_pairs

EVALUATION_KEYS = ("U2SEG.EVAL.", "U2SEG.DATA.EVAL_")
"""Beginnings of the keys that change no weight of a trained model."""
OPTIONS = {
    "OUTPUT_DIR": "--output-dir",
    "U2SEG.DATA.LABELS": "--output-dir",
    "U2SEG.DATA.EVAL_ROOT": "--truth",
}
"""Keys that ``u2seg run`` sets from its options."""
Changes = dict[str, tuple[str, str]]


def changed_opts(then: Sequence[str], now: Sequence[str]) -> Changes:
    """Return the keys that two lists of ``KEY VALUE`` set differently, with both values.

    Args:
        then: Of the folder. The last value of a key counts.
        now: Of this command.

    Returns:
        Key -> (value then, value now), in the order they were given; empty text = not set.

    Examples:
        >>> changed_opts(["SEED", "1", "SOLVER.MAX_ITER", "9"], ["SEED", "2"])
        {'SEED': ('1', '2'), 'SOLVER.MAX_ITER': ('9', '')}
        >>> changed_opts(["SEED", "1", "SEED", "2"], ["SEED", "2"])
        {}
    """
    known, asked = _pairs(then), _pairs(now)
    both = {key: (known.get(key, ""), asked.get(key, "")) for key in {**known, **asked}}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def only_evaluation(changes: Changes) -> bool:
    """Return whether something changed, and nothing that a training depends on.

    Examples:
        >>> only_evaluation({"U2SEG.EVAL.PROTOCOL": ("", "cups")})
        True
        >>> only_evaluation({"U2SEG.EVAL.PROTOCOL": ("", "cups"), "SEED": ("", "2")})
        False
    """
    return bool(changes) and all(key.startswith(EVALUATION_KEYS) for key in changes)


def changes_in_words(changes: Changes) -> str:
    """Return what changed, options and keys as a user types them.

    Examples:
        >>> changes_in_words({"SEED": ("1", "2"), "U2SEG.DATA.EVAL_ROOT": ("", "coco")})
        'SEED (1, now 2), --truth (not given, now coco)'
    """
    told = {
        OPTIONS.get(key, key): f"({then or 'not given'}, now {now or 'not given'})"
        for key, (then, now) in changes.items()
    }
    return ", ".join(f"{name} {values}" for name, values in told.items())


def evaluation_command(config_file: str, opts: Sequence[str], weights: Path, output: Path) -> str:
    """Return the command that evaluates a trained model with other settings, beside its training.

    Args:
        config_file: Of the training.
        opts: ``KEY VALUE`` of the evaluation; the last value of a key counts.
        weights: The checkpoint.
        output: ``OUTPUT_DIR`` of the evaluation.

    Examples:
        >>> opts = ["SOLVER.STEPS", "(1,)", "OUTPUT_DIR", "run/train"]
        >>> evaluation_command("a.yaml", opts, Path("m.pth"), Path("run/other"))[:58]
        'u2seg train --config-file a.yaml --eval-only SOLVER.STEPS '
        >>> evaluation_command("a.yaml", opts, Path("m.pth"), Path("run/other"))[58:]
        "'(1,)' OUTPUT_DIR run/other MODEL.WEIGHTS m.pth"
    """
    pairs = {**_pairs(opts), "OUTPUT_DIR": str(output), "MODEL.WEIGHTS": str(weights)}
    words = ["u2seg", "train", "--config-file", config_file, "--eval-only"]
    return shlex.join([*words, *(word for pair in pairs.items() for word in pair)])


def _pairs(opts: Any) -> dict[str, str]:
    words = [str(word) for word in opts] if isinstance(opts, list | tuple) else []
    return dict(override_pairs(words))
