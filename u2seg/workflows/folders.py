"""The folders of a whole run, from labels to report, and what in them is built on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """What a whole run leaves below its output folder.

    Args:
        root: The output folder.
        number: The round of self-training, 0 = the first training.
    """

    root: Path
    number: int = 0

    @property
    def home(self) -> Path:
        """Where the round keeps its labels and its training."""
        return self.root / "rounds" / str(self.number) if self.number else self.root

    @property
    def labels(self) -> Path:
        """Pseudo-labels of all stages."""
        return self.home / "labels"

    @property
    def train(self) -> Path:
        """Checkpoints, losses, evaluation."""
        return self.home / "train"

    @property
    def evaluation(self) -> Path:
        """Predictions of the trained model on the test images, and their metrics."""
        return self.train / "evaluation"

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
    """Return which folders to remove so that a round's labels, or only its training, start anew.

    Args:
        folders: Of the round.
        labels: Make its labels anew too.
    """
    root, number = folders.root, folders.number
    later = [root / "rounds"]
    if number:
        found = sorted(int(p.name) for p in later[0].glob("*") if p.name.isdecimal())
        later = [later[0] / str(n) for n in found if n > number]
    first = [folders.labels] if labels else []
    begun = [*first, folders.train, *([] if number else [folders.untrained]), *later]
    named = " and ".join(str(path) for path in begun if path.exists())
    return f"Choose another --output-dir, or remove {named} and run the same command again"


def rounds_left_out(folders: Folders, rounds: int) -> str:
    """Return what to say if an earlier command made more rounds than this one; else ""."""
    folder = Folders(folders.root, 1).home.parent
    made = 0
    while Folders(folders.root, made + 1).final_model.is_file():
        made += 1
    if made <= rounds:
        return ""
    return (
        f"{folder} holds {made} rounds of self-training, and this command asks for --rounds "
        f"{rounds}: rounds.json, the report and the predictions will show model "
        f"{rounds}. The same command with --rounds {made} brings them back"
    )
