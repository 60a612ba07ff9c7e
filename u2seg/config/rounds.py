"""Settings of recipes: sections ``ROUNDS`` (self-training) and ``RECIPE``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from u2seg.config.section import Section, one_of, require, shares


@dataclass(frozen=True)
class AgreeSettings:
    """The relabel rule ``agree``.

    Defaults follow CutLER (commit cca0a27), which goes three rounds, where it has a value.

    Args:
        score: Score from which on a predicted thing becomes a label in the first round, 0..1
            (0.7).
        score_step: By how much each further round lowers ``score``, 0..1 (0.05).
        agreed_score: Score from which on a prediction becomes a label if a previous label agrees
            with it: the same cluster, and an IoU of at least ``agree_iou``; 0..1.
        agree_iou: See ``agreed_score``, 0..1.
        keep_iou: A previous thing stays if its IoU with every new one is below this, 0..1 (0.5).
        stuff_score: Probability from which on the model's stuff class replaces the label of a
            pixel, 0..1; 1 = the stuff labels stay.
    """

    score: float = 0.7
    score_step: float = 0.05
    agreed_score: float = 0.5
    agree_iou: float = 0.5
    keep_iou: float = 0.5
    stuff_score: float = 0.9

    def __post_init__(self) -> None:
        shares("ROUNDS.AGREE", self, *vars(self))

    def threshold(self, number: int) -> float:
        """Return the score that a prediction needs in round ``number`` (1, 2, ...).

        Examples:
            >>> [round(AgreeSettings().threshold(n), 2) for n in (1, 2, 3, 99)]
            [0.7, 0.65, 0.6, 0.5]

        It never falls below ``agreed_score``.
        """
        return max(self.score - (number - 1) * self.score_step, self.least_score)

    @property
    def least_score(self) -> float:
        """Score below which no prediction matters."""
        return min(self.score, self.agreed_score)


@dataclass(frozen=True)
class RoundSettings(Section):
    """How a trained model relabels the photographs, and how it is trained on its labels.

    Args:
        rule: How its predictions become labels: a registered relabel rule.
        weights: ``ema`` relabels with the moving average of the weights (``TRAIN.EMA_DECAY``),
            ``last`` with the weights themselves.
        start: Where the training of a round starts: ``previous`` (the model of the round before)
            or ``initial`` (``MODEL.WEIGHTS``).
        lr_factor: ``SOLVER.BASE_LR`` of the rounds over that of the first training, > 0 (0.5).
        droploss: Whether the rounds drop losses (``TRAIN.DROPLOSS``): what a model found is less
            incomplete than what was cut (off).
    """

    rule: str = "agree"
    weights: str = "ema"
    start: str = "previous"
    lr_factor: float = 0.5
    droploss: bool = False
    agree: AgreeSettings = AgreeSettings()

    def __post_init__(self) -> None:
        one_of("ROUNDS.WEIGHTS", self.weights, ("ema", "last"))
        one_of("ROUNDS.START", self.start, ("previous", "initial"))
        require(self.lr_factor > 0, "ROUNDS.LR_FACTOR", self.lr_factor, "> 0")


ROUND_KEYS = ("labels", "relabel", "student", "settings")


@dataclass(frozen=True)
class RecipeSettings:
    """The rounds of ``u2seg run``.

    Args:
        rounds: A mapping for each round, all of its keys may be absent: ``labels``: ``stages`` (the
            label stages; usual in the first round) or a label folder; ``relabel``: the rule by
            which the model of an earlier round makes the labels instead (usual in later rounds:
            that of ``ROUNDS``); ``student``: true, false (this round makes labels alone) or the
            ``MODEL.META_ARCHITECTURE`` to train; ``settings``: of this round, as in this file or
            as full keys.

    Raises:
        UserError: for another key, or a first round that would relabel.
    """

    rounds: tuple[dict[str, Any], ...] = ({},)

    def __post_init__(self) -> None:
        require(bool(self.rounds), "RECIPE.ROUNDS", self.rounds, "at least one round")
        for number, each in enumerate(self.rounds):
            name = f"RECIPE.ROUNDS, round {number}"
            unknown = sorted(set(each) - set(ROUND_KEYS))
            require(not unknown, name, ", ".join(unknown), f"keys among {', '.join(ROUND_KEYS)}")
            both = "labels" in each and "relabel" in each
            require(not both, name, each, "either labels or relabel")
            require(number > 0 or "relabel" not in each, name, each, "labels to start from")
            student = each.get("student", True)
            require(
                isinstance(student, bool | str), f"{name}, student", student, "a name or yes/no"
            )
            settings = each.get("settings", {})
            require(isinstance(settings, dict), f"{name}, settings", settings, "a mapping of keys")
