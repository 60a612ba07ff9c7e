"""The folders of a run, and what a finished training in them was made with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2seg.config.words import override_pairs

EVALUATION_KEYS = ("U2SEG.EVAL.", "U2SEG.DATA.EVAL_")
"""Beginnings of the keys that change no weight of a trained model."""
NAMES = {
    "OUTPUT_DIR": "output folder",
    "U2SEG.DATA.LABELS": "labels",
    "U2SEG.DATA.EVAL_ROOT": "ground truth",
}
"""What a run calls the keys that it sets itself."""
Changes = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Folders:
    """What a run leaves below its output folder.

    Args:
        root: The output folder.
        number: The round, 0 = the first.
        given: Labels that the round takes as they are; None = it makes its own.
    """

    root: Path
    number: int = 0
    given: Path | None = None

    @property
    def home(self) -> Path:
        """Where the round keeps its labels and its training."""
        return self.root / "rounds" / str(self.number) if self.number else self.root

    @property
    def labels(self) -> Path:
        """Pseudo-labels of all stages."""
        return self.given or self.home / "labels"

    @property
    def train(self) -> Path:
        """Checkpoints, losses, evaluation."""
        return self.home / "train"

    @property
    def evaluation(self) -> Path:
        """Predictions on the test images and their metrics."""
        return self.train / "evaluation"

    @property
    def test_labels(self) -> Path:
        """Labels of the test images, of a round that trains no model."""
        return self.home / "test-labels"

    @property
    def label_scores(self) -> Path:
        """Figures of ``test_labels``."""
        return self.home / "evaluation"

    @property
    def final_model(self) -> Path:
        """The checkpoint after the last iteration."""
        return self.train / "model_final.pth"

    @property
    def averaged_model(self) -> Path:
        """The moving average of the weights (``TRAIN.EMA_DECAY``)."""
        return self.train / "model_final_ema.pth"

    @property
    def untrained(self) -> Path:
        """The evaluation of the model before training."""
        return self.root / "untrained"

    @property
    def predictions(self) -> Path:
        """Pictures and files of the trained model on the photographs."""
        return self.root / "predictions"

    @property
    def summary(self) -> Path:
        """What each round changed in the labels, and its figures."""
        return self.root / "rounds.json"


def anew(folders: Folders, *, labels: bool) -> str:
    """Return which folders to remove so that a round's labels, or only its training, start anew."""
    root, number = folders.root, folders.number
    later = [root / "rounds"]
    if number:
        found = sorted(int(p.name) for p in later[0].glob("*") if p.name.isdecimal())
        later = [later[0] / str(n) for n in found if n > number]
    first = [folders.labels] if labels and not folders.given else []
    begun = [*first, folders.train, *([] if number else [folders.untrained]), *later]
    named = " and ".join(str(path) for path in begun if path.exists())
    return f"Choose another output folder, or remove {named} and run the same again"


def rounds_left_out(root: Path, rounds: int) -> str:
    """Return what to say if an earlier run made more rounds than this one; else ""."""
    made = 0
    while Folders(root, made + 1).final_model.is_file():
        made += 1
    if made <= rounds:
        return ""
    return (
        f"{root / 'rounds'} holds {made} rounds of self-training, and this run asks for {rounds}: "
        f"rounds.json, the report and the predictions will show model {rounds}. The same run with "
        f"{made} rounds brings them back"
    )


def changed_opts(then: Sequence[str], now: Sequence[str]) -> Changes:
    """Return the keys that two lists of ``KEY VALUE`` set differently: (value then, value now).

    The last value of a key counts; empty text = not set.

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
    """Return what changed.

    Examples:
        >>> changes_in_words({"SEED": ("1", "2"), "U2SEG.DATA.EVAL_ROOT": ("", "coco")})
        'SEED (1, now 2), ground truth (not given, now coco)'
    """
    return ", ".join(
        f"{NAMES.get(key, key)} ({then or 'not given'}, now {now or 'not given'})"
        for key, (then, now) in changes.items()
    )


def evaluation_command(config_file: str, opts: Sequence[str], weights: Path, output: Path) -> str:
    """Return the command that evaluates a trained model with other settings, beside its training.

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
